"""How much neighbouring frames of a clip differ: steadiness as VBench measures it, or motion, its complement.

VBench (https://huggingface.co/papers/2311.17982) calls (255 - mean absolute difference) / 255 temporal flickering and
measures it on static scenes. Neither end is quality: a still picture is perfectly steady and flicker counts as motion,
so that both can be hacked. They are for checks of video pipelines, beside a judge that sees what moves.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np


def load(device: str = "cpu", *, measure: Literal["steadiness", "motion"] = "steadiness") -> Callable[..., Any]:
    """The reward function: `score(completions=[frames uint8 [T, H, W, 3], ...])`, in [0, 1]; None for fewer than two
    frames and for what are no frames. Raises ValueError for an unknown measure."""
    if measure not in ("steadiness", "motion"):
        raise ValueError(f"frame_change: measure is {measure!r}, expected steadiness or motion.")

    def score(*, completions: Sequence[Any], **_: Any) -> list[float | None]:
        changes = [change(np.asarray(one)) for one in completions]
        return [one if one is None or measure == "motion" else 1 - one for one in changes]

    return score


def change(frames: np.ndarray) -> float | None:
    """Mean absolute difference of neighbouring frames over 255."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) < 2:
        return None
    return float(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean() / 255)
