"""Rollouts: samples from prompts' embeddings, each from its own seed, through diffusers' schedulers or an SDE step.

A sample's noise comes from a generator of its own, so its seed gives the same sample whatever the batch around it, up
to how the device rounds matrix products of another shape: for the tiny pipelines, fp32 on a CPU with guidance 4, below
1e-5 of the largest latent (tested; 0.8e-6 measured).
Every rollout makes its scheduler anew from the pipeline's config, in fp32: no step counter survives, and the schedule,
shift included, is the one stock `pipe(...)` uses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor

from rlkit.errors import ModelError
from rlkit.models.generator import POLICY, Generator

Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""step(prediction, sample, level, level_next, noise) -> next sample; levels are 0-d, all else shaped like samples."""

BENT = ("shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


@dataclass
class Rollout:
    """Samples and all that is needed to walk their path again."""

    latents: Float[Tensor, "batch ..."]
    """Final samples, fp32."""
    noise: Float[Tensor, "batch ..."]
    """What each sample started from: N(0, 1) of its seed."""
    timesteps: Num[Tensor, " steps"]
    """On the scheduler's scale, as `Generator.predict` takes them."""
    levels: Float[Tensor, " steps+1"]
    """What a step is told: sigma of a flow model, alphas_cumprod of an epsilon model; the last is the samples' own."""
    trajectory: Float[Tensor, "steps+1 batch ..."] | None = None
    """Samples before each step, and the final ones."""


def rollout(
    generator: Generator,
    text: dict[str, Tensor],
    seeds: Sequence[int],
    *,
    height: int,
    width: int,
    num_frames: int = 1,
    num_inference_steps: int = 10,
    guidance_scale: float = 1.0,
    negative: dict[str, Tensor] | None = None,
    name: str = POLICY,
    step: Step | None = None,
    keep_trajectory: bool = False,
    grad_steps: int = 0,
) -> Rollout:
    """One sample per row of `text` and seed, by the policy or a companion.

    Without `step` the pipeline's own scheduler integrates; with it, `step` makes every move, with a fresh N(0, 1) of
    each sample's generator, and an epsilon model runs on DDIM's timesteps. The last `grad_steps` steps keep gradients
    (DRaFT, ReFL), the others none. Raises ModelError when seeds and rows differ in number, or sizes do not fit.
    """
    rows = len(next(iter(text.values())))
    if rows != len(seeds):
        raise ModelError(f"{len(seeds)} seeds for {rows} prompts; a rollout needs one seed per sample.")
    shape = generator.family.latent_shape(generator.pipe, height, width, num_frames)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = normal(generators, shape, generator.device)
    scheduler, levels = schedule(generator, num_inference_steps, shape, ddim=step is not None)
    timesteps = scheduler.timesteps
    options = step_options(generator, scheduler, generators)
    scaled = generator.family.PREDICTION == "epsilon" and step is None  # Euler keeps samples on another scale
    latents = noise * scheduler.init_noise_sigma if scaled else noise
    path = [latents]
    for index, timestep in enumerate(timesteps):
        if grad_steps and index == len(timesteps) - grad_steps:
            torch.clear_autocast_cache()  # weights cast under no_grad have no gradient
        with torch.set_grad_enabled(index >= len(timesteps) - grad_steps):
            inputs = scheduler.scale_model_input(latents, timestep) if scaled else latents
            prediction = generator.predict(
                inputs, timestep.expand(rows), text, guidance_scale=guidance_scale, negative=negative, name=name
            )
            if step is None:
                latents = scheduler.step(prediction, timestep, latents, **options, return_dict=False)[0]
            else:
                drawn = normal(generators, shape, generator.device)
                latents = step(prediction, latents, levels[index], levels[index + 1], drawn)
        if keep_trajectory:
            path.append(latents)
    return Rollout(latents, noise, timesteps, levels, torch.stack(path) if keep_trajectory else None)


def normal(generators: Sequence[torch.Generator], shape: tuple[int, ...], device) -> Float[Tensor, "batch ..."]:
    """N(0, 1) in fp32, sample by sample as diffusers' randn_tensor draws it for a list of CPU generators."""
    return torch.cat([torch.randn((1, *shape), generator=one) for one in generators]).to(device)


def schedule(generator: Generator, num_inference_steps: int, shape: tuple[int, ...], *, ddim: bool = False):
    """A fresh scheduler with its timesteps set for latents of `shape`, and the levels [steps + 1] (see Rollout)."""
    pipe, family = generator.pipe, generator.family
    kind = type(pipe.scheduler)
    if ddim and family.PREDICTION == "epsilon":
        from diffusers import DDIMScheduler

        kind = DDIMScheduler
    scheduler = kind.from_config(pipe.scheduler.config)
    family.set_timesteps(pipe, scheduler, num_inference_steps, shape, generator.device)
    if family.PREDICTION == "flow":
        return scheduler, scheduler.sigmas.to(generator.device, torch.float32)
    final = float(scheduler.final_alpha_cumprod) if ddim else 1.0
    levels = levels_at(generator, scheduler.timesteps)
    return scheduler, torch.cat([levels, levels.new_tensor([final])])


def levels_at(generator: Generator, timesteps: Tensor) -> Float[Tensor, " batch"]:
    """fp32 levels (see Rollout) of training timesteps: timesteps / 1000 for flow, alphas_cumprod[timesteps] else."""
    scheduler = generator.pipe.scheduler
    if generator.family.PREDICTION == "flow":
        return timesteps.float() / scheduler.config.num_train_timesteps
    return scheduler.alphas_cumprod.float().to(timesteps.device)[timesteps.long()]


def step_options(generator: Generator, scheduler, generators: list[torch.Generator]) -> dict:
    """Keyword arguments of scheduler.step: an ancestral sampler draws from each sample's own generator."""
    if generator.family.PREDICTION == "flow":
        return {}
    own, generator.pipe.scheduler = generator.pipe.scheduler, scheduler
    try:
        return generator.pipe.prepare_extra_step_kwargs(generators, 0.0)
    finally:
        generator.pipe.scheduler = own


def shifted(generator: Generator, uniform: Float[Tensor, " batch"], shape: tuple[int, ...]) -> Float[Tensor, " batch"]:
    """Training sigmas of a flow model: `uniform` in (0, 1) through the very shift its sampler uses.

    Raises ModelError for an epsilon model, whose timesteps are integers, and for schedules bent by more than a shift.
    """
    pipe, family, config = generator.pipe, generator.family, generator.pipe.scheduler.config
    if family.PREDICTION != "flow":
        raise ModelError(f"{family.PIPELINE} is an epsilon model: draw integer timesteps, it has no shift.")
    bent = [name for name in BENT if config.get(name)]
    if bent:
        raise ModelError(f"the scheduler sets {', '.join(bent)}, which training sigmas cannot follow; turn it off.")
    arguments = family.shift_arguments(pipe, pipe.scheduler, shape)
    if arguments:
        return pipe.scheduler.time_shift(arguments["mu"], 1.0, uniform)
    shift = config.get("shift", config.get("flow_shift", 1.0))
    return shift * uniform / (1 + (shift - 1) * uniform)


def training_times(
    generator: Generator, uniform: Float[Tensor, " batch"], shape: tuple[int, ...]
) -> tuple[Float[Tensor, " batch"], Num[Tensor, " batch"]]:
    """(levels, timesteps) to train at for `uniform` in (0, 1): sigmas shifted as the sampler shifts them, or an epsilon
    model's alphas_cumprod at even integer timesteps."""
    steps = generator.pipe.scheduler.config.num_train_timesteps
    if generator.family.PREDICTION == "flow":
        sigma = shifted(generator, uniform, shape)
        return sigma, sigma * steps
    timesteps = (uniform * steps).long()
    return levels_at(generator, timesteps), timesteps
