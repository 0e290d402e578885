"""Cartoons: flat colours, smooth gradients and outlines, drawn three times as large and scaled down."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from data_synth.gallery.figures import Skeleton
from data_synth.gallery.paint import Box, pick

OVER = 3  # drawn so many times larger
RGB = tuple[int, int, int]


class Pen:
    """Draws in picture widths on a canvas that is scaled down at the end."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.side = size * OVER
        self.size = size
        self.hue, self.step = rng.random(), pick(rng, [0.5, 0.33, 0.12])
        self.rich = rng.uniform(0.35, 0.8)
        self.line = colour(self.hue, 0.5, 0.15) if rng.random() < 0.8 else None
        self.width = max(1, round(self.side * rng.uniform(0.005, 0.011)))
        self.image = Image.new("RGB", (self.side, self.side))
        self.draw = ImageDraw.Draw(self.image)

    def tone(self, number: int, value: float) -> RGB:
        """The colour number `number` of this picture's palette."""
        return colour(self.hue + number * self.step + 0.03 * number, self.rich, value)

    def gradient(self, top: RGB, bottom: RGB) -> None:
        """A smooth background from top to bottom."""
        t = np.linspace(0, 1, self.side)[:, None, None]
        rows = np.float32(top) * (1 - t) + np.float32(bottom) * t
        whole = np.broadcast_to(rows, (self.side, self.side, 3))
        self.image.paste(Image.fromarray((whole + 0.5).astype(np.uint8)))

    def polygon(self, points, fill: RGB, outline: bool = True) -> None:
        """Corners in units of the side, filled, with a line around it."""
        points = [(x * self.side, y * self.side) for x, y in points]
        self.draw.polygon(points, fill=fill)
        if outline and self.line:
            self.draw.line([*points, points[0]], fill=self.line, width=self.width, joint="curve")

    def ellipse(self, x: float, y: float, wide: float, high: float, fill: RGB, outline: bool = True) -> None:
        """Middle and half axes in units of the side, filled, with a line around it."""
        box = [v * self.side for v in (x - wide, y - high, x + wide, y + high)]
        self.draw.ellipse(box, fill=fill, outline=self.line if outline else None, width=self.width if outline else 0)

    def done(self) -> np.ndarray:
        """uint8 [size, size, 3]"""
        return np.asarray(self.image.resize((self.size, self.size), Image.Resampling.BOX))


def colour(hue: float, saturation: float, value: float) -> RGB:
    """A colour as Pillow takes it."""
    return tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def scenery(rng: np.random.Generator, pen: Pen, horizon: float) -> None:
    """Sky with a sun and clouds, hills, ground."""
    pen.gradient(colour(0.55 + rng.uniform(-0.05, 0.1), rng.uniform(0.25, 0.6), 0.95), colour(0.12, 0.12, 1.0))
    pen.ellipse(rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.2), *([rng.uniform(0.05, 0.09)] * 2), (255, 225, 110))
    for _ in range(int(rng.integers(0, 3))):
        x, y, r = rng.random(), rng.uniform(0.08, horizon * 0.6), rng.uniform(0.03, 0.06)
        for dx, scale in ((-1.1, 0.8), (1.1, 0.8), (0.0, 1.2)):
            pen.ellipse(x + dx * r, y, r * scale, r * scale * 0.8, (250, 250, 252), outline=False)
    x = np.linspace(-0.05, 1.05, 40)
    for layer in range(int(rng.integers(1, 4))):
        wave = 0.06 * np.sin(x * rng.uniform(3, 8) + rng.uniform(0, 6)) + 0.03 * np.sin(x * 13 + rng.uniform(0, 6))
        ridge = horizon - 0.12 + 0.06 * layer + wave
        pen.polygon([*zip(x, ridge, strict=True), (1.05, 1.05), (-0.05, 1.05)], pen.tone(layer, 0.85 - 0.1 * layer))
    floor = horizon + 0.02 * np.sin(x * rng.uniform(2, 5))
    pen.polygon([*zip(x, floor, strict=True), (1.05, 1.05), (-0.05, 1.05)], colour(rng.uniform(0.2, 0.4), 0.5, 0.75))


