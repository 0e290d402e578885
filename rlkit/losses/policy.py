"""Losses of online RL for diffusion and flow models, one value a sample (or a step of it), in fp32 (fp64 stays).

Two kinds: on log-probs of sampled steps (`ppo_clip`, `guard_log_ratio`, `dppo`, `reference_kl`; rlkit/sde.py makes
them), and on velocities at noised samples, which need no trajectory (`nft`, also AWM). Terms for both hold the model
near its reference or near data. Behaviour (`old_*`) and reference (`ref_*`) are two models and never carry a gradient.

Papers: PPO, https://huggingface.co/papers/1707.06347, Eq. 7; Flow-GRPO, https://huggingface.co/papers/2505.05470;
GRPO-Guard, https://huggingface.co/papers/2510.22319, Eq. 8; Flow-DPPO, "Flow Divergence Proximal Policy Optimization";
DiffusionNFT, https://huggingface.co/papers/2509.16117; AWM, https://huggingface.co/papers/2509.25050; DDRL (data as
anchor), https://huggingface.co/papers/2512.04332; NormGuard, https://huggingface.co/papers/2606.27771.

Deviations: divergences are those of the Gaussians, step size included; Flow-GRPO's code leaves |dt| out, so that a
kl_weight of its recipes is ours over |dt|. `norm_guard` takes root mean squares: one strength for all sizes.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlkit import sde
from rlkit.errors import GuardError
from rlkit.losses.diffusion import squared_error
from rlkit.losses.masking import Mask, PerSample, keep, widen

Samples = Float[Tensor, "batch *dims"]
Weighting = Literal["uniform", "sigma", "sigma_squared", "adaptive", "ghuber"]


@dataclass(frozen=True)
class PolicyLoss:
    """A loss a sample, 0 outside of the mask, and what to log."""

    loss: PerSample
    metrics: dict[str, Tensor]


# ---- on log-probs of steps ------------------------------------------------------------------------------------------


def ppo_clip(
    log_ratio: PerSample,
    advantages: PerSample,
    *,
    clip_low: float,
    clip_high: float | None = None,
    mask: Mask = None,
    weights: PerSample | None = None,
) -> PolicyLoss:
    """max(-A rho, -A clip(rho, 1 - clip_low, 1 + clip_high)), rho = exp(log_ratio): PPO's Eq. 7.

    log_ratio is log_prob - old_log_prob. With log-probs averaged over dimensions clip ranges are 1e-6 to 1e-3. `mask`
    leaves out samples without an advantage and steps that were not random (Step.random). `weights` multiply the loss,
    e.g. 1 / |dt| for Guard. `clip_high` defaults to clip_low.
    """
    clip_high = clip_low if clip_high is None else clip_high
    log_ratio, advantages = keep(mask, log_ratio, advantages)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    low, high = (ratio < 1 - clip_low) & (advantages < 0), (ratio > 1 + clip_high) & (advantages > 0)
    metrics = _ratio_metrics(ratio, mask, {"clip_ratio/low": low, "clip_ratio/high": high})
    return PolicyLoss(_weighed(loss, mask, weights), metrics)


def guard_log_ratio(
    log_prob: PerSample, old_log_prob: PerSample, mean: Samples, old_mean: Samples, std: PerSample
) -> PerSample:
    """GRPO-Guard's Eq. 8, (log_prob - old_log_prob + |mean - old_mean|^2 / (2 std^2)) std, for mean log-probs.

    Without the second term ratios of mean log-probs lie below 1, and the upper clip never acts; `std` makes ratios of
    all steps alike. Give the result to ppo_clip with weights 1 / |dt|. std is Step.std; NaN where it is 0.
    """
    bias = sde.gaussian_kl(mean, old_mean.detach(), std)
    return (widen(log_prob) - widen(old_log_prob) + bias) * std


def dppo(
    log_ratio: PerSample,
    divergence: PerSample,
    advantages: PerSample,
    *,
    divergence_limit: float = 1e-5,
    mask: Mask = None,
    weights: PerSample | None = None,
) -> PolicyLoss:
    """Flow-DPPO: -A rho, 0 where the step's KL from the behaviour policy has reached the limit and A pushes further.

    `divergence` is sde.gaussian_kl(mean, old_mean, std), which decides but carries no gradient here; pushing further is
    A > 0 at rho > 1, or A < 0 at rho < 1. There is no clip of the ratio.
    """
    log_ratio, divergence, advantages = keep(mask, log_ratio, divergence.detach(), advantages)
    ratio = log_ratio.exp()
    further = ((advantages > 0) & (ratio > 1)) | ((advantages < 0) & (ratio < 1))
    blocked = (divergence >= divergence_limit) & further
    loss = torch.where(blocked, 0.0, -advantages * ratio)
    return PolicyLoss(_weighed(loss, mask, weights), _ratio_metrics(ratio, mask, {"dppo/blocked": blocked}))


def reference_kl(mean: Samples, ref_mean: Samples, std: PerSample, mask: Mask = None) -> PerSample:
    """KL of a step from the reference's, per dimension, in nats, to be added with kl_weight; 0 where std is 0.

    Its gradient goes through `mean`: under torch.no_grad the term would only be a number, so that raises ValueError.
    """
    if not torch.is_grad_enabled():
        raise ValueError("reference_kl: called under no_grad, where it trains nothing; use sde.gaussian_kl to log it.")
    random = std > 0 if mask is None else mask & (std > 0)
    return keep(random, sde.gaussian_kl(mean, ref_mean.detach(), std))[0]


def require_unit_ratio(log_ratio: PerSample, mask: Mask = None, *, tolerance: float = 0.0) -> None:
    """Raise GuardError unless every ratio is 1, as it must be before the first update.

    Sampling and training then differ in batch shape, autocast, dropout, attention backend, or in the dtype trajectories
    are stored in. Where shapes must differ, allow a tenth of the clip range.
    """
    found = (keep(mask, log_ratio)[0].exp() - 1).abs().max().item() if len(log_ratio) else 0.0
    if not found <= tolerance:
        raise GuardError(
            f"before the first update a ratio is off 1 by {found:.3g}, expected at most {tolerance:.3g}: sample and "
            "train with the same batch shape, autocast and attention, no dropout, and keep trajectories in fp32."
        )


# ---- on velocities at noised samples --------------------------------------------------------------------------------


def nft(
    velocity: Samples,
    old_velocity: Samples,
    target: Samples,
    sigma: PerSample,
    advantages: PerSample,
    *,
    form: Literal["nft", "awm"] = "nft",
    nft_mix: float = 1.0,
    weighting: Weighting = "adaptive",
    advantage_clip: float = 5.0,
    ratio_clip: float | None = None,
    mask: Mask = None,
    weights: PerSample | None = None,
) -> PolicyLoss:
    """Likelihood-free RL at x_sigma = (1 - sigma) x0 + sigma e of generated x0; `target` is e - x0.

    With E the weighted error (`weighted_error`), c = advantage_clip, A clipped to +-c, b = nft_mix, r = A / 2c + 1/2:

        nft:  c [r E(v_old + b (v - v_old)) + (1 - r) E(v_old - b (v - v_old))] / b
        awm:  -A exp(E(v_old) - E(v)), clipped as in PPO where ratio_clip is given

    At v = v_old both have the gradient A dE(v)/dv, whatever b is, for a fixed weighting; the published NFT loss without
    its factor c = 5 that of A / 5. Off it, nft is A (E(v) - E(v_old)) + (c b - A) w |v - v_old|^2 plus a constant, a
    linear surrogate held back by its own proximal term, where awm needs its clip. Small b: faster and less stable.
    """
    if form not in ("nft", "awm") or not nft_mix > 0:
        raise ValueError(f"nft: form is {form!r} and nft_mix {nft_mix}, expected 'nft' or 'awm', and above 0.")
    old = widen(old_velocity).detach()
    (advantages,) = keep(mask, advantages)
    advantages = advantages.clamp(-advantage_clip, advantage_clip)
    if form == "awm":
        log_prob, old_log_prob = (-weighted_error(v, target, sigma, weighting) for v in (velocity, old))
        wide = math.inf if ratio_clip is None else ratio_clip
        return ppo_clip(log_prob - old_log_prob, advantages, clip_low=wide, mask=mask, weights=weights)
    step = nft_mix * (widen(velocity) - old)
    better, worse = (weighted_error(v, target, sigma, weighting) for v in (old + step, old - step))
    better, worse = keep(mask, better, worse)
    share = advantages / (2 * advantage_clip) + 0.5
    loss = advantage_clip * (share * better + (1 - share) * worse) / nft_mix
    moved = squared_error(velocity, old).detach()
    return PolicyLoss(_weighed(loss, mask, weights), _means(mask, {"nft/moved": moved}))


def weighted_error(velocity: Samples, target: Samples, sigma: PerSample, weighting: Weighting) -> PerSample:
    """l = mean |v - v*|^2 by the noise level s: l, s l, s^2 l (the error of x0), or

    adaptive: s^2 l / max(mean |x0_hat - x0|, 1e-5), the divisor without a gradient (DiffusionNFT)
    ghuber: s ((l + 1e-10)^p - 1e-10^p) / p with p = 1/4 (AWM's code)
    """
    error, sigma = squared_error(velocity, target), widen(sigma)
    if weighting == "uniform":
        return error
    if weighting == "sigma":
        return sigma * error
    if weighting == "sigma_squared":
        return sigma**2 * error
    if weighting == "adaptive":
        distance = sigma * (widen(velocity) - widen(target)).detach().abs().flatten(1).mean(1)
        return sigma**2 * error / distance.clamp(min=1e-5)
    if weighting == "ghuber":
        return sigma * ((error + 1e-10) ** 0.25 - 1e-10**0.25) / 0.25
    raise ValueError(f"weighting is {weighting!r}, expected uniform, sigma, sigma_squared, adaptive or ghuber.")


# ---- terms ----------------------------------------------------------------------------------------------------------


def velocity_mse(velocity: Samples, ref_velocity: Samples) -> PerSample:
    """Mean squared distance to the reference's velocity, the KL of likelihood-free methods up to the noise level."""
    return squared_error(velocity, ref_velocity.detach())


def sft_anchor(velocity: Samples, target: Samples) -> PerSample:
    """Flow matching on real data (DDRL): forward KL to the data, where velocity_mse holds to the reference."""
    return squared_error(velocity, target)


def norm_guard(velocity: Samples, ref_velocity: Samples) -> PerSample:
    """NormGuard, max(0, |v| - |v_ref|)^2 of root mean squares: growing velocities over-saturate, shrinking is free."""
    return torch.relu(_rms(velocity) - _rms(ref_velocity).detach()) ** 2


def velocity_ratio(velocity: Samples, ref_velocity: Samples) -> PerSample:
    """|v| / |v_ref|, to be logged; 1.05 to 1.15 were seen under NFT, AWM and DPO, so calibrate alarms per model."""
    return (_rms(velocity) / _rms(ref_velocity)).detach()


def _rms(values: Samples) -> PerSample:
    """Safe at 0, where the root has no gradient."""
    return widen(values).square().flatten(1).mean(1).clamp(min=1e-12).sqrt()


# ---- shared ---------------------------------------------------------------------------------------------------------


def _weighed(loss: PerSample, mask: Mask, weights: PerSample | None) -> PerSample:
    if weights is not None:
        loss = loss * keep(mask, weights)[0]
    return loss if mask is None else torch.where(mask, loss, 0.0)


def _means(mask: Mask, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over valid cells, NaN where there are none."""
    return {name: (value if mask is None else value[mask]).float().mean() for name, value in values.items()}


def _ratio_metrics(ratio: PerSample, mask: Mask, events: dict[str, Bool[Tensor, " batch"]]) -> dict[str, Tensor]:
    ratio = ratio.detach()
    return _means(mask, {"ratio/mean": ratio, "ratio/below_one": ratio < 1, **events}) | {
        "ratio/max_deviation": (keep(mask, ratio - 1)[0]).abs().max()
    }
