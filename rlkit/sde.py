"""Sampler steps of flow and epsilon models, with the log-prob of what they drew, in fp32 (fp64 stays).

Flow models: x_s = (1 - s) x0 + s e for sigma s from 1 (noise) to 0, velocity v = e - x0, dt = s_next - s < 0. Epsilon
models: x_t = sqrt(a) x0 + sqrt(1 - a) e for a = alphas_cumprod[t].

Papers: rectified flow, https://huggingface.co/papers/2209.03003; Flow-GRPO, https://huggingface.co/papers/2505.05470;
DanceGRPO, https://huggingface.co/papers/2505.07818; CPS, https://huggingface.co/papers/2509.05952; DDIM,
https://huggingface.co/papers/2010.02502, Eq. 12 and 16; DDPO, https://huggingface.co/papers/2305.13301. Their formulas
stand in the docstrings.

Flow-SDE and Dance-SDE keep the marginal of the ODE as steps get smaller; CPS does not at any number of steps: its noise
per step does not shrink with dt. Take it for clean pictures, not for the model's spread.

Deviations: a step of Flow-SDE or Dance-SDE to sigma 0 is the ODE's (the papers' code adds noise there, which stays in
the picture, and leaves the step out of training). Where nothing was drawn log_prob is NaN, never a number.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Samples = Float[Tensor, "batch *dims"]
PerSample = Float[Tensor, " batch"]
Level = float | Float[Tensor, "..."]  # one number, one a sample, or these with the dimensions of a sample
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class Step:
    """The next sample and the Gaussian it was drawn from."""

    sample: Samples
    """What was drawn, or the `next_sample` given; store it in this dtype: in bf16 ratios move by 3e-5 and more."""
    mean: Samples
    std: PerSample
    """Of one dimension, the size of the step included: g sqrt(-dt). 0 where the step is not random."""
    log_prob: PerSample
    """Mean (or sum) over all dimensions but the batch's, in nats; NaN where std is 0."""

    @property
    def random(self) -> Bool[Tensor, " batch"]:
        """The samples whose log_prob exists: the mask of every loss made from it."""
        return self.std > 0


# ---- steps of flow models -------------------------------------------------------------------------------------------


def ode_step(velocity: Samples, sample: Samples, sigma: Level, sigma_next: Level) -> Step:
    """Euler's step x + v dt; sigma may also rise, which inverts."""
    velocity, sample = _widen(velocity), _widen(sample)
    _check_levels("sigma", sigma, sigma_next)
    sigma, sigma_next = _spread(sigma, sample), _spread(sigma_next, sample)
    mean = sample + velocity * (sigma_next - sigma)
    return _step(mean, torch.zeros_like(sigma), mean, "mean")


def flow_sde_step(
    velocity: Samples,
    sample: Samples,
    sigma: Level,
    sigma_next: Level,
    *,
    noise: Samples | None = None,
    next_sample: Samples | None = None,
    eta: float = 0.7,
    sigma_max: float | None = None,
    reduction: Reduction = "mean",
) -> Step:
    """Flow-GRPO's SDE, mean x (1 + g^2 dt / (2 s)) + v (1 + g^2 (1 - s) / (2 s)) dt, std g sqrt(-dt), where
    g = eta sqrt(s / (1 - s)): noise is large early and fades.

    `sigma_max` is the schedule's sigmas[1]: it stands in for s = 1 in the denominator of g, and only there. Give
    `noise` to draw, or `next_sample` to evaluate what was drawn. Raises ValueError for levels that do not fall within
    [0, 1], and for s = 1 without `sigma_max`.
    """
    _check_levels("sigma", sigma, sigma_next, falling=True)
    level = _spread(sigma, _widen(sample))
    if bool((level == 1).any()) and not (sigma_max is not None and 0 < sigma_max < 1):
        raise ValueError(f"flow_sde_step: sigma is 1 and sigma_max is {sigma_max}, expected the schedule's sigmas[1].")
    below = level if sigma_max is None else torch.where(level == 1, sigma_max, level)
    diffusion = eta * (level / (1 - below)).sqrt()
    return _reverse_sde(velocity, sample, sigma, sigma_next, diffusion, noise, next_sample, reduction)


def dance_sde_step(
    velocity: Samples,
    sample: Samples,
    sigma: Level,
    sigma_next: Level,
    *,
    noise: Samples | None = None,
    next_sample: Samples | None = None,
    eta: float = 0.3,
    reduction: Reduction = "mean",
) -> Step:
    """DanceGRPO's SDE, mean x + (v + eta^2 (x - (1 - s) x0_hat) / (2 s^2)) dt, std eta sqrt(-dt): as flow_sde_step
    with g = eta throughout (0.3 for FLUX, 0.25 for HunyuanVideo)."""
    _check_levels("sigma", sigma, sigma_next, falling=True)
    return _reverse_sde(velocity, sample, sigma, sigma_next, eta, noise, next_sample, reduction)


