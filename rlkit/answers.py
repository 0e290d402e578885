"""From token log-probs to answers and pairs, in fp32; one clip has 1 + K answers, answer 0 is chosen.

Everything that weighs tokens weighs policy and reference alike, so that policy == reference gives margin 0 whatever
the options. Deviation: LD-DPO at K > 1 takes the shared length of each pair.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Each negative beside the chosen answer of its clip; log-probs are summed (or averaged) over tokens."""

    chosen: Float[Tensor, "batch k"]
    rejected: Float[Tensor, "batch k"]
    ref_chosen: Float[Tensor, "batch k"]
    ref_rejected: Float[Tensor, "batch k"]
    chosen_lengths: Int[Tensor, "batch k"]
    rejected_lengths: Int[Tensor, "batch k"]
    mask: Bool[Tensor, "batch k"]
    """False where a clip has fewer negatives than others of its batch."""

    @property
    def chosen_ratio(self) -> Float[Tensor, "batch k"]:
        """log p - log p_ref of the chosen answer."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> Float[Tensor, "batch k"]:
        """log p - log p_ref of the rejected answer."""
        return self.rejected - self.ref_rejected

    @property
    def margin(self) -> Float[Tensor, "batch k"]:
        """How much more than the reference the policy prefers the chosen answer, in nats."""
        return self.chosen_ratio - self.rejected_ratio


def token_weights(
    mask: Bool[Tensor, "batch answers tokens"],
    *,
    shared: Int[Tensor, "batch answers"] | None = None,
    ld_alpha: float | None = None,
    span_mask: Bool[Tensor, "batch answers tokens"] | None = None,
    span_weight: float = 1.0,
) -> Float[Tensor, "batch answers tokens"]:
    """Weight of each token: `ld_alpha` beyond the shared length (LD-DPO, https://huggingface.co/papers/2409.06411),
    `span_weight` inside edited spans (dense DPO of RLHF-V, https://huggingface.co/papers/2312.00849), 0 for padding."""
    weights = mask.float()
    if ld_alpha is not None and shared is not None:
        tail = mask.cumsum(-1) > shared[..., None]
        weights = torch.where(tail, weights * ld_alpha, weights)
    if span_mask is not None and span_weight != 1.0:
        weights = torch.where(span_mask, weights * span_weight, weights)
    return weights


def answer_log_probs(
    log_probs: Float[Tensor, "batch answers tokens"],
    weights: Float[Tensor, "batch answers tokens"],
    *,
    average_log_prob: bool = False,
) -> Float[Tensor, "batch answers"]:
    """Weighted sum over an answer's tokens, or weighted mean."""
    total = (log_probs.float() * weights).sum(-1)
    return total / weights.sum(-1).clamp(min=1e-8) if average_log_prob else total


def pair_up(
    log_probs: Float[Tensor, "batch answers tokens"],
    ref_log_probs: Float[Tensor, "batch answers tokens"],
    mask: Bool[Tensor, "batch answers tokens"],
    *,
    ld_alpha: float | None = None,
    span_mask: Bool[Tensor, "batch answers tokens"] | None = None,
    span_weight: float = 1.0,
    average_log_prob: bool = False,
) -> Pairs:
    """Pair every negative with the chosen answer; with `ld_alpha` the shared length is that of each pair."""
    lengths = mask.sum(-1)
    k = mask.shape[1] - 1
    chosen_lengths, rejected_lengths = lengths[:, :1].expand(-1, k), lengths[:, 1:]
    shared = torch.minimum(chosen_lengths, rejected_lengths)

    def side(values: Tensor, answers: slice) -> Tensor:
        spans = None if span_mask is None else span_mask[:, answers].expand(-1, k, -1)
        real = mask[:, answers].expand(-1, k, -1)
        weights = token_weights(real, shared=shared, ld_alpha=ld_alpha, span_mask=spans, span_weight=span_weight)
        return answer_log_probs(values[:, answers].expand(-1, k, -1), weights, average_log_prob=average_log_prob)

    return Pairs(
        chosen=side(log_probs, slice(0, 1)),
        rejected=side(log_probs, slice(1, None)),
        ref_chosen=side(ref_log_probs, slice(0, 1)),
        ref_rejected=side(ref_log_probs, slice(1, None)),
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
        mask=rejected_lengths > 0,
    )
