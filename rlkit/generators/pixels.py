"""What training does to pixels before a judge notices: colours that get too strong, and lattices.

A lattice is seen where pixels bend (second differences), averaged by their place within a period: lines and
checkerboards bend one way at one place, blocks bend either way but strongly at their borders (Wang, Bovik and Evans
2000). What a picture shows lies anywhere, and averages out over many pictures.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from reward_models.saturation import saturation

PERIODS = (2, 4, 8, 16)  # pixels
STRONGEST = 0.1  # of 1; stronger bends are the edges of things, and count no more than this
FAINT = 0.004  # a step of 8 bits: flat pictures have no lattice

Profiles = Mapping[str, list[float]]
"""Axis and period -> means at every place within the period: "x4" of bends, "|x4|" of their sizes."""


def frames(pictures: Sequence[Any]) -> list[np.ndarray]:
    """uint8 RGB [height, width, 3] of all pictures and of every frame of videos [time, height, width, 3]."""
    found: list[np.ndarray] = []
    for one in pictures:
        pixels = np.asarray(one.convert("RGB") if isinstance(one, Image.Image) else one)
        found += list(pixels.reshape(-1, *pixels.shape[-3:]))
    return found


def mean_saturation(pictures: Sequence[Any]) -> float:
    """0 for grey, 1 for pure colours."""
    return float(np.mean([saturation(one) for one in frames(pictures)]))


def profiles(pictures: Sequence[Any]) -> dict[str, list[float]]:
    """Bends of luminance by their place within each period that fits three times; to be averaged by `grid`."""
    shown = np.stack(frames(pictures)).astype(np.float32) / 255
    luma = shown @ np.float32([0.2126, 0.7152, 0.0722])
    found = {}
    for axis, plane in (("x", luma), ("y", luma.swapaxes(1, 2))):
        bend = 2 * plane[:, :, 1:-1] - plane[:, :, :-2] - plane[:, :, 2:]
        bend = np.clip(bend, -STRONGEST, STRONGEST)
        place = np.arange(1, 1 + bend.shape[2])
        for period in PERIODS:
            if plane.shape[2] >= 3 * period:
                for name, line in ((f"{axis}{period}", bend), (f"|{axis}{period}|", np.abs(bend))):
                    line = line.mean((0, 1))
                    found[name] = [float(line[place % period == at].mean()) for at in range(period)]
    return found


def grid(several: Iterable[Profiles]) -> float:
    """How far one place of a period stands out, in mean sizes of bends: 0 without a lattice.

    The largest, over axes and periods of the mean of some profiles, of largest less smallest bend, or size of bends,
    over the mean size. 0 for pictures that are too small.
    """
    several = list(several)
    found = [0.0]
    for name in [name for name in several[0] if not name.startswith("|")]:
        bend, size = (np.mean([one[key] for one in several], axis=0) for key in (name, f"|{name}|"))
        found.append(float(max(np.ptp(bend), np.ptp(size)) / (size.mean() + FAINT)))
    return max(found)
