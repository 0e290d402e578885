"""Animals, people and hands with a chosen number of legs or fingers: skeletons, and their photo-like bodies."""

from dataclasses import dataclass

import numpy as np

from data_synth.gallery import textures
from data_synth.gallery.landscape import ground, sky
from data_synth.gallery.paint import Body, Box, Light, bumps, cover, grid, hsv, lambert, over, pick, shadow

RIGHT = {"animal": ("legs", 4), "person": ("legs", 2), "hand": ("fingers", 5)}
"""figure -> (what is counted, how many there should be)"""
WRONG = {"animal": (3, 5, 6), "person": (3, 4), "hand": (6, 7)}
"""Numbers a generator gets wrong. One leg or four fingers are not among them: people live with that."""


@dataclass(frozen=True)
class Limb:
    """A round part from `start` to `end` (x, y), with a radius at each end; `part` names its colour."""

    part: str
    start: tuple[float, float]
    end: tuple[float, float]
    radii: tuple[float, float]
    lift: float = 0.0


@dataclass(frozen=True)
class Skeleton:
    """A figure of round parts, farthest first."""

    what: str
    limbs: tuple[Limb, ...]
    number: int
    ground: float
    """Height of the feet, in picture widths."""

    @property
    def box(self) -> Box:
        """Around all limbs, within the picture."""
        ends = [(p, max(limb.radii)) for limb in self.limbs for p in (limb.start, limb.end)]
        left, top = (min(p[k] - r for p, r in ends) for k in (0, 1))
        right, bottom = (max(p[k] + r for p, r in ends) for k in (0, 1))
        return tuple(float(np.clip(v, 0, 1)) for v in (left, top, right, bottom))


def _dot(part: str, place: tuple[float, float], radius: float, lift: float) -> Limb:
    return Limb(part, place, (place[0], place[1] + 0.001), (radius, radius), lift)


def draw_skeleton(rng: np.random.Generator, what: str, number: int) -> Skeleton:
    """A figure that fills about half of the picture and has `number` of what is counted, all of them in sight."""
    return {"animal": _animal, "person": _person, "hand": _hand}[what](rng, number)


def _animal(rng: np.random.Generator, legs: int) -> Skeleton:
    """A quadruped from the side, its legs spread along the body."""
    size, face = rng.uniform(0.85, 1.1), pick(rng, [-1.0, 1.0])
    x, foot = 0.5 + rng.uniform(-0.04, 0.04), rng.uniform(0.8, 0.86)
    long, tall = 0.24 * size, rng.uniform(0.22, 0.28) * size
    back = foot - tall - 0.06 * size
    thick = rng.uniform(0.085, 0.11) * size

    def to(across: float, y: float) -> tuple[float, float]:
        return x + face * across, y

    neck = rng.uniform(0.08, 0.2) * size
    crown = back - neck
    head = to(long + 0.09 * size, back - neck)
    limbs = [Limb("coat", to(-long, back - 0.02), to(-long - 0.1 * size, back + rng.uniform(-0.1, 0.12)), (0.02, 0.01))]
    places = np.linspace(-long * 0.95, long * 0.95, legs)
    for k, place in enumerate(places):
        bend, wide = rng.uniform(-0.015, 0.015), rng.uniform(0.03, 0.036) * size
        knee = to(place + bend, back + (foot - back) * 0.55)
        far = -0.05 if k % 2 else -0.01
        limbs += [
            Limb("far coat" if k % 2 else "coat", to(place, back + 0.02), knee, (wide * 1.3, wide * 0.85), far),
            Limb("far coat" if k % 2 else "coat", knee, to(place, foot - 0.015), (wide * 0.85, wide * 0.6), far),
            Limb("hoof", to(place, foot - 0.012), to(place + 0.018, foot - 0.01), (wide * 0.7, wide * 0.6), far),
        ]
    limbs += [
        Limb("coat", to(-long, back), to(long, back - 0.01), (thick * 0.95, thick)),
        Limb("coat", to(long * 0.9, back - 0.02), head, (thick * 0.75, 0.05 * size)),
        Limb("coat", head, to(long + 0.17 * size, crown + 0.04), (0.058 * size, 0.035 * size), 0.01),
        Limb("ear", to(long + 0.06 * size, crown - 0.04), to(long + 0.05 * size, crown - 0.1), (0.02, 0.008)),
        _dot("hoof", to(long + 0.2 * size, crown + 0.045), 0.013, 0.05),
        _dot("eye", to(long + 0.11 * size, crown - 0.015), 0.011, 0.2),
    ]
    return Skeleton("animal", tuple(limbs), legs, foot)


