"""What people type, "two red balls": short prompts of the world's pictures, with the full ones that say the same.

A short prompt always names number, colour and shape, and now and then ground or distance. Those of a fifth of all
(number, colour, shape), by a hash that no seed changes, are held out.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple

from data_synth.world.pictures import Description, descriptions, prompt
from data_synth.world.script import COLOURS, SHAPES

NAMED = 0.3
"""Share of short prompts that name the ground, and share that name the distance."""


class Example(NamedTuple):
    """What is typed, and a full prompt for it."""

    prompt: str
    completion: str


def short(shown: Description, rng: random.Random) -> str:
    """The description as people type it: "two red balls, wide shot"."""
    text = prompt(shown).rstrip(".")
    things, _, rest = text[0].lower() + text[1:], "", ""
    things, _, rest = things.partition(" on a ")
    ground, _, shot = rest.partition(" background, ")
    if rng.random() < NAMED:
        things += f" on a {ground} background"
    return things + (f", {shot}" if rng.random() < NAMED else "")


def held_out(shown: Description) -> bool:
    """Whether all short prompts of this number, colour and shape are held out."""
    key = f"{shown.count} {shown.colour} {shown.shape}"
    return hashlib.sha256(key.encode()).digest()[0] % 5 == 0


def examples(count: int, *, noise: float, seed: int = 0) -> list[Example]:
    """Short prompts that are not held out, each with a training description's prompt.

    A share `noise` of the full prompts shows another colour, shape or number than was asked for, as rewrites collected
    without much care do.
    """
    pool = [one for one in descriptions("train") if not held_out(one)]
    rng, found = random.Random(f"{seed}/short"), []
    while len(found) < count:
        shown = rng.choice(pool)
        told = _wrong(shown, rng) if rng.random() < noise else shown
        found.append(Example(short(shown, rng), prompt(told)))
    return found


def typed(count: int, *, held: bool, seed: int = 0) -> list[str]:
    """At most `count` different short prompts, held-out ones or others, in an order that follows from the seed."""
    pool = [one for one in descriptions() if held_out(one) == held]
    rng = random.Random(f"{seed}/typed/{held}")
    found = dict.fromkeys(short(one, rng) for one in rng.sample(pool, len(pool)))
    return list(found)[:count]


def _wrong(shown: Description, rng: random.Random) -> Description:
    """The description with one part that was asked for changed."""
    choices: dict[str, Sequence] = {"count": (1, 2, 3), "colour": tuple(COLOURS), "shape": tuple(SHAPES)}
    part = rng.choice(list(choices))
    return shown._replace(**{part: rng.choice([one for one in choices[part] if one != getattr(shown, part)])})
