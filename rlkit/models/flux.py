"""FLUX.1: MMDiT with single-stream blocks, flow, CLIP's pooled output and T5; dev takes the guidance scale as an input.

Latents are [batch, channels, h, w] here as in every family; packing them into 2 x 2 patches and numbering the patches
happens around the denoiser, with the pipeline's own functions.
"""

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from rlkit.models import image_vae
from rlkit.models.image_vae import decode, encode_images  # noqa: F401  (this family's own)
from rlkit.models.stable_diffusion_3 import shift_by_tokens

PIPELINE = "FluxPipeline"
DENOISER = "transformer"
PREDICTION = "flow"
MEDIUM = "image"
# diffusers' train_dreambooth_lora_flux.py; the attn names are those of double and single blocks alike
LORA_TARGETS = ["attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0", "attn.add_k_proj", "attn.add_q_proj",
                "attn.add_v_proj", "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj",
                "ff_context.net.2"]  # fmt: skip
MAX_SEQUENCE_LENGTH = 512  # of T5, as in the pipeline's __call__


def takes_guidance(pipe) -> bool:
    """dev is guidance-distilled: it was trained with the scale as an input. schnell is not, and its CFG is plain."""
    return pipe.transformer.config.guidance_embeds


@torch.no_grad()
def encode_prompts(pipe, prompts: list[str | None], max_sequence_length: int | None = None) -> dict[str, Tensor]:
    """Embeddings of `prompts`, one row each; None is the unconditional prompt, here "". Worth caching.

    T5 sees `max_sequence_length` tokens, by default the pipeline's 512 or its tokenizer's limit if that is less; the
    padding is attended to, so training, sampling and stock `pipe(...)` must agree on it.
    """
    length = max_sequence_length or min(MAX_SEQUENCE_LENGTH, pipe.tokenizer_2.model_max_length)
    embeds, pooled, _ = pipe.encode_prompt(prompt=[prompt or "" for prompt in prompts], max_sequence_length=length)
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def latent_shape(pipe, height: int, width: int, num_frames: int = 1) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of a picture; raises ModelError for sizes that do not fit."""
    return image_vae.latent_shape(pipe, pipe.transformer.config.in_channels // 4, height, width, num_frames, multiple=2)


def set_timesteps(pipe, scheduler, num_inference_steps: int, shape: tuple[int, ...], device) -> None:
    """The pipeline's schedule for latents of `shape`: equal steps, shifted by resolution for dev."""
    sigmas = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
    scheduler.set_timesteps(sigmas=sigmas, device=device, **shift_arguments(pipe, scheduler, shape))
    scheduler.set_begin_index(0)


def shift_arguments(pipe, scheduler, shape: tuple[int, ...]) -> dict[str, float]:
    """{"mu": ...} where the scheduler shifts by resolution, else nothing."""
    return shift_by_tokens(scheduler, (shape[-2] // 2) * (shape[-1] // 2))


def predict(
    pipe,
    denoiser,
    latents: Float[Tensor, "batch channels h w"],
    timesteps: Num[Tensor, " batch"],
    text: dict[str, Tensor],
    guidance: float | None = None,
) -> Float[Tensor, "batch channels h w"]:
    """Velocity (noise - clean) in fp32. `timesteps` are the scheduler's, sigma * 1000, one per sample.

    `guidance` is the scale that a guidance-distilled model takes; others ignore it.
    """
    batch, channels, height, width = latents.shape
    embeds = text["prompt_embeds"].to(denoiser.dtype)
    takes = denoiser.config.guidance_embeds
    velocity = denoiser(
        hidden_states=pipe._pack_latents(latents.to(denoiser.dtype), batch, channels, height, width),
        timestep=timesteps / 1000,
        guidance=latents.new_full((batch,), guidance, dtype=torch.float32) if takes else None,
        pooled_projections=text["pooled_prompt_embeds"].to(denoiser.dtype),
        encoder_hidden_states=embeds,
        txt_ids=embeds.new_zeros(embeds.shape[1], 3),
        img_ids=pipe._prepare_latent_image_ids(batch, height // 2, width // 2, latents.device, embeds.dtype),
        return_dict=False,
    )[0]
    pixels = height * pipe.vae_scale_factor, width * pipe.vae_scale_factor
    return pipe._unpack_latents(velocity, *pixels, pipe.vae_scale_factor).float()