def _person(rng: np.random.Generator, legs: int) -> Skeleton:
    """A person who stands or strides, seen from the front."""
    x, foot, tall = 0.5 + rng.uniform(-0.06, 0.06), rng.uniform(0.88, 0.93), rng.uniform(0.68, 0.76)
    head, hip, shoulder = foot - tall * 0.92, foot - tall * 0.47, foot - tall * 0.79
    wide = rng.uniform(0.075, 0.095)
    spread = rng.uniform(0.09, 0.14) if legs == 2 else rng.uniform(0.16, 0.22)
    limbs = []
    for place in np.linspace(-1, 1, legs):
        knee = (x + place * spread * 0.62, foot - tall * 0.24)
        ankle = (x + place * spread, foot - 0.03)
        limbs += [
            Limb("trousers", (x + place * wide * 0.55, hip), knee, (0.043, 0.033)),
            Limb("trousers", knee, ankle, (0.033, 0.025)),
            Limb("shoe", ankle, (ankle[0] + 0.02 * np.sign(place + 1e-3), foot - 0.015), (0.026, 0.022)),
        ]
    for side in (-1, 1):
        elbow = (x + side * (wide + rng.uniform(0.05, 0.09)), shoulder + tall * 0.17)
        hand = (elbow[0] + side * rng.uniform(-0.05, 0.06), elbow[1] + tall * pick(rng, [0.15, -0.12]))
        limbs += [
            Limb("shirt", (x + side * wide * 1.02, shoulder + 0.015), elbow, (0.032, 0.026)),
            Limb("shirt", elbow, (0.2 * elbow[0] + 0.8 * hand[0], 0.2 * elbow[1] + 0.8 * hand[1]), (0.026, 0.021)),
            Limb("skin", hand, (hand[0], hand[1] + 0.008), (0.022, 0.02)),
        ]
    limbs += [
        Limb("shirt", (x, hip + 0.005), (x, shoulder + 0.03), (wide * 0.95, wide * 1.05), 0.005),
        Limb("shirt", (x - wide * 0.8, shoulder + 0.02), (x + wide * 0.8, shoulder + 0.02), (0.035, 0.035), 0.01),
        Limb("skin", (x, shoulder), (x, head + 0.05), (0.027, 0.025), 0.05),
        Limb("hair", (x, head - 0.012), (x, head - 0.006), (0.061, 0.058), 0.05),
        Limb("skin", (x, head + 0.01), (x, head + 0.032), (0.05, 0.04), 0.08),
        *(_dot("eye", (x + side * 0.019, head + 0.008), 0.006, 0.3) for side in (-1, 1)),
        Limb("mouth", (x - 0.012, head + 0.045), (x + 0.012, head + 0.045), (0.004, 0.004), 0.3),
    ]
    return Skeleton("person", tuple(limbs), legs, foot)


def _hand(rng: np.random.Generator, fingers: int) -> Skeleton:
    """An open hand, its palm or its back; the thumb is one of the fingers."""
    x, y, face = 0.5 + rng.uniform(-0.04, 0.04), rng.uniform(0.6, 0.64), pick(rng, [-1.0, 1.0])
    limbs = [Limb("sleeve", (x, 1.05), (x, 0.9), (0.14, 0.13)), Limb("skin", (x, 0.92), (x, y + 0.1), (0.085, 0.1))]
    limbs += [Limb("skin", (x + s, y + 0.06), (x + s * 1.1, y - 0.035), (0.085, 0.075)) for s in (-0.045, 0.045)]
    count = fingers - 1
    fan = np.linspace(-0.5, 0.5, count) * min(0.95, 0.24 * count)
    for k, turn in enumerate(fan):
        base = (
            x + face * np.linspace(-0.105, 0.105, count)[k],
            y - 0.06 - 0.012 * (1 - (2 * k / (count - 1) - 1) ** 2),
        )
        long = (0.25 - 0.075 * (2 * k / (count - 1) - 0.9) ** 2) * rng.uniform(0.95, 1.05)
        wide = min(0.031, 0.125 / count)
        middle = (base[0] + face * np.sin(turn) * long * 0.5, base[1] - np.cos(turn) * long * 0.5)
        bend = turn * rng.uniform(0.85, 1.0)
        tip = (middle[0] + face * np.sin(bend) * long * 0.5, middle[1] - np.cos(bend) * long * 0.5)
        limbs += [Limb("skin", base, middle, (wide * 1.08, wide)), Limb("skin", middle, tip, (wide, wide * 0.82))]
        inner = (0.2 * middle[0] + 0.8 * tip[0], 0.2 * middle[1] + 0.8 * tip[1])
        limbs.append(Limb("nail", inner, tip, (wide * 0.55, wide * 0.5), 0.012))
    thumb = (x + face * -0.17, y + 0.02), (x + face * -0.245, y - 0.075)
    limbs += [
        Limb("skin", (x - face * 0.07, y + 0.11), thumb[0], (0.06, 0.04)),
        Limb("skin", *thumb, (0.039, 0.028)),
    ]
    return Skeleton("hand", tuple(limbs), fingers, 1.0)


