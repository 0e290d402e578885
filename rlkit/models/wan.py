"""Wan 2.1 and 2.2 (TI2V-5B) text to video: a video DiT, flow, UMT5, and a VAE that is causal in time."""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from rlkit.errors import ModelError

PIPELINE = "WanPipeline"
DENOISER = "transformer"
PREDICTION = "flow"
MEDIUM = "video"
# All linear layers of a block, as musubi-tuner: its files, and diffusers' reader of them, know no smaller set.
LORA_TARGETS = ["to_k", "to_q", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]
MAX_SEQUENCE_LENGTH = 512  # as in the pipeline's __call__


def takes_guidance(pipe) -> bool:
    """Guidance is two forward passes (CFG), not an input."""
    return False


@torch.no_grad()
def encode_prompts(pipe, prompts: list[str | None], max_sequence_length: int | None = None) -> dict[str, Tensor]:
    """Embeddings of `prompts`, one row each, zero behind the prompt's end; None is the unconditional prompt, here "".

    `max_sequence_length` is by default the pipeline's 512 or its tokenizer's limit if that is less.
    """
    length = max_sequence_length or min(MAX_SEQUENCE_LENGTH, pipe.tokenizer.model_max_length)
    embeds, _ = pipe.encode_prompt(
        [prompt or "" for prompt in prompts], do_classifier_free_guidance=False, max_sequence_length=length
    )
    return {"prompt_embeds": embeds}


def latent_shape(pipe, height: int, width: int, num_frames: int = 1) -> tuple[int, int, int, int]:
    """(channels, time, height, width) of a clip's latents.

    Raises ModelError unless num_frames is 1 more than a multiple of the VAE's temporal scale (the first frame stands
    alone) and the sides are multiples of VAE scale times patch. (Stock pipe(...) rounds instead, with a warning.)
    """
    every, spatial = pipe.vae_scale_factor_temporal, pipe.vae_scale_factor_spatial
    if num_frames < 1 or num_frames % every != 1 % every:
        nearest = max(round((num_frames - 1) / every), 0) * every + 1
        raise ModelError(f"num_frames is {num_frames}; {PIPELINE} needs a multiple of {every} plus 1, e.g. {nearest}.")
    config = pipe.transformer.config
    # Stock pipe(...) refuses what does not divide by 16, too.
    steps = [max(spatial * patch, 16) for patch in config.patch_size[1:]]
    if height % steps[0] or width % steps[1] or height < steps[0] or width < steps[1]:
        nearest = " x ".join(str(max(round(n / s), 1) * s) for n, s in zip((height, width), steps, strict=True))
        raise ModelError(
            f"{height} x {width} pixels do not divide by {steps[0]} x {steps[1]} as {PIPELINE} needs; the nearest is "
            f"{nearest}."
        )
    return config.in_channels, (num_frames - 1) // every + 1, height // spatial, width // spatial


def set_timesteps(pipe, scheduler, num_inference_steps: int, shape: tuple[int, ...], device) -> None:
    """The pipeline's schedule; its shift is fixed (flow_shift 3 for 480p, 5 for 720p)."""
    scheduler.set_timesteps(num_inference_steps, device=device)
    scheduler.set_begin_index(0)


def shift_arguments(pipe, scheduler, shape: tuple[int, ...]) -> dict[str, float]:
    """The shift does not depend on resolution."""
    return {}


def predict(
    pipe,
    denoiser,
    latents: Float[Tensor, "batch channels time h w"],
    timesteps: Num[Tensor, " batch"],
    text: dict[str, Tensor],
    guidance: float | None = None,
) -> Float[Tensor, "batch channels time h w"]:
    """Velocity (noise - clean) in fp32. `timesteps` are the scheduler's, sigma * 1000, one per sample."""
    if pipe.config.expand_timesteps:  # Wan 2.2 TI2V-5B has one per patch; for text to video they are all the same
        patch = denoiser.config.patch_size
        patches = latents.shape[2] * (latents.shape[3] // patch[1]) * (latents.shape[4] // patch[2])
        timesteps = timesteps[:, None].expand(-1, patches)
    velocity = denoiser(
        hidden_states=latents.to(denoiser.dtype),
        timestep=timesteps,
        encoder_hidden_states=text["prompt_embeds"].to(denoiser.dtype),
        return_dict=False,
    )[0]
    return velocity.float()


@torch.no_grad()
def encode_images(pipe, pixels: Float[Tensor, "batch 3 frames height width"]) -> Float[Tensor, "batch channels t h w"]:
    """fp32 latents of clips in [-1, 1]: the mode of the posterior, so that cached latents do not depend on a seed."""
    latents = pipe.vae.encode(pixels.to(pipe.vae.device, pipe.vae.dtype)).latent_dist.mode().float()
    mean, std = _mean_std(pipe, latents)
    return (latents - mean) / std


def decode(pipe, latents: Float[Tensor, "batch channels t h w"]) -> Float[Tensor, "batch 3 frames height width"]:
    """fp32 pixels in [-1, 1] (this VAE clamps them); gradients flow."""
    mean, std = _mean_std(pipe, latents)
    return pipe.vae.decode((latents * std + mean).to(pipe.vae.dtype), return_dict=False)[0].float()


def _mean_std(pipe, latents: Tensor) -> tuple[Tensor, Tensor]:
    config = pipe.vae.config
    mean, std = (latents.new_tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
    return mean, std
