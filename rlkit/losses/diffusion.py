"""Losses of diffusion and flow models on pairs and rated samples made beforehand, in fp32 (fp64 stays).

All take errors, |prediction - target|^2 of a sample, whatever the model predicts (epsilon, v, x0 or velocity), and
return one value a sample. Policy and reference, chosen and rejected see one time and one noise (`noised_pair`).

Papers: Diffusion-DPO, https://huggingface.co/papers/2311.12908, Eq. 14; Flow-DPO (VideoAlign),
https://huggingface.co/papers/2501.13918; hinge, https://huggingface.co/papers/2305.10425; IPO,
https://huggingface.co/papers/2310.12036, Eq. 17; Diffusion-KTO, https://huggingface.co/papers/2404.04465; MaPO,
https://huggingface.co/papers/2406.06424; reward-weighted regression, https://huggingface.co/papers/2302.12192.

Deviations: the time T and weight w(t) of Diffusion-DPO are in `dpo_beta`, as in its code (5000 for mean errors). The
1/2 of that code stays (`PairErrors.margin`); diffusers' script for SD 1.5 leaves it out: its strength counts twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rlkit import sde
from rlkit.errors import RecipeError
from rlkit.losses.masking import Mask, PerSample, keep, widen

Samples = Float[Tensor, "batch *dims"]
Both = Float[Tensor, "two_batch *dims"]  # chosen, then rejected
Reduction = Literal["mean", "sum"]


# ---- errors and pairs -----------------------------------------------------------------------------------------------


def squared_error(prediction: Samples, target: Samples, reduction: Reduction = "mean") -> PerSample:
    """|prediction - target|^2, mean or sum over all dimensions but the batch's."""
    errors = (widen(prediction) - widen(target)).square().flatten(1)
    return errors.mean(1) if reduction == "mean" else errors.sum(1)


def equivalent_strength(strength: float, dims: int, *, source: Reduction, target: Reduction) -> float:
    """The strength (dpo_beta, kto_beta) that does with `target` errors what `strength` does with `source` errors.

    `dims` is the number of a sample's dimensions: 5000 with means over 65,536 is 0.076 with sums.
    """
    if source == target:
        return strength
    return strength / dims if target == "sum" else strength * dims


@dataclass(frozen=True)
class NoisedPair:
    """One batch of both sides, chosen first; `pair_errors` takes it apart again."""

    samples: Both
    targets: Both
    levels: Float[Tensor, " two_batch"]


def noised_pair(
    chosen: Samples,
    rejected: Samples,
    noise: Samples,
    level: PerSample,
    *,
    model: Literal["flow", "epsilon"] = "flow",
    rejected_noise: Samples | None = None,
) -> NoisedPair:
    """Both sides with one noise at one level (sigma, or alpha_cumprod of an epsilon model), and what to predict.

    Fresh noise of its own for each side would drown the margin; `rejected_noise` is for the noise that each was drawn
    from (PNAPO). Raises ValueError where shapes differ.
    """
    rejected_noise = noise if rejected_noise is None else rejected_noise
    if not chosen.shape == rejected.shape == noise.shape == rejected_noise.shape or level.shape != chosen.shape[:1]:
        found = ", ".join(str(tuple(value.shape)) for value in (chosen, rejected, noise, level))
        raise ValueError(
            f"chosen, rejected, noise, level have shapes {found}, expected one shape and one level a pair."
        )
    x0, both, levels = torch.cat([chosen, rejected]), torch.cat([noise, rejected_noise]), torch.cat([level, level])
    if model == "epsilon":
        return NoisedPair(sde.epsilon_sample(x0, both, levels), widen(both), levels)
    return NoisedPair(sde.flow_sample(x0, both, levels), sde.flow_velocity(x0, both), levels)


