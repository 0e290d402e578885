"""Stable Diffusion XL: UNet, epsilon, two CLIP encoders, and the picture's size as a condition."""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from rlkit.models import image_vae
from rlkit.models.image_vae import decode, encode_images  # noqa: F401  (this family's own)
from rlkit.models.stable_diffusion import LORA_TARGETS, shift_arguments, takes_guidance, unet_multiple  # noqa: F401

PIPELINE = "StableDiffusionXLPipeline"
DENOISER = "unet"
PREDICTION = "epsilon"
MEDIUM = "image"


@torch.no_grad()
def encode_prompts(pipe, prompts: list[str | None]) -> dict[str, Tensor]:
    """Embeddings of `prompts`, one row each. Worth caching.

    None is the unconditional prompt: zeros where the pipeline says force_zeros_for_empty_prompt (SDXL base does), else
    "". A prompt "" is encoded as any other.
    """
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompt=[prompt or "" for prompt in prompts], device=pipe.unet.device, do_classifier_free_guidance=False
    )
    if pipe.config.force_zeros_for_empty_prompt:
        given = torch.tensor([prompt is not None for prompt in prompts], device=embeds.device, dtype=embeds.dtype)
        embeds, pooled = embeds * given[:, None, None], pooled * given[:, None]
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def latent_shape(pipe, height: int, width: int, num_frames: int = 1) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of a picture; raises ModelError for sizes that do not fit."""
    return image_vae.latent_shape(
        pipe, pipe.unet.config.in_channels, height, width, num_frames, multiple=unet_multiple(pipe)
    )


def set_timesteps(pipe, scheduler, num_inference_steps: int, shape: tuple[int, ...], device) -> None:
    """The pipeline's schedule; it does not depend on `shape`."""
    scheduler.set_timesteps(num_inference_steps, device=device)


def predict(
    pipe,
    denoiser,
    latents: Float[Tensor, "batch channels h w"],
    timesteps: Num[Tensor, " batch"],
    text: dict[str, Tensor],
    guidance: float | None = None,
) -> Float[Tensor, "batch channels h w"]:
    """Noise in fp32, for a picture that was neither resized nor cropped: what pipe(...) asks for by default.

    `latents` are sqrt(a) clean + sqrt(1 - a) noise, `timesteps` the integers of `a`, one per sample.
    """
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
    time_ids = latents.new_tensor([height, width, 0, 0, height, width], dtype=denoiser.dtype)
    noise = denoiser(
        latents.to(denoiser.dtype),
        timesteps,
        encoder_hidden_states=text["prompt_embeds"].to(denoiser.dtype),
        added_cond_kwargs={
            "text_embeds": text["pooled_prompt_embeds"].to(denoiser.dtype),
            "time_ids": time_ids.expand(len(latents), -1),
        },
        return_dict=False,
    )[0]
    return noise.float()
