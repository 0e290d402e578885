"""Pictures as the square inputs that published image rewards were trained on, from PIL and, differentiably, tensors.

Two libraries resize differently, and a checkpoint expects its own: PIL on 8-bit pixels (OpenAI's CLIP, ImageReward,
transformers), or torch on floats, which neither rounds nor clips (HPSv2). Centre crops round an odd rest to even
(torchvision) or down (transformers).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torchvision.transforms.functional as tv
from jaxtyping import Float
from PIL import Image
from torch import Tensor

Pixels = Float[Tensor, "batch 3 height width"]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Square:
    """How a picture becomes [3, size, size]: bicubic, by its shorter side and a centre crop, or squashed."""

    size: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    crop: Literal["round", "floor", "squash"] = "round"
    resize: Literal["pil", "torch"] = "pil"
    antialias: bool = True
    """Of torch's resize; PIL always does."""

    def images(self, images: Sequence[Image.Image]) -> Pixels:
        """Normalised pixels of RGB pictures of any sizes."""
        return torch.stack([self._image(one) for one in images])

    def tensors(self, pixels: Pixels) -> Pixels:
        """The same of values in [0, 1], differentiable. Against PIL it lacks the rounding to 8 bits."""
        check_pixels(pixels)
        return self._normalised(self._resized(pixels.float(), self.antialias))

    def _image(self, image: Image.Image) -> Tensor:
        if self.resize == "torch":
            return self._normalised(self._resized(tv.to_tensor(image)[None], self.antialias))[0]
        height, width = self._target(image.height, image.width)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return self._normalised(self._cropped(tv.to_tensor(image)[None]))[0]

    def _resized(self, pixels: Tensor, antialias: bool) -> Tensor:
        target = self._target(*pixels.shape[-2:])
        return self._cropped(tv.resize(pixels, list(target), tv.InterpolationMode.BICUBIC, antialias=antialias))

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.crop == "squash":
            return self.size, self.size
        short, long = min(height, width), max(height, width)
        longer = int(self.size * long / short)
        return (self.size, longer) if height <= width else (longer, self.size)

    def _cropped(self, pixels: Tensor) -> Tensor:
        rests = [side - self.size for side in pixels.shape[-2:]]
        top, left = [rest // 2 if self.crop == "floor" else round(rest / 2) for rest in rests]
        return pixels[..., top : top + self.size, left : left + self.size]

    def _normalised(self, pixels: Tensor) -> Tensor:
        return tv.normalize(pixels, self.mean, self.std)


def check_pixels(pixels: Tensor) -> None:
    """Raise ValueError unless [batch, 3, height, width] of floats in [0, 1]; a little outside is a generator's way."""
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
        raise ValueError(
            f"pixels are {pixels.dtype} {list(pixels.shape)}, expected floats in [0, 1], [batch, 3, height, width]."
        )
    low, high = pixels.detach().amin().item(), pixels.detach().amax().item()
    if low < -0.25 or high > 1.25:
        raise ValueError(
            f"pixels lie in [{low:.3g}, {high:.3g}], expected [0, 1]; rescale what is in [-1, 1] or 0-255."
        )
