"""GRPO's loss on the log-probs of sampled completions, one value a completion, in fp32 (fp64 stays).

Papers: GRPO, https://huggingface.co/papers/2402.03300; DAPO (token mean, epsilon_high),
https://huggingface.co/papers/2503.14476; Dr. GRPO, https://huggingface.co/papers/2503.20783; GSPO (one ratio a
completion), https://huggingface.co/papers/2507.18071. Names and formulas are those of TRL's GRPOTrainer.

Deviation: completions outside of `completion_mask` (no score, or a group without a difference) are left out of every
mean; TRL leaves them in as zeros. With all completions in, the mean of the values is TRL's loss.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlkit.losses.masking import widen
from rlkit.losses.policy import PolicyLoss

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo"]
SamplingMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
Tokens = Float[Tensor, "completions tokens"]
Weights = Float[Tensor, "completions #tokens"]
"""One for each token, or for each completion."""


def grpo_loss(
    log_probs: Tokens,
    old_log_probs: Tokens,
    advantages: Float[Tensor, " completions"],
    mask: Bool[Tensor, "completions tokens"],
    *,
    ref_log_probs: Tokens | None = None,
    completion_mask: Bool[Tensor, " completions"] | None = None,
    loss_type: LossType = "dapo",
    importance_sampling_level: Literal["token", "sequence"] = "token",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    max_completion_length: int | None = None,
    num_items_in_batch: float | None = None,
    importance_sampling_ratio: Weights | None = None,
) -> PolicyLoss:
    """-min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A) + beta KL a token, rho = exp(log_probs - old_log_probs).

    KL to the reference is Schulman's k3, exp(d) - d - 1 with d = ref_log_probs - log_probs. The mean of the returned
    losses over the completions that count is the loss, where tokens are averaged over

    grpo: each completion
    bnpo: these completions
    dr_grpo: max_completion_length of each completion
    dapo: the whole accumulated batch; `num_items_in_batch` are its tokens over its completions that count (default:
        those of these completions, so that it equals bnpo)

    `importance_sampling_ratio` weighs tokens that another engine drew (`sampling_ratio`), the KL not.

    Raises ValueError for an unknown name, for beta without a reference and for dr_grpo without its length.
    """
    if beta and ref_log_probs is None:
        raise ValueError(f"grpo_loss: beta is {beta}, which needs ref_log_probs.")
    counted = torch.ones_like(advantages, dtype=torch.bool) if completion_mask is None else completion_mask
    tokens = mask & counted[:, None]
    log_probs, old = _kept(tokens, log_probs), _kept(tokens, old_log_probs.detach())
    advantages = torch.where(counted, widen(advantages), 0.0)[:, None]
    lengths = tokens.sum(-1)
    log_ratio = log_probs - old
    if importance_sampling_level == "sequence":
        log_ratio = (log_ratio.sum(-1) / lengths.clamp(min=1))[:, None]
    elif importance_sampling_level != "token":
        raise ValueError(f"importance_sampling_level is {importance_sampling_level!r}, expected 'token' or 'sequence'.")
    ratio = log_ratio.exp()
    low, high = 1 - epsilon, 1 + (epsilon if epsilon_high is None else epsilon_high)
    per_token = -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages).expand_as(log_probs)
    if importance_sampling_ratio is not None:
        per_token = per_token * importance_sampling_ratio.detach()
    metrics = _clipped(ratio.detach(), advantages, low, high, tokens)
    if beta:
        gap = _kept(tokens, ref_log_probs.detach()) - log_probs
        kl = gap.exp() - gap - 1
        per_token = per_token + beta * kl
        metrics["kl"] = _token_mean(kl.detach(), tokens)
    summed = torch.where(tokens, per_token, 0.0).sum(-1)
    return PolicyLoss(
        summed / _divisor(loss_type, lengths, counted, max_completion_length, num_items_in_batch), metrics
    )


@torch.no_grad()
def sampling_ratio(
    log_probs: Tokens,
    sampling_log_probs: Tokens,
    mask: Bool[Tensor, "completions tokens"],
    *,
    mode: SamplingMode = "sequence_mask",
    clip_max: float = 3.0,
) -> Weights:
    """exp(log_probs - sampling_log_probs): training's probability of drawn tokens over that of the engine that drew
    them, per token, or as the product over a completion [completions, 1]. Above `clip_max` it is cut there (truncate)
    or 0 (mask). Truncated importance sampling as in TRL's GRPOTrainer; for behaviour, not for the policy's own ratio.
    """
    gap = torch.where(mask, widen(log_probs) - widen(sampling_log_probs), 0.0)
    if mode.startswith("sequence"):
        gap = gap.sum(-1, keepdim=True)
    ratio = gap.exp()
    return ratio.clamp(max=clip_max) if mode.endswith("truncate") else torch.where(ratio > clip_max, 0.0, ratio)


def _divisor(loss_type, lengths: Tensor, counted: Tensor, longest: int | None, items: float | None):
    """What a completion's summed loss is divided by, so that the mean over completions is the loss."""
    if loss_type == "grpo":
        return lengths.clamp(min=1)
    if loss_type == "dr_grpo":
        if longest is None:
            raise ValueError("grpo_loss: dr_grpo divides by max_completion_length, which is None.")
        return longest
    here = (lengths.sum() / counted.sum().clamp(min=1)).clamp(min=1)
    if loss_type == "bnpo":
        return here
    if loss_type == "dapo":
        return here if items is None else max(items, 1.0)
    raise ValueError(f"loss_type is {loss_type!r}, expected grpo, bnpo, dr_grpo or dapo.")


def _kept(tokens: Bool[Tensor, "completions tokens"], values: Tokens) -> Tokens:
    return torch.where(tokens, widen(values), 0.0)


def _token_mean(values: Tokens, tokens: Bool[Tensor, "completions tokens"]) -> Float[Tensor, ""]:
    return torch.where(tokens, values, 0.0).sum() / tokens.sum().clamp(min=1)


def _clipped(ratio: Tensor, advantages: Tensor, low: float, high: float, tokens: Tensor) -> dict[str, Tensor]:
    """Shares of tokens whose gradient the clip has stopped, by TRL's names."""
    below = ((ratio < low) & (advantages < 0)).expand_as(tokens).float()
    above = ((ratio > high) & (advantages > 0)).expand_as(tokens).float()
    return {
        "clip_ratio/low_mean": _token_mean(below, tokens),
        "clip_ratio/high_mean": _token_mean(above, tokens),
        "clip_ratio/region_mean": _token_mean(torch.maximum(below, above), tokens),
    }
