"""Timestamps of frames as transformers' video processors read them."""

from collections.abc import Sequence

import numpy as np
from transformers.video_utils import VideoMetadata

CLOCK = 1000.0  # timestamps are frame numbers of a 1,000 fps clock: exact to the millisecond


def video_metadata(timestamps: Sequence[float] | np.ndarray) -> VideoMetadata:
    """Timestamps in seconds as transformers' processors read them.

    Qwen2.5-VL takes the mean spacing (`sampled_fps`), Qwen3-VL each frame's own time (`frames_indices / fps`).
    Raises ValueError for timestamps that do not grow.
    """
    times = np.asarray(timestamps, dtype=np.float64)
    steps = np.diff(times)
    if not np.isfinite(times).all() or (steps <= 0).any():
        raise ValueError(f"timestamps must be finite and grow from frame to frame, found {times.round(3).tolist()}.")
    spacing = float(steps.mean()) if len(steps) else 1.0
    indices = [round(time * CLOCK) for time in times]
    # sampled_fps = len(indices) / total_num_frames * fps must be 1 / spacing.
    return VideoMetadata(total_num_frames=len(times) * spacing * CLOCK, fps=CLOCK, frames_indices=indices)