def general(rng: np.random.Generator, size: int) -> tuple[np.ndarray, Box]:
    """A house or trees in a landscape; (picture, box of the subject)."""
    pen, horizon = Pen(rng, size), pick(rng, [0.45, 0.66]) + rng.uniform(-0.04, 0.04)
    scenery(rng, pen, horizon)
    place, foot = pick(rng, [1 / 3, 2 / 3]) + rng.uniform(-0.04, 0.04), min(horizon + rng.uniform(0.08, 0.2), 0.92)
    for _ in range(int(rng.integers(0, 4))):
        _tree(rng, pen, rng.random(), horizon + rng.uniform(0.01, 0.06), rng.uniform(0.1, 0.22))
    if rng.random() < 0.5:
        tall = rng.uniform(0.3, 0.5)
        _tree(rng, pen, place, foot, tall)
        return pen.done(), (place - tall * 0.35, foot - tall, place + tall * 0.35, foot)
    wide, tall = rng.uniform(0.13, 0.2), rng.uniform(0.16, 0.24)
    left, right, top = place - wide, place + wide, foot - tall
    pen.polygon([(left, top), (right, top), (right, foot), (left, foot)], pen.tone(4, 0.95))
    pen.polygon([(left - 0.03, top), (place, top - wide * 0.8), (right + 0.03, top)], pen.tone(5, 0.6))
    for dx in (-0.5, 0.5):
        x, y, r = place + dx * wide, top + tall * 0.4, wide * 0.2
        pen.polygon([(x - r, y - r), (x + r, y - r), (x + r, y + r), (x - r, y + r)], (190, 225, 245))
    r = wide * 0.17
    pen.polygon([(place - r, foot - tall * 0.5), (place + r, foot - tall * 0.5), (place + r, foot), (place - r, foot)],
                pen.tone(6, 0.5))  # fmt: skip
    return pen.done(), (left - 0.03, top - wide * 0.8, right + 0.03, foot)


def _tree(rng: np.random.Generator, pen: Pen, x: float, foot: float, tall: float) -> None:
    wide, green = tall * 0.05, colour(rng.uniform(0.22, 0.42), 0.55, rng.uniform(0.5, 0.8))
    pen.polygon([(x - wide, foot - tall * 0.5), (x + wide, foot - tall * 0.5), (x + wide, foot), (x - wide, foot)],
                colour(0.07, 0.5, 0.5))  # fmt: skip
    if rng.random() < 0.4:
        for k in range(3):
            base, reach = foot - tall * (0.2 + 0.22 * k), tall * (0.32 - 0.07 * k)
            pen.polygon([(x - reach, base), (x, base - tall * 0.36), (x + reach, base)], green)
        return
    pen.ellipse(x, foot - tall * 0.66, tall * 0.34, tall * 0.34, green)
    pen.ellipse(
        x - tall * 0.1, foot - tall * 0.76, tall * 0.12, tall * 0.1, tuple(min(255, v + 25) for v in green), False
    )


def figure(rng: np.random.Generator, size: int, skeleton: Skeleton) -> tuple[np.ndarray, Box]:
    """The figure in flat colours with an outline; (picture, its box)."""
    pen = Pen(rng, size)
    if skeleton.what == "hand":
        pen.gradient(pen.tone(1, 0.95), pen.tone(1, 0.8))
    else:
        scenery(rng, pen, rng.uniform(0.5, 0.65))
    skin = colour(rng.uniform(0.05, 0.09), rng.uniform(0.25, 0.6), rng.uniform(0.55, 0.98))
    coat = pen.tone(2, rng.uniform(0.55, 0.95))
    fills = {
        "coat": coat, "far coat": tuple(round(v * 0.75) for v in coat), "ear": coat, "hoof": (60, 45, 45), "skin": skin,
        "eye": (25, 25, 30), "mouth": (170, 50, 60), "nail": tuple(min(255, v + 22) for v in skin),
        "hair": pen.tone(3, 0.35),
        "shirt": pen.tone(2, 0.9), "trousers": pen.tone(4, 0.55), "shoe": (70, 50, 50), "sleeve": pen.tone(3, 0.8),
    }  # fmt: skip
    for part in (True, False):  # all outlines first, so that parts that grow together have one
        for limb in skeleton.limbs:
            if part and pen.line:
                _stroke(pen, limb, pen.line, pen.width / pen.side)
            elif not part:
                _stroke(pen, limb, fills[limb.part], 0.0)
    return pen.done(), skeleton.box