def colours(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """part -> colour, for all figures."""
    coat = hsv(rng.uniform(0.03, 0.11), rng.uniform(0.15, 0.6), rng.uniform(0.3, 0.85))
    return {
        "coat": coat, "far coat": coat * 0.6, "ear": coat * 0.7, "hoof": coat * 0.15, "eye": np.float32((0.02,) * 3),
        "skin": skin_tone(rng), "mouth": np.float32((0.3, 0.08, 0.07)), "nail": np.float32((0.75, 0.5, 0.45)),
        "hair": hair_colour(rng), "shirt": hsv(rng.random(), rng.uniform(0.1, 0.7), rng.uniform(0.35, 0.9)),
        "trousers": hsv(pick(rng, [0.6, 0.1, 0.65]), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.6)),
        "shoe": hsv(rng.random(), 0.2, rng.uniform(0.1, 0.3)), "sleeve": hsv(rng.random(), 0.5, rng.uniform(0.3, 0.8)),
    }  # fmt: skip


def skin_tone(rng: np.random.Generator) -> np.ndarray:
    """Linear RGB from dark to fair."""
    t = rng.random()
    fair, dark = np.float32((0.78, 0.5, 0.37)), np.float32((0.13, 0.065, 0.04))
    return dark ** (1 - t) * fair**t * np.float32((1, rng.uniform(0.93, 1.05), rng.uniform(0.9, 1.08)))


def hair_colour(rng: np.random.Generator) -> np.ndarray:
    """Linear RGB: black, brown, red, blond or grey."""
    choices = [(0.015, 0.012, 0.01), (0.06, 0.03, 0.015), (0.2, 0.07, 0.025), (0.45, 0.3, 0.13), (0.35, 0.34, 0.33)]
    return np.float32(choices[rng.choice(5, p=[0.3, 0.35, 0.1, 0.15, 0.1])]) * np.float32(rng.uniform(0.8, 1.25))


def figure(rng: np.random.Generator, size: int, light: Light, skeleton: Skeleton) -> tuple[np.ndarray, Box]:
    """The figure outdoors or before a wall; (picture in linear light, its box)."""
    horizon = rng.uniform(0.5, 0.64)
    if skeleton.what == "hand":
        x, y = grid(size)
        wall = hsv(rng.random(), rng.uniform(0.05, 0.35), rng.uniform(0.45, 0.8))
        spot = 1.2 - 0.6 * np.hypot(x - 0.5 - light.direction[0] * 0.4, y - 0.2)
        image = wall * (spot * (1 + 0.06 * textures.fractal(rng, size, 1.1)))[..., None]
        image = image.astype(np.float32)
    else:
        image = sky(rng, size, horizon, light)
        over(image, cover(horizon - grid(size)[1], size), ground(rng, size, horizon, light))
        left, _, right, _ = skeleton.box
        shadow(image, (left + right) / 2 - light.direction[0] * 0.06, skeleton.ground, (right - left) * 0.6, 0.045)
    fur = textures.band(rng, size, 2.8) * 0.003 if skeleton.what == "animal" else None
    body, palette = Body(size), colours(rng)
    for limb in skeleton.limbs:
        rough = fur if limb.part in ("coat", "far coat") else None
        body.add(limb.start, limb.end, limb.radii, palette[limb.part], lift=limb.lift, rough=rough)
    over(image, body.alpha, _coloured(rng, body, skeleton.what, light))
    return image, skeleton.box


def _coloured(rng: np.random.Generator, body: Body, what: str, light: Light) -> np.ndarray:
    """Albedo with fur, cloth or skin on it, times the light."""
    size = body.size
    if what == "animal":
        hairs = textures.fractal(rng, size, 0.8, 4)
        patches = np.clip(textures.fractal(rng, size, 1.6) * 1.5 + rng.uniform(-2.5, 1.0), 0, 1)[..., None]
        albedo = body.albedo * (1 - 0.6 * patches) * np.clip(1 + 0.2 * hairs, 0.3, 2)[..., None]
        normal = body.normals(2.0, bumps(hairs, 0.12))
    else:
        grain = textures.band(rng, size, 2.6)
        blotch = textures.fractal(rng, size, 1.3)[..., None] * np.float32((0.03, 0.06, 0.06))
        albedo = body.albedo * (1 + 0.05 * grain[..., None] + blotch)
        folds = bumps(textures.fractal(rng, size, 1.8), 0.5 if what == "person" else 0.1)
        normal = body.normals(1.2, tuple(f + g for f, g in zip(folds, bumps(grain, 0.05), strict=True)))
    return (albedo * lambert(normal, light)).astype(np.float32)
