"""seed -> a picture without faults, photo-like or cartoon, with its truths; or one whose figure has a leg too many."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from data_synth.gallery import cartoon, clutter, figures, landscape, portrait, still
from data_synth.gallery.paint import Box, draw_light, photo

MIN_SIZE = 32
PHOTOS = {
    "landscape": landscape.landscape,
    "street": landscape.street,
    "night": landscape.night,
    "still_life": still.still_life,
    "flower": still.flower,
    "surface": still.surface,
    "clutter": clutter.clutter,
}
KEYS = {"night": (0.02, 0.05)}
"""Exposure of what is dark in truth."""
SUBJECTS = (*PHOTOS, "portrait", *figures.RIGHT)
_SHARES = (0.14, 0.08, 0.04, 0.11, 0.08, 0.05, 0.1, 0.22, 0.07, 0.06, 0.05)
_CARTOON_SHARE = 0.3


@dataclass(frozen=True)
class Scene:
    """A rendered picture and what is true of it."""

    image: np.ndarray
    """uint8 RGB [size, size, 3]"""
    style: Literal["photo", "cartoon"]
    kind: Literal["general", "portrait"]
    subject: str
    """One of SUBJECTS; of a photo, "surface" or "photo"."""
    box: Box
    """Of the subject: left, top, right, bottom in picture widths, within 0 and 1."""
    face: Box | None
    """Of the face, in portraits."""
    figure: dict[str, int] = field(default_factory=dict)
    """What can be counted, {"legs": 4}; empty where there is no figure."""
    anatomy: bool | None = None
    """True where the number is wrong (a veto), False where it is right, None without a figure."""


def render(
    seed: int,
    *,
    size: int = 192,
    style: Literal["photo", "cartoon"] | None = None,
    subject: str | None = None,
    wrong: bool | None = None,
) -> Scene:
    """The picture of a seed; what is not asked for is drawn from the seed.

    wrong: whether the figure of an animal, a person or a hand has a wrong number of legs or fingers; everything but the
    figure stays the same. Raises ValueError for a size below 32 and an unknown style or subject.
    """
    if size < MIN_SIZE:
        raise ValueError(f"size is {size}; expected at least {MIN_SIZE} pixels.")
    rng = np.random.default_rng([seed, 0x9A11])
    drawn = "cartoon" if rng.random() < _CARTOON_SHARE else "photo", rng.choice(SUBJECTS, p=_SHARES), rng.random() < 0.5
    style, subject = style or drawn[0], str(subject or drawn[1])
    wrong = drawn[2] if wrong is None else wrong
    if style not in ("photo", "cartoon") or subject not in SUBJECTS:
        raise ValueError(
            f"found the style {style!r} and the subject {subject!r}; expected photo or cartoon, and one of "
            f"{', '.join(SUBJECTS)}."
        )
    if subject in figures.RIGHT:
        return _figure(rng, size, style, subject, bool(wrong))
    if subject == "portrait":
        image, face = (
            cartoon.portrait(rng, size) if style == "cartoon" else _taken(portrait.portrait, rng, size, subject)
        )
        return Scene(image, style, "portrait", subject, _within(face), _within(face))
    image, box = cartoon.general(rng, size) if style == "cartoon" else _taken(PHOTOS[subject], rng, size, subject)
    return Scene(image, style, "general", subject, _within(box), None)


def _figure(rng: np.random.Generator, size: int, style: str, subject: str, wrong: bool) -> Scene:
    counted, number = figures.RIGHT[subject]
    odd = int(rng.choice(figures.WRONG[subject]))
    number = odd if wrong else number
    limbs, rest = rng.spawn(2)  # a wrong number takes other draws for the limbs; the rest must not notice
    skeleton = figures.draw_skeleton(limbs, subject, number)
    if style == "cartoon":
        image, box = cartoon.figure(rest, size, skeleton)
    else:
        light = draw_light(rest)
        linear, box = figures.figure(rest, size, light, skeleton)
        image = photo(linear, rest)
    return Scene(image, style, "general", subject, _within(box), None, {counted: number}, wrong)


def _taken(paint, rng: np.random.Generator, size: int, subject: str) -> tuple[np.ndarray, Box]:
    linear, box = paint(rng, size, draw_light(rng))
    return (photo(linear, rng, KEYS[subject]) if subject in KEYS else photo(linear, rng)), box


def _within(box: Box) -> Box:
    return tuple(float(np.clip(v, 0, 1)) for v in box)