def cps_step(
    velocity: Samples,
    sample: Samples,
    sigma: Level,
    sigma_next: Level,
    *,
    noise: Samples | None = None,
    next_sample: Samples | None = None,
    eta: float = 0.8,
    reduction: Reduction = "mean",
) -> Step:
    """Coefficients-preserving sampling: std = s_next sin(eta pi / 2), mean (1 - s_next) x0_hat + sqrt(s_next^2 - std^2)
    e_hat.

    Does not preserve the marginal (target std .400, exact velocity: .277, .307, .320 after 10, 40, 400 steps). Its
    `log_prob` is the paper's -(x' - mean)^2, not a density: ratios of it are on another scale than those of the SDEs,
    and so are clip ranges. eta = 0 is the ODE, eta = 1 draws all noise anew.
    """
    velocity, sample = _widen(velocity), _widen(sample)
    _check_levels("sigma", sigma, sigma_next, falling=True)
    sigma, sigma_next = _spread(sigma, sample), _spread(sigma_next, sample)
    std = sigma_next * math.sin(eta * math.pi / 2)
    kept = (sigma_next**2 - std**2).clamp(min=0).sqrt()
    mean = flow_x0(velocity, sample, sigma) * (1 - sigma_next) + flow_noise(velocity, sample, sigma) * kept
    drawn = _drawn(mean, std, noise, next_sample)
    error = _reduced((drawn.detach() - mean).square(), reduction)
    return Step(drawn, mean, std.flatten(), (-error).masked_fill(std.flatten() == 0, torch.nan))


def _reverse_sde(velocity, sample, sigma, sigma_next, diffusion, noise, next_sample, reduction) -> Step:
    """dx = (v + g^2 e_hat / (2 s)) dt + g dw, for -e_hat / s is the score: the marginals are those of the ODE."""
    velocity, sample = _widen(velocity), _widen(sample)
    sigma, sigma_next, g = (_spread(value, sample) for value in (sigma, sigma_next, diffusion))
    g = torch.where(sigma_next == 0, 0.0, g)
    dt = sigma_next - sigma
    mean = sample + (velocity + g**2 / (2 * sigma) * flow_noise(velocity, sample, sigma)) * dt
    std = g * (-dt).sqrt()
    return _step(mean, std, _drawn(mean, std, noise, next_sample), reduction)


# ---- epsilon models -------------------------------------------------------------------------------------------------


def ddim_step(
    epsilon: Samples,
    sample: Samples,
    alpha_cumprod: Level,
    alpha_cumprod_next: Level,
    *,
    noise: Samples | None = None,
    next_sample: Samples | None = None,
    eta: float = 1.0,
    reduction: Reduction = "mean",
) -> Step:
    """DDIM, Eq. 12, std = eta sqrt((1 - a') / (1 - a)) sqrt(1 - a / a') (Eq. 16): 0 is an ODE, 1 is DDPM (DDPO's).

    `alpha_cumprod_next` is the scheduler's final_alpha_cumprod in the last step; where that is 1, nothing is drawn.
    Raises ValueError for levels that do not rise within (0, 1].
    """
    epsilon, sample = _widen(epsilon), _widen(sample)
    _check_levels("alpha_cumprod", alpha_cumprod_next, alpha_cumprod, falling=True)
    a, a_next = _spread(alpha_cumprod, sample), _spread(alpha_cumprod_next, sample)
    if bool((a == 0).any()):
        raise ValueError("ddim_step: alpha_cumprod is 0 (zero terminal SNR), where epsilon says nothing of x0.")
    std = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)).sqrt()
    direction = (1 - a_next - std**2).clamp(min=0).sqrt() * epsilon
    mean = a_next.sqrt() * epsilon_x0(epsilon, sample, a) + direction
    return _step(mean, std, _drawn(mean, std, noise, next_sample), reduction)


# ---- divergence and conversions -------------------------------------------------------------------------------------


def gaussian_kl(mean: Samples, ref_mean: Samples, std: PerSample, reduction: Reduction = "mean") -> PerSample:
    """KL(N(mean, std^2) || N(ref_mean, std^2)) = |mean - ref_mean|^2 / (2 std^2), per dimension or summed, in nats.

    `std` is Step.std, with the |dt| that Flow-GRPO's code leaves out. NaN, without a gradient, where std is 0.
    """
    mean, ref_mean = _widen(mean), _widen(ref_mean)
    return _masked(_reduced((mean - ref_mean).square(), reduction) / (2 * _safe(std) ** 2), std)


def flow_sample(x0: Samples, noise: Samples, sigma: Level) -> Samples:
    """x_s = (1 - s) x0 + s e."""
    x0, noise = _widen(x0), _widen(noise)
    sigma = _spread(sigma, x0)
    return (1 - sigma) * x0 + sigma * noise


