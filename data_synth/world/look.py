"""One fixed look that pictures of the world may have, and that no generator trained on the world knows: ten of them
are what `algorithm: bootstrap` learns from by default.

Paper instead of a coloured ground, of which a tint is left, and an ink line around every thing.
"""

import numpy as np
from scipy import ndimage

from data_synth.world import pictures
from data_synth.world.pictures import Description

PAPER = (252, 240, 214)
INK = (28, 20, 40)
TINT = 0.3  # share of the ground's own colour that is left
_SEEN = 20.0  # least distance in RGB from the ground at which a pixel belongs to a thing
_LINE = 32  # the picture is so many lines wide


def few(count: int = 10, *, seed: int = 0) -> list[Description]:
    """`count` training descriptions to show in the look, each with another colour or shape than the one before."""
    return pictures.drawn(count, split="train", seed=1_000_003 + seed)


def render(shown: Description, seed: int, size: int = pictures.SIZE) -> np.ndarray:
    """The picture of world.pictures in the look, uint8 [size, size, 3]; the same arguments give the same bytes."""
    plain = pictures.render(shown, seed, size).astype(np.float32)
    ground = plain[0, 0]
    thing = np.linalg.norm(plain - ground, axis=-1) > _SEEN
    line = ndimage.binary_dilation(thing, iterations=max(1, round(size / _LINE))) & ~thing
    image = np.where(thing[..., None], plain, TINT * ground + (1 - TINT) * np.float32(PAPER))
    image[line] = INK
    return (image + 0.5).astype(np.uint8)
