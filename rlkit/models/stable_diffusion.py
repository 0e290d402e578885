"""Stable Diffusion 1.x (and 2.x base): UNet, epsilon, one CLIP encoder."""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from rlkit.models import image_vae
from rlkit.models.image_vae import decode, encode_images  # noqa: F401  (this family's own)

PIPELINE = "StableDiffusionPipeline"
DENOISER = "unet"
PREDICTION = "epsilon"
MEDIUM = "image"
LORA_TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]  # diffusers' train_text_to_image_lora.py


def takes_guidance(pipe) -> bool:
    """Guidance is two forward passes (CFG), not an input."""
    return False


@torch.no_grad()
def encode_prompts(pipe, prompts: list[str | None]) -> dict[str, Tensor]:
    """Embeddings of `prompts`, one row each; None is the unconditional prompt, here "". Worth caching."""
    embeds, _ = pipe.encode_prompt([prompt or "" for prompt in prompts], pipe.unet.device, 1, False)
    return {"prompt_embeds": embeds}


def latent_shape(pipe, height: int, width: int, num_frames: int = 1) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of a picture; raises ModelError for sizes that do not fit."""
    return image_vae.latent_shape(
        pipe, pipe.unet.config.in_channels, height, width, num_frames, multiple=unet_multiple(pipe)
    )


def unet_multiple(pipe) -> int:
    """Latent sides must halve exactly at every level: what comes up again is added to what went down."""
    return 2 ** (len(pipe.unet.config.block_out_channels) - 1)


def set_timesteps(pipe, scheduler, num_inference_steps: int, shape: tuple[int, ...], device) -> None:
    """The pipeline's schedule; it does not depend on `shape`."""
    scheduler.set_timesteps(num_inference_steps, device=device)


def shift_arguments(pipe, scheduler, shape: tuple[int, ...]) -> dict[str, float]:
    """An epsilon model has no shift."""
    return {}


def predict(
    pipe,
    denoiser,
    latents: Float[Tensor, "batch channels h w"],
    timesteps: Num[Tensor, " batch"],
    text: dict[str, Tensor],
    guidance: float | None = None,
) -> Float[Tensor, "batch channels h w"]:
    """Noise in fp32. `latents` are sqrt(a) clean + sqrt(1 - a) noise, `timesteps` the integers of `a`, per sample."""
    noise = denoiser(
        latents.to(denoiser.dtype),
        timesteps,
        encoder_hidden_states=text["prompt_embeds"].to(denoiser.dtype),
        return_dict=False,
    )[0]
    return noise.float()
