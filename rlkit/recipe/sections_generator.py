"""The keys of generators: `generation:`, how pictures are drawn, and one section per algorithm; see schema.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rlkit.recipe.marks import Between, OnDisk
from rlkit.recipe.units import Amount, Count, CountOrZero, Share


@dataclass(frozen=True)
class Generation:
    """For generators: the prompts, the size of pictures and how they are sampled."""

    prompts: Annotated[str | None, OnDisk("file")] = None
    """Text file with a prompt on each line; every fifth is held out, or fewer where evaluate.num_clips is less. null:
    the world's prompts, whose held-out ones are new combinations."""
    resolution: Count = 32
    """Side of the square pictures in pixels; train and evaluate at the size that will be used."""
    num_inference_steps: Count = 10
    """Steps of the sampler in rollouts; likelihood-free methods need few."""
    guidance_scale: Annotated[float, Between(1, 100)] = 1.0
    """Classifier-free guidance when measuring; 1 is none, and half the passes. Likelihood-free RL rolls out without
    it."""
    num_generations: Annotated[int, Between(2, 10**6)] = 8
    """Pictures per prompt in a rollout, the group that rewards are compared in; must divide
    train.per_device_train_batch_size * train.gradient_accumulation_steps."""
    eval_inference_steps: Count = 20
    """Steps of the sampler when measuring."""
    eval_samples: Count = 4
    """Pictures per held-out prompt; diversity is measured among them, and depends on how many they are."""
    gallery_prompts: CountOrZero = 8
    """Held-out prompts shown in samples/*.png, every system from the same seeds."""
    prompt_dropout: Share = 0.1
    """For `algorithm: diffusion_sft`: share of pictures trained without their prompt, which guidance needs later."""
    width: Annotated[int, Between(32, 1024)] = 96
    """With `model.init`: width of the fresh denoiser, a multiple of 32."""
    layers: Annotated[int, Between(1, 32)] = 4
    """With `model.init`: its blocks."""
    patch_size: Annotated[int, Between(1, 16)] = 4
    """With `model.init`: side in pixels of what is one token to it; time falls with its square."""


@dataclass(frozen=True)
class Nft:
    """For `algorithm: nft`: likelihood-free online RL (DiffusionNFT, AWM) of flow models."""

    form: Literal["nft", "awm"] = "nft"
    """The loss; both have one gradient at the behaviour policy."""
    nft_mix: Annotated[float, Between(0.001, 10)] = 1.0
    """How far the implicit policies stand from the behaviour policy; 0.1 is faster and less stable. awm has none."""
    weighting: Literal["uniform", "sigma", "sigma_squared", "adaptive", "ghuber"] = "adaptive"
    """Weight of errors by noise level."""
    ratio_clip: Annotated[float, Between(0, 10)] | None = None
    """awm: clip of its ratio around 1; null does not clip."""
    num_iterations: Count = 1
    """Optimiser steps per rollout, each with new noise on the same pictures."""
    advantage_std: Literal["group", "global", "none"] = "group"
    """What rewards are divided by after the group's mean was taken off."""
    advantage_clip: Annotated[float, Between(0.01, 1000)] = 5.0
    """Largest advantage."""
    min_spread: Amount = 0.0
    """Groups whose rewards lie no further apart than this are dropped and counted: the noise of the reward."""
    kl_weight: Amount = 1e-4
    """Weight of the squared distance to the reference's velocity."""
    old_decay: Share = 0.5
    """Most that the behaviour policy keeps of itself when it follows the policy after a rollout."""
    old_decay_slope: Amount = 0.001
    """It keeps min(old_decay, this * rollouts so far): at first it is the policy, later it lags behind."""
    ema_decay: Share = 0.9
    """Of the running average that is measured and saved, per optimiser step; raise it for long runs."""
