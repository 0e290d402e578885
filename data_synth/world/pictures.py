"""Still pictures of the world with true prompts, for generators: how many of what, in which colour, on what, how near.

A picture is drawn from its description and a seed that moves it a little. Descriptions are split by their hash, so a
held-out prompt is a combination of things that training shows only in other combinations.
"""

import hashlib
import itertools
import random
from typing import NamedTuple

import numpy as np

from data_synth.world.render import _BACKGROUNDS, _COLOURS, _RADIUS, _distance
from data_synth.world.script import BACKGROUNDS, COLOURS, SHAPES, SHOTS, SPLITS

COUNTS = (1, 2, 3)
SIZE = 32  # pixels
_NUMBERS = {1: "A", 2: "Two", 3: "Three"}
# centres of the things in half widths, before they are moved; bars, which are wide, are laid out the other way round
_PLACES = {1: ((0.0, 0.0),), 2: ((-0.48, 0.0), (0.48, 0.0)), 3: ((-0.5, -0.42), (0.5, -0.42), (0.0, 0.46))}
_SMALLER = {1: 1.6, 2: 0.95, 3: 0.9}  # of the actor's radius in a clip, so that several things do not touch
_MOVES = 0.06  # half widths, each way


class Description(NamedTuple):
    """What a picture shows: `count` things of one colour and shape on a background, at a shot scale."""

    count: int
    colour: str
    shape: str
    background: str
    shot: str


def prompt(shown: Description) -> str:
    """ "Two red balls on a grey background, close-up."."""
    things = f"{_NUMBERS[shown.count]} {shown.colour} {shown.shape}{'s' if shown.count > 1 else ''}"
    return f"{things} on a {shown.background} background, {shown.shot}."


def descriptions(split: str | None = None) -> list[Description]:
    """All descriptions of a split, or of all splits, in one order. Raises ValueError for an unknown split."""
    if split is not None and split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    every = (Description(*one) for one in itertools.product(COUNTS, COLOURS, SHAPES, BACKGROUNDS, SHOTS))
    return [one for one in every if split is None or split_of(one) == split]


def split_of(shown: Description) -> str:
    """The split that owns a description: 80 % train, 10 % dev, 10 % test, by a hash that no seed changes."""
    bucket = hashlib.sha256(prompt(shown).encode()).digest()[0] % 10
    return "test" if bucket == 0 else "dev" if bucket == 1 else "train"


def drawn(count: int, *, split: str = "train", seed: int = 0) -> list[Description]:
    """`count` descriptions of a split in an order drawn from `seed`, each once before any comes again."""
    pool, rng, found = descriptions(split), random.Random(f"{seed}/{split}/pictures"), []
    while len(found) < count:
        found += rng.sample(pool, len(pool))
    return found[:count]


def render(shown: Description, seed: int, size: int = SIZE) -> np.ndarray:
    """The picture, uint8 [size, size, 3]; the same arguments give the same bytes."""
    rng = random.Random(f"{seed}/{'/'.join(map(str, shown))}")
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) + 0.5) / (size / 2) - 1.0
    image = np.empty((size, size, 3), np.float32)
    image[:] = _BACKGROUNDS[shown.background]
    radius = _RADIUS[shown.shot] * _SMALLER[shown.count]
    colour = np.float32(_COLOURS[shown.colour])
    for across, down in _PLACES[shown.count]:
        across, down = (down, across) if shown.shape == "bar" else (across, down)
        dx, dy = (rng.uniform(-_MOVES, _MOVES) for _ in range(2))
        distance = _distance(shown.shape, x - across - dx, y - down - dy, radius)
        cover = np.clip(0.5 - distance * size / 2, 0, 1)[..., None]  # edges one pixel soft
        image += cover * (colour - image)
    return (image + 0.5).astype(np.uint8)
