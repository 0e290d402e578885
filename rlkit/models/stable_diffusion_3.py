"""Stable Diffusion 3 and 3.5: MMDiT, flow, two CLIP encoders and an optional T5."""

import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from jaxtyping import Float, Num
from torch import Tensor

from rlkit.models import image_vae
from rlkit.models.image_vae import decode, encode_images  # noqa: F401  (this family's own)

PIPELINE = "StableDiffusion3Pipeline"
DENOISER = "transformer"
PREDICTION = "flow"
MEDIUM = "image"
# diffusers' train_dreambooth_lora_sd3.py
LORA_TARGETS = ["attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out",
                "attn.to_k", "attn.to_out.0", "attn.to_q", "attn.to_v"]  # fmt: skip
MAX_SEQUENCE_LENGTH = 256  # of T5, as in the pipeline's __call__


def takes_guidance(pipe) -> bool:
    """Guidance is two forward passes (CFG), not an input."""
    return False


@torch.no_grad()
def encode_prompts(pipe, prompts: list[str | None], max_sequence_length: int | None = None) -> dict[str, Tensor]:
    """Embeddings of `prompts`, one row each; None is the unconditional prompt, here "". Worth caching.

    T5 sees `max_sequence_length` tokens, by default the pipeline's 256 or its tokenizer's limit if that is less; the
    padding is attended to, so training, sampling and stock `pipe(...)` must agree on it.
    """
    embeds, _, pooled, _ = pipe.encode_prompt(
        prompt=[prompt or "" for prompt in prompts],
        prompt_2=None,
        prompt_3=None,
        do_classifier_free_guidance=False,
        max_sequence_length=max_sequence_length or sequence_length(pipe),
    )
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}


def sequence_length(pipe) -> int:
    """T5 tokens per prompt."""
    limit = MAX_SEQUENCE_LENGTH if pipe.tokenizer_3 is None else pipe.tokenizer_3.model_max_length
    return min(MAX_SEQUENCE_LENGTH, limit)


def latent_shape(pipe, height: int, width: int, num_frames: int = 1) -> tuple[int, int, int]:
    """(channels, height, width) of the latents of a picture; raises ModelError for sizes that do not fit."""
    config = pipe.transformer.config
    return image_vae.latent_shape(pipe, config.in_channels, height, width, num_frames, multiple=config.patch_size)


def set_timesteps(pipe, scheduler, num_inference_steps: int, shape: tuple[int, ...], device) -> None:
    """The pipeline's schedule for latents of `shape`, with its resolution-dependent shift if it has one."""
    scheduler.set_timesteps(num_inference_steps, device=device, **shift_arguments(pipe, scheduler, shape))


def shift_arguments(pipe, scheduler, shape: tuple[int, ...]) -> dict[str, float]:
    """{"mu": ...} where the scheduler shifts by resolution, else nothing."""
    patch = pipe.transformer.config.patch_size
    return shift_by_tokens(scheduler, (shape[-2] // patch) * (shape[-1] // patch))


def shift_by_tokens(scheduler, tokens: int) -> dict[str, float]:
    """diffusers' shift for so many latent patches; nothing where the scheduler has a fixed one. FLUX has it too."""
    config = scheduler.config
    if not config.get("use_dynamic_shifting"):
        return {}
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    return {"mu": calculate_shift(tokens, *(config[name] for name in names))}


def predict(
    pipe,
    denoiser,
    latents: Float[Tensor, "batch channels h w"],
    timesteps: Num[Tensor, " batch"],
    text: dict[str, Tensor],
    guidance: float | None = None,
) -> Float[Tensor, "batch channels h w"]:
    """Velocity (noise - clean) in fp32. `timesteps` are the scheduler's, sigma * 1000, one per sample."""
    velocity = denoiser(
        hidden_states=latents.to(denoiser.dtype),
        timestep=timesteps,
        encoder_hidden_states=text["prompt_embeds"].to(denoiser.dtype),
        pooled_projections=text["pooled_prompt_embeds"].to(denoiser.dtype),
        return_dict=False,
    )[0]
    return velocity.float()
