"""Pixels to latents and back through a pipeline's AutoencoderKL, as its own __call__ scales and shifts them."""

import torch
from jaxtyping import Float
from torch import Tensor

from rlkit.errors import ModelError


def latent_shape(
    pipe, channels: int, height: int, width: int, num_frames: int, *, multiple: int = 1
) -> tuple[int, int, int]:
    """(channels, height, width) of one picture's latents.

    Raises ModelError for more than one frame and for sizes that are no multiple of vae_scale_factor * `multiple`.
    """
    name = type(pipe).__name__
    if num_frames != 1:
        raise ModelError(f"num_frames is {num_frames}, but {name} makes pictures: use 1, or a video pipeline (Wan).")
    step = pipe.vae_scale_factor * multiple
    if height % step or width % step or min(height, width) < step:
        nearest = " x ".join(str(max(round(side / step), 1) * step) for side in (height, width))
        raise ModelError(
            f"{height} x {width} pixels do not divide by {step} as {name} needs; the nearest is {nearest}."
        )
    return channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor


@torch.no_grad()
def encode_images(pipe, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels h w"]:
    """fp32 latents of pixels in [-1, 1]: the mode of the posterior, so that cached latents do not depend on a seed."""
    vae = pipe.vae
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode().float()
    mean, std = _mean_std(vae, latents)
    return (latents - mean) / std


def decode(pipe, latents: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch 3 height width"]:
    """fp32 pixels, nominally in [-1, 1] and not clamped; gradients flow."""
    vae = pipe.vae
    mean, std = _mean_std(vae, latents)
    return vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0].float()


def _mean_std(vae, latents: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Raw latents are `scaled * std + mean`; some SDXL variants state both per channel."""
    config = vae.config
    if config.latents_mean is not None and config.latents_std is not None:
        mean, std = (latents.new_tensor(list(v)).view(1, -1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return mean, std / config.scaling_factor
    return config.shift_factor or 0.0, 1.0 / config.scaling_factor