def _stroke(pen: Pen, limb, fill: RGB, wider: float) -> None:
    (x0, y0), (x1, y1), (r0, r1) = limb.start, limb.end, limb.radii
    steps = max(2, int(np.hypot(x1 - x0, y1 - y0) / max(min(r0, r1), 0.004) * 3))
    for t in np.linspace(0, 1, min(steps, 40)):
        r = r0 + (r1 - r0) * t + wider
        pen.ellipse(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t, r, r, fill, outline=False)


def portrait(rng: np.random.Generator, size: int) -> tuple[np.ndarray, Box]:
    """A face with large eyes; (picture, box of the face)."""
    pen = Pen(rng, size)
    pen.gradient(pen.tone(1, 0.98), pen.tone(2, 0.8))
    tall = rng.uniform(0.23, 0.3)
    x, y, wide = 0.5 + rng.uniform(-0.06, 0.06), rng.uniform(0.4, 0.46), tall * rng.uniform(0.8, 0.95)
    skin = colour(rng.uniform(0.05, 0.09), rng.uniform(0.25, 0.6), rng.uniform(0.5, 0.98))
    dark = tuple(round(v * 0.85) for v in skin)
    hair = colour(pick(rng, [0.07, 0.1, rng.random()]), rng.uniform(0.3, 0.8), rng.uniform(0.15, 0.8))
    long = rng.random() < 0.5
    pen.ellipse(x, y - tall * 0.1, wide * 1.2, tall * 1.12, hair)
    if long:
        points = [
            (x - wide * 1.2, y),
            (x + wide * 1.2, y),
            (x + wide * 1.3, y + tall * 1.6),
            (x - wide * 1.3, y + tall * 1.6),
        ]
        pen.polygon(points, hair)
    pen.ellipse(x, y + tall * 1.9, wide * 1.9, tall * 0.75, pen.tone(4, 0.8))
    pen.polygon([(x - wide * 0.3, y + tall * 0.7), (x + wide * 0.3, y + tall * 0.7), (x + wide * 0.35, y + tall * 1.3),
                 (x - wide * 0.35, y + tall * 1.3)], dark)  # fmt: skip
    pen.ellipse(x, y, wide, tall, skin)
    for side in (-1, 1):
        ex, ey, r = x + side * wide * 0.42, y - tall * 0.05, wide * rng.uniform(0.16, 0.2)
        pen.ellipse(ex, ey, r, r * 1.2, (250, 250, 250))
        pen.ellipse(ex, ey + r * 0.15, r * 0.62, r * 0.85, pen.tone(5, 0.5), False)
        pen.ellipse(ex, ey + r * 0.2, r * 0.35, r * 0.5, (20, 20, 25), False)
        pen.ellipse(ex + r * 0.25, ey - r * 0.2, r * 0.18, r * 0.18, (255, 255, 255), False)
        pen.ellipse(x + side * wide * 0.6, y + tall * 0.3, wide * 0.14, tall * 0.07, (235, 150, 140), False)
        pen.polygon(
            [(ex - r, ey - r * 1.9), (ex + r, ey - r * 1.9), (ex + r, ey - r * 1.6), (ex - r, ey - r * 1.6)],
            hair,
            False,
        )
    pen.polygon(
        [(x, y + tall * 0.05), (x + wide * 0.1, y + tall * 0.28), (x - wide * 0.06, y + tall * 0.28)], dark, False
    )
    smile = [(x + wide * t, y + tall * (0.5 + 0.12 * (1 - (t / 0.35) ** 2))) for t in np.linspace(-0.35, 0.35, 12)]
    pen.polygon([*smile, (x + wide * 0.35, y + tall * 0.5)], (165, 60, 70))
    crown = [
        (x + wide * 1.12 * np.cos(a), y - tall * 0.12 + tall * 1.05 * np.sin(a))
        for a in np.linspace(np.pi, 2 * np.pi, 24)
    ]
    fringe = [
        (x + wide * t, y - tall * (0.45 + 0.12 * np.sin(t * rng.uniform(4, 9)))) for t in np.linspace(1.1, -1.1, 12)
    ]
    pen.polygon([*crown, *fringe], hair)
    return pen.done(), (x - wide, y - tall, x + wide, y + tall)
