"""Colour saturation, a proxy that is easily hacked: a generator can raise it without end, and pictures get worse.

    score = load()
    score(prompts=[""], completions=[picture])    # -> [0.0] for grey, [1.0] for pure red

For showing what guards of training notice (recipes/hack_saturation.yaml); not a reward to train with.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image


def load(device: str = "cpu") -> Callable[..., list[float | None]]:
    """The reward function; it reads no prompt. Takes PIL images and uint8 arrays, frames too; None for all else."""

    def score(*, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
        found = []
        for one in completions:
            pixels = np.asarray(one.convert("RGB") if isinstance(one, Image.Image) else one)
            usable = pixels.dtype == np.uint8 and pixels.ndim >= 3 and pixels.shape[-1] == 3 and pixels.size > 0
            found.append(saturation(pixels) if usable else None)
        return found

    return score


def saturation(pixels: np.ndarray) -> float:
    """Mean of (largest - smallest channel) / 255 of uint8 RGB [..., 3]: 0 for grey, 1 for pure colours."""
    return float((pixels.max(-1).astype(np.float32) - pixels.min(-1)).mean() / 255)