@dataclass(frozen=True)
class PairErrors:
    """Errors of both sides under policy and reference."""

    chosen: PerSample
    rejected: PerSample
    ref_chosen: PerSample
    ref_rejected: PerSample

    @property
    def margin(self) -> PerSample:
        """[(l - l_ref) of rejected - (l - l_ref) of chosen] / 2: half an error is minus a Gaussian's log-density."""
        return ((self.rejected - self.ref_rejected) - (self.chosen - self.ref_chosen)) / 2


def pair_errors(
    prediction: Both,
    ref_prediction: Both,
    targets: Both,
    reduction: Reduction = "mean",
) -> PairErrors:
    """Errors of a NoisedPair's two halves; the reference's carry no gradient."""
    chosen, rejected = squared_error(prediction, targets, reduction).chunk(2)
    ref_chosen, ref_rejected = squared_error(ref_prediction, targets, reduction).detach().chunk(2)
    return PairErrors(chosen, rejected, ref_chosen, ref_rejected)


def decided(
    chosen_rewards: PerSample, rejected_rewards: PerSample, *, min_margin: float = 0.0
) -> Bool[Tensor, " batch"]:
    """The pairs that say something: chosen beats rejected by more than min_margin, and both rewards exist.

    A tie as a label teaches noise. Report the share left out.
    """
    margin = widen(chosen_rewards) - widen(rejected_rewards)
    return margin.isfinite() & (margin > min_margin)


def gap_weights(chosen_rewards: PerSample, rejected_rewards: PerSample, mask: Bool[Tensor, " batch"]) -> PerSample:
    """A pair's reward gap over the mean gap of the valid pairs, 0 for the others."""
    chosen, rejected = keep(mask, chosen_rewards, rejected_rewards)
    gap = chosen - rejected
    return gap / (gap.sum() / mask.sum().clamp(min=1)).clamp(min=1e-12)


# ---- losses ---------------------------------------------------------------------------------------------------------


def sigmoid(pairs: PairErrors, *, dpo_beta: float) -> PerSample:
    """Diffusion-DPO's Eq. 14 and Flow-DPO, -log sigmoid(dpo_beta margin)."""
    return -F.logsigmoid(dpo_beta * pairs.margin)


def hinge(pairs: PairErrors, *, dpo_beta: float) -> PerSample:
    """SLiC's hinge on the same margin, max(0, 1 - dpo_beta margin)."""
    return torch.relu(1 - dpo_beta * pairs.margin)


def ipo(pairs: PairErrors, *, dpo_beta: float) -> PerSample:
    """IPO's Eq. 17, (margin - 1 / (2 dpo_beta))^2; the loss is on the scale of squared errors, so tiny."""
    return (pairs.margin - 1 / (2 * dpo_beta)) ** 2


def mapo(
    pairs: PairErrors, *, mapo_weight: float = 0.1, mapo_scale: float = 1000.0, snr_value: float = 0.5
) -> PerSample:
    """MaPO, l_w - mapo_weight log sigmoid(mapo_scale (f(l_w) - f(l_l))), f(l) = s l / (exp(s l) - 1), s = snr_value.

    Needs no reference, and mean errors: with sums f is 0.
    """

    def share(errors: PerSample) -> PerSample:
        scaled = snr_value * errors
        safe = scaled.clamp(min=1e-6)  # below that f is 1 in fp32; exp(-x) instead of exp(x) cannot overflow
        return torch.where(scaled > 1e-6, safe * (-safe).exp() / -torch.expm1(-safe), 1 - scaled / 2)

    return pairs.chosen - mapo_weight * F.logsigmoid(mapo_scale * (share(pairs.chosen) - share(pairs.rejected)))


PAIRWISE = {"sigmoid": sigmoid, "hinge": hinge, "ipo": ipo}
NAMES = (*PAIRWISE, "mapo", "kto", "sft")


