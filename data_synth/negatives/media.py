"""Negatives on the picture side: the same true caption with a clip that it no longer describes.

Pure functions on frames (uint8 [T, H, W, 3]) and timestamps (float64 [T], seconds); they return new arrays, the kind
and the
evidence. Timestamps keep their values, in order: only what is seen at them changes.
"""

from dataclasses import dataclass

import numpy as np

SAME = 2.0
"""Mean absolute difference of pixel values (0-255) below which two clips count as the same: a still image played
backwards."""


@dataclass(frozen=True)
class Corrupted:
    """A clip that no longer fits its caption."""

    frames: np.ndarray
    timestamps: np.ndarray
    kind: str
    edit: dict
    """JSON: `order` of the source frames, `kept` frames, or the `box` of a crop (top, left, height, width)."""
    why: str


def reversed_frames(frames: np.ndarray, timestamps: np.ndarray) -> Corrupted | None:
    """The clip played backwards; None when it looks the same (fewer than two frames, or nothing moves)."""
    return _reordered(frames, timestamps, np.arange(len(frames))[::-1], "reversed", "the clip is played backwards")


def shuffled_frames(
    frames: np.ndarray, timestamps: np.ndarray, *, seed: int = 0, segments: int = 4
) -> Corrupted | None:
    """The clip cut into `segments` stretches that change places; None when it looks the same."""
    pieces = np.array_split(np.arange(len(frames)), min(segments, max(len(frames), 1)))
    draw = np.random.default_rng(seed)
    for _ in range(10):
        order = draw.permutation(len(pieces))
        if not np.array_equal(order, np.arange(len(pieces))):
            picked = np.concatenate([pieces[k] for k in order])
            return _reordered(
                frames, timestamps, picked, "shuffled", f"{len(pieces)} stretches of the clip change places"
            )
    return None


def dropped_frames(frames: np.ndarray, timestamps: np.ndarray, *, start: float, end: float) -> Corrupted | None:
    """The clip without what is seen from `start` to `end` (seconds); None when that is nothing or everything."""
    keep = (timestamps < start) | (timestamps >= end)
    if keep.all() or not keep.any():
        return None
    kept = np.flatnonzero(keep)
    why = f"what is seen from {start:g} s to {end:g} s is missing"
    return Corrupted(frames[kept].copy(), timestamps[kept].copy(), "dropped", {"kept": kept.tolist()}, why)


def cropped_frames(
    frames: np.ndarray, timestamps: np.ndarray, *, seed: int = 0, share: float = 0.5
) -> Corrupted | None:
    """A corner of the picture, `share` of its height and width, blown up to full size (nearest neighbour).

    None when `share` is not between 0 and 1 or the corner looks like the whole (an even picture).
    """
    if not 0.0 < share < 1.0 or frames.size == 0:
        return None
    height, width = frames.shape[1:3]
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    draw = np.random.default_rng(seed)
    top, left = int(draw.integers(0, 2)) * (height - rows), int(draw.integers(0, 2)) * (width - columns)
    down, across = top + np.arange(height) * rows // height, left + np.arange(width) * columns // width
    cropped = frames[:, down][:, :, across]
    if _alike(cropped, frames):
        return None
    edit = {"box": [top, left, rows, columns]}
    return Corrupted(
        np.ascontiguousarray(cropped), timestamps.copy(), "cropped", edit, "most of the picture is cut away"
    )


def other_clip(
    frames: np.ndarray, timestamps: np.ndarray, others: list[np.ndarray], *, seed: int = 0
) -> Corrupted | None:
    """The frames of another clip, drawn by `seed`, at the timestamps of this one; None when no other looks
    different."""
    order = np.random.default_rng(seed).permutation(len(others))
    for k in order:
        if not len(others[k]) or not len(frames):
            continue
        picked = np.linspace(0, len(others[k]) - 1, len(frames)).round().astype(int)
        new = others[k][picked]
        if new.shape != frames.shape or not _alike(new, frames):
            return Corrupted(new.copy(), timestamps.copy(), "other_clip", {"other": int(k)}, "the clip is another one")
    return None


def _reordered(frames: np.ndarray, timestamps: np.ndarray, order: np.ndarray, kind: str, why: str) -> Corrupted | None:
    if len(frames) < 2 or _alike(frames[order], frames):
        return None
    return Corrupted(frames[order].copy(), timestamps.copy(), kind, {"order": order.tolist()}, why)


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Do two clips of one shape show the same?"""
    return float(np.abs(a.astype(np.int16) - b.astype(np.int16)).mean()) < SAME