def flow_velocity(x0: Samples, noise: Samples) -> Samples:
    """The velocity a model is trained on, v = e - x0."""
    return _widen(noise) - _widen(x0)


def flow_x0(velocity: Samples, sample: Samples, sigma: Level) -> Samples:
    """The picture a velocity points at, x0 = x - s v."""
    sample = _widen(sample)
    return sample - _spread(sigma, sample) * _widen(velocity)


def flow_noise(velocity: Samples, sample: Samples, sigma: Level) -> Samples:
    """The noise a velocity comes from, e = x + (1 - s) v."""
    sample = _widen(sample)
    return sample + (1 - _spread(sigma, sample)) * _widen(velocity)


def epsilon_sample(x0: Samples, noise: Samples, alpha_cumprod: Level) -> Samples:
    """x_t = sqrt(a) x0 + sqrt(1 - a) e."""
    x0, noise = _widen(x0), _widen(noise)
    a = _spread(alpha_cumprod, x0)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def epsilon_x0(epsilon: Samples, sample: Samples, alpha_cumprod: Level) -> Samples:
    """x0 = (x - sqrt(1 - a) e) / sqrt(a)."""
    sample = _widen(sample)
    a = _spread(alpha_cumprod, sample)
    return (sample - (1 - a).sqrt() * _widen(epsilon)) / a.sqrt()


def epsilon_v(epsilon: Samples, sample: Samples, alpha_cumprod: Level) -> Samples:
    """diffusers' v_prediction, sqrt(a) e - sqrt(1 - a) x0; no flow's velocity."""
    a = _spread(alpha_cumprod, _widen(sample))
    return a.sqrt() * _widen(epsilon) - (1 - a).sqrt() * epsilon_x0(epsilon, sample, alpha_cumprod)


def v_epsilon(v: Samples, sample: Samples, alpha_cumprod: Level) -> Samples:
    """The epsilon of diffusers' v_prediction, sqrt(a) v + sqrt(1 - a) x."""
    sample = _widen(sample)
    a = _spread(alpha_cumprod, sample)
    return a.sqrt() * _widen(v) + (1 - a).sqrt() * sample


# ---- shared ---------------------------------------------------------------------------------------------------------


def _widen(values: Tensor) -> Tensor:
    """fp32: in bf16 a step is smaller than the rounding of the sample."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _spread(level: Level, sample: Samples) -> Tensor:
    """[batch, 1, ...] in the sample's dtype; what has that many dimensions already stays."""
    level = torch.as_tensor(level, dtype=sample.dtype, device=sample.device)
    if level.ndim == sample.ndim:
        return level
    if level.ndim > 1 or level.numel() not in (1, len(sample)):
        raise ValueError(f"a level has shape {tuple(level.shape)}, expected one number or {len(sample)}, one a sample.")
    return level.expand(len(sample)).reshape(-1, *[1] * (sample.ndim - 1))


def _check_levels(name: str, level: Level, level_next: Level, *, falling: bool = False) -> None:
    level, level_next = torch.as_tensor(level).cpu(), torch.as_tensor(level_next).cpu()
    low, high = min(level.min().item(), level_next.min().item()), max(level.max().item(), level_next.max().item())
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{name} is {low:.4g} to {high:.4g}, expected 0 to 1; timesteps of 0 to 1000 are no levels.")
    if falling and not bool((level_next < level).all()):
        raise ValueError(
            f"{name} goes from {level.tolist()} to {level_next.tolist()}, expected less noise after a step."
        )


def _drawn(mean: Samples, std: Tensor, noise: Samples | None, next_sample: Samples | None) -> Samples:
    if (noise is None) == (next_sample is None):
        found = "neither" if noise is None else "both"
        raise ValueError(f"{found} of noise and next_sample given, expected one: noise draws, next_sample evaluates.")
    return mean + std * _widen(noise) if next_sample is None else _widen(next_sample)


def _step(mean: Samples, std: Tensor, drawn: Samples, reduction: Reduction) -> Step:
    """With the Gaussian's log-density, always of the sample as stored: of the noise it would differ in the last bit."""
    std = std.flatten()
    squares = _reduced((drawn.detach() - mean).square(), "mean")
    log_prob = -squares / (2 * _safe(std) ** 2) - _safe(std).log() - math.log(2 * math.pi) / 2
    dims = 1 if reduction == "mean" else mean[0].numel()
    return Step(drawn, mean, std, _masked(log_prob * dims, std))


def _reduced(values: Samples, reduction: Reduction) -> PerSample:
    values = values.flatten(1)
    return values.mean(1) if reduction == "mean" else values.sum(1)


def _safe(std: PerSample) -> PerSample:
    """1 for 0: 0 / 0 has a NaN gradient even where its value is masked."""
    return torch.where(std > 0, std, 1.0)


def _masked(values: PerSample, std: PerSample) -> PerSample:
    return values.masked_fill(std == 0, torch.nan)