def kto(
    errors: PerSample,
    ref_errors: PerSample,
    desirable: Bool[Tensor, " batch"],
    *,
    kto_beta: float,
    kl_estimate: float | Float[Tensor, ""] = 0.0,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> PerSample:
    """Diffusion-KTO, 1 - sigmoid(+-kto_beta g), g = (l_ref - l) - kl_estimate, + for what people liked.

    `kl_estimate` is a running mean of `kto_kl`; no 1/2 here, as in the paper.
    """
    errors, ref_errors = widen(errors), widen(ref_errors)
    gain = kto_beta * (ref_errors - errors - kl_estimate)
    sign = torch.where(desirable, 1.0, -1.0).to(gain)
    return torch.where(desirable, desirable_weight, undesirable_weight) * (1 - torch.sigmoid(sign * gain))


def kto_kl(errors: PerSample, ref_errors: PerSample) -> Float[Tensor, ""]:
    """How much closer than the reference the policy is on this batch, at least 0, without a gradient."""
    return (widen(ref_errors) - widen(errors)).mean().clamp(min=0).detach()


def reward_weighted(
    errors: PerSample, rewards: PerSample, *, temperature: float = 1.0, max_weight: float | None = 20.0
) -> PerSample:
    """Reward-weighted regression, exp(r / temperature) l, the weight at most max_weight; standardise rewards first.

    Mask missing rewards: a NaN here makes the loss NaN.
    """
    weight = (widen(rewards) / temperature).exp()
    return (weight if max_weight is None else weight.clamp(max=max_weight)).detach() * widen(errors)


def pair_loss(
    pairs: PairErrors,
    *,
    types: Mapping[str, float],
    dpo_beta: float,
    kto_beta: float = 1000.0,
    kl_estimate: float | Float[Tensor, ""] = 0.0,
    mask: Mask = None,
    weights: PerSample | None = None,
) -> tuple[PerSample, dict[str, Tensor]]:
    """The weighted sum of `types` (name -> weight), 0 for pairs outside of `mask`, and TRL's metrics over valid pairs.

    `sft` is the chosen side's error: it keeps that side's likelihood from falling with the other's. `kto` takes the
    sides as a thumb up and a thumb down, and their mean. `weights` are one a pair, e.g. gap_weights. Raises RecipeError
    for an unknown loss.
    """
    unknown = [name for name in types if name not in NAMES]
    if unknown:
        raise RecipeError(f"loss.types names {', '.join(unknown)}; known are {', '.join(NAMES)}.")
    pairs = PairErrors(*keep(mask, pairs.chosen, pairs.rejected, pairs.ref_chosen, pairs.ref_rejected))
    loss = torch.zeros_like(pairs.chosen)
    for name, weight in types.items():
        if name == "sft":
            loss = loss + weight * pairs.chosen
        elif name == "mapo":
            loss = loss + weight * mapo(pairs)
        elif name == "kto":
            liked = torch.ones_like(pairs.chosen, dtype=torch.bool)
            options = {"kto_beta": kto_beta, "kl_estimate": kl_estimate}
            up = kto(pairs.chosen, pairs.ref_chosen, liked, **options)
            loss = loss + weight * (up + kto(pairs.rejected, pairs.ref_rejected, ~liked, **options)) / 2
        else:
            loss = loss + weight * PAIRWISE[name](pairs, dpo_beta=dpo_beta)
    (loss,) = keep(mask, loss if weights is None else loss * keep(mask, weights)[0])
    return loss, metrics(pairs, dpo_beta=dpo_beta, mask=mask)


def metrics(pairs: PairErrors, *, dpo_beta: float, mask: Mask = None) -> dict[str, Tensor]:
    """TRL's logged values over valid pairs; NaN where there are none. Equal rewards count as wrong."""
    real = torch.ones_like(pairs.chosen, dtype=torch.bool) if mask is None else mask
    chosen = (dpo_beta / 2 * (pairs.ref_chosen - pairs.chosen))[real].detach()
    rejected = (dpo_beta / 2 * (pairs.ref_rejected - pairs.rejected))[real].detach()
    return {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "rewards/accuracies": (chosen > rejected).float().mean(),
        "errors/chosen": pairs.chosen[real].detach().mean(),
        "errors/rejected": pairs.rejected[real].detach().mean(),
        "pairs/masked": (~real).float().mean(),
    }
