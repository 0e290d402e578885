"""Clips as Qwen2-VL reads them: which frames, at what size, cut into which patches; differentiable in the pixels.

The rules of qwen-vl-utils (https://github.com/QwenLM/Qwen2-VL, Apache-2.0) as VideoAlign's vision_process.py has them.
"""

import math
from typing import Any

import torch
import torchvision.transforms.functional as tv
from jaxtyping import Float
from torch import Tensor

Clip = Float[Tensor, "time 3 height width"]
FACTOR = 28
"""Sides of frames are multiples of it: two patches of 14 pixels become one token."""
MIN_PIXELS = 128 * 28 * 28
MIN_FRAMES, MAX_FRAMES = 4, 768


def frame_indices(total: int, *, video_fps: float, fps: float) -> list[int]:
    """An even number of evenly spaced frames of `total`, about `fps` a second, both ends included.

    At least 4 and at most 768, or as many as there are. Raises ValueError for fewer than 2 frames.
    """
    if total < 2:
        raise ValueError(f"a clip has {total} frame, expected at least 2.")
    most = min(MAX_FRAMES, total) // 2 * 2
    return _spread(total, round(min(max(total / video_fps * fps, MIN_FRAMES), most) / 2) * 2)


def frame_indices_of(total: int, count: int) -> list[int]:
    """`count` of `total` frames, evenly spaced, both ends included; `count` is rounded to even.

    Raises ValueError where that is below 2 or above `total`.
    """
    even = round(count / 2) * 2
    if not 2 <= even <= total:
        raise ValueError(f"{count} frames (rounded to {even}) of a clip of {total}, expected 2 to {total}.")
    return _spread(total, even)


def size(height: int, width: int, max_pixels: int) -> tuple[int, int]:
    """The height and width of a frame for the model, near its own shape. Raises ValueError beyond 200 : 1."""
    if max(height, width) / min(height, width) > 200:
        raise ValueError(f"frames are {height} x {width}, expected sides that differ by less than 200 times.")
    tall, wide = (max(FACTOR, round(side / FACTOR) * FACTOR) for side in (height, width))
    if tall * wide > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        return math.floor(height / scale / FACTOR) * FACTOR, math.floor(width / scale / FACTOR) * FACTOR
    if tall * wide < MIN_PIXELS:
        scale = math.sqrt(MIN_PIXELS / (height * width))
        return math.ceil(height * scale / FACTOR) * FACTOR, math.ceil(width * scale / FACTOR) * FACTOR
    return tall, wide


def resized(clip: Clip, max_pixels: int) -> Clip:
    """Bicubic, antialiased, to `size`; uint8 stays uint8 (rounded and clipped)."""
    return tv.resize(clip, list(size(*clip.shape[-2:], max_pixels)), tv.InterpolationMode.BICUBIC, antialias=True)


def patchify(clip: Clip, processor: Any) -> tuple[Float[Tensor, "patches values"], tuple[int, int, int]]:
    """Normalised patches of a clip in [0, 1] and their grid (time, height, width), in Qwen's order.

    `processor` is a Qwen2VLVideoProcessor, for its sizes, mean and deviation. Raises ValueError for an odd length.
    """
    patch, merge, pair = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    time, channels, height, width = clip.shape
    if time % pair:
        raise ValueError(f"a clip has {time} frames, expected a multiple of {pair}.")
    grid = (time // pair, height // patch, width // patch)
    clip = tv.normalize(clip, processor.image_mean, processor.image_std)
    blocks = clip.reshape(grid[0], pair, channels, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch)
    return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), -1), grid


def _spread(total: int, count: int) -> list[int]:
    return torch.linspace(0, total - 1, count).round().long().tolist()
