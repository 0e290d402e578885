"""Faces of people who do not exist: a relief of skull, nose and lips, skin with pores, eyes, strands of hair."""

import numpy as np
from scipy.ndimage import gaussian_filter

from data_synth.gallery import textures
from data_synth.gallery.figures import hair_colour, skin_tone
from data_synth.gallery.paint import Box, Light, blurred, bumps, cover, grid, hsv, lambert, over, pick
from data_synth.gallery.still import backdrop


def portrait(rng: np.random.Generator, size: int, light: Light) -> tuple[np.ndarray, Box]:
    """Head and shoulders before something out of focus; (picture in linear light, box of the face)."""
    image = backdrop(rng, size)
    x, y = grid(size)
    tall = rng.uniform(0.23, 0.3)  # half the height of the face
    cx, cy = pick(rng, [0.42, 0.5, 0.58]) + rng.uniform(-0.03, 0.03), rng.uniform(0.4, 0.45)
    wide = tall * rng.uniform(0.7, 0.78)
    u, v = (x - cx) / wide, (y - cy) / tall
    skin, hair, long = skin_tone(rng), hair_colour(rng), rng.random() < 0.55
    _hair(rng, image, u, v, hair, light, back=True, long=long)
    _shoulders(rng, image, u, v, skin, light)
    head, relief = _head(rng, u, v)
    over(image, cover(head * wide, size, 1.5), _skin(rng, u, v, relief, skin, light, wide))
    _features(rng, image, u, v, hair, wide)
    _hair(rng, image, u, v, hair, light, back=False, long=long)
    return image, (cx - wide, cy - tall, cx + wide, cy + tall)


def _head(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(signed distance to the outline, height of the face above its rim), both in half face widths."""
    jaw = rng.uniform(0.1, 0.22)
    across = u / (1 - jaw * np.clip(v, 0, 1.2) ** 1.5)
    radius = np.hypot(across, v)
    height = np.sqrt(np.clip(1.02 - radius**2, 0.0, None)) * 1.05

    def bump(cu, cv, wu, wv, h):
        return h * np.exp(-(((u - cu) / wu) ** 2 + ((v - cv) / wv) ** 2))

    nose = rng.uniform(0.85, 1.15)
    height += bump(0, 0.05, 0.10 * nose, 0.30, 0.16) + bump(0, 0.25, 0.16 * nose, 0.10, 0.20)
    for side in (-1, 1):
        height += bump(side * 0.13 * nose, 0.28, 0.08, 0.06, 0.07)  # wings of the nose
        height += bump(side * 0.48, 0.18, 0.28, 0.2, 0.07) - bump(side * 0.40, -0.13, 0.22, 0.12, 0.12)  # cheek, socket
        height += bump(side * 0.4, -0.28, 0.28, 0.07, 0.05)
    height += bump(0, 0.50, 0.26, 0.045, 0.06) + bump(0, 0.585, 0.22, 0.05, 0.07) - bump(0, 0.67, 0.25, 0.04, 0.03)
    return radius - 1, height + bump(0, 0.85, 0.25, 0.14, 0.06)


def _skin(rng, u, v, relief: np.ndarray, tone: np.ndarray, light: Light, wide: float) -> np.ndarray:
    """Lit skin: pores and fine lines in the relief, redness and blotches in the colour."""
    size = len(u)
    pitch = wide * size  # pixels per unit of u
    pores = textures.band(rng, size, max(2.2, pitch / 22)) + 0.7 * textures.band(rng, size, max(2.2, pitch / 11))
    blotch = textures.fractal(rng, size, 1.2)
    slope = bumps(gaussian_filter(relief, pitch / 45), 0.5 * pitch)
    rough = bumps(pores, rng.uniform(0.02, 0.055))
    nx, ny = slope[0] + rough[0], slope[1] + rough[1]
    length = np.sqrt(1 + nx**2 + ny**2)
    normal = nx / length, ny / length, 1 / length

    def spot(cu, cv, wu, wv):
        return np.exp(-(((u - cu) / wu) ** 2 + ((v - cv) / wv) ** 2))

    red = 0.8 * (spot(-0.5, 0.25, 0.3, 0.25) + spot(0.5, 0.25, 0.3, 0.25) + spot(0, 0.27, 0.2, 0.15))
    redness = (0.12 * red + 0.05 * blotch)[..., None] * np.float32((-0.3, -1.2, -1.1))
    albedo = tone * np.exp(redness) * (1 + 0.045 * pores + 0.04 * blotch)[..., None]
    if rng.random() < 0.35:  # freckles
        freckles = np.clip(textures.band(rng, size, max(2.5, pitch / 12)) - 1.5, 0, 1) * np.clip(red * 2, 0, 1)
        albedo *= 1 - (0.3 * freckles)[..., None]
    if rng.random() < 0.3:  # a beard's shadow
        albedo *= 1 - (0.4 * np.clip((v - 0.4) * 3, 0, 1) * (1 + 0.3 * pores))[..., None].clip(0, 0.7)
    half = light.direction + np.float32((0, 0, 1))
    half /= np.linalg.norm(half)
    shine = np.clip(sum(n * h for n, h in zip(normal, half, strict=True)), 0, 1) ** 18 * rng.uniform(0.03, 0.14)
    nostril = 1 - 0.7 * (spot(-0.1, 0.325, 0.055, 0.028) + spot(0.1, 0.325, 0.055, 0.028))
    return (albedo * lambert(normal, light) * nostril[..., None] + shine[..., None]).astype(np.float32)


def _features(rng, image: np.ndarray, u: np.ndarray, v: np.ndarray, hair: np.ndarray, wide: float) -> None:
    """Eyes that look at something, brows, lips."""
    size = len(u)
    iris = hsv(*((rng.uniform(0.05, 0.1), 0.6, 0.35) if rng.random() < 0.6 else (rng.uniform(0.3, 0.6), 0.4, 0.55)))
    gaze, opened, hairs = rng.uniform(-0.05, 0.05), rng.uniform(0.075, 0.1), textures.band(rng, size, 2.4)
    for side in (-1, 1):
        eu, ev = u - side * 0.4, v + 0.12
        lid = np.abs(ev + 0.02 * (eu / 0.2) ** 2) - opened * (1 - (eu / 0.2) ** 2)
        lid = np.maximum(lid, np.abs(eu) - 0.2)
        over(image, cover((lid - 0.03) * wide, size, 2.5) * 0.55 * (ev < 0.03), hair * 0.4 + 0.01)
        inside = cover(lid * wide, size, 1.5)
        white = np.float32((0.62, 0.58, 0.55)) * (1 - 0.5 * np.clip(-ev / opened, 0, 1))[..., None]
        over(image, inside, white.astype(np.float32))
        ring = np.hypot(eu - gaze, ev * 1.12 + 0.01)
        over(image, inside * cover((ring - 0.098) * wide, size, 1.5), iris * 0.9)
        over(image, inside * cover((ring - 0.045) * wide, size, 1.2), np.float32((0.012,) * 3))
        glint = np.hypot(eu - gaze - 0.03, ev + 0.045) - 0.022
        over(image, inside * cover(glint * wide, size), np.float32((0.95,) * 3))
        arch = np.abs(v + 0.345 - 0.05 * ((eu + side * 0.04) / 0.25) ** 2 + 0.02 * hairs) - 0.042 * (
            1 - (eu * side) * 1.3
        )
        brow = np.maximum(arch, np.abs(eu) - 0.26)
        over(image, cover(brow * wide, size, 2.5) * 0.8, hair * 0.7)
    half = rng.uniform(0.27, 0.34)
    curve = 0.53 - rng.uniform(-0.02, 0.05) * (u / half) ** 2
    taper = np.clip(1 - (u / half) ** 2, 0, 1)
    lips = np.maximum(np.maximum(curve - 0.07 * taper - v, v - curve - 0.1 * taper), np.abs(u) - half)
    tint = np.float32((0.92, 0.5, 0.52)) if rng.random() < 0.7 else np.float32((0.95, 0.3, 0.34))
    over(image, cover(lips * wide, size, 2.5) * 0.85, image * tint)
    line = np.maximum(np.abs(v - curve) - 0.012, np.abs(u) - half)
    over(image, cover(line * wide, size, 1.5) * 0.75, image * np.float32(0.25))


def _shoulders(rng, image: np.ndarray, u: np.ndarray, v: np.ndarray, skin: np.ndarray, light: Light) -> None:
    """Neck in the shadow of the chin, a garment of cloth."""
    size = len(u)
    side = np.clip(u / 0.55, -0.95, 0.95)
    flat = np.zeros_like(u)
    neck = skin * lambert((side, flat, np.sqrt(1 - side**2)), light) * (0.4 + 0.35 * np.clip(v - 1.0, 0, 1))[..., None]
    over(image, cover(np.maximum(np.abs(u) - 0.55 - 0.3 * np.clip(v - 1.2, 0, 1) ** 2, 0.3 - v) * 0.2, size, 2), neck)
    slope = rng.uniform(0.2, 0.35)
    collar = 1.32 + slope * np.abs(u) ** 1.3 - 0.28 * np.exp(-(((np.abs(u) - 0.62) / 0.2) ** 2))
    collar = np.maximum(collar, 1.2 + np.clip(np.abs(u) - 1.9, 0, 2) ** 2 * 2)
    weave = np.sin(u * size * 0.35) * np.sin(v * size * 0.45)
    folds = textures.fractal(rng, size, 1.9)
    nx, ny = bumps(folds, 0.9)
    nx = nx + np.clip(u / 3, -0.7, 0.7)
    length = np.sqrt(1 + nx**2 + ny**2)
    cloth = hsv(rng.random(), rng.uniform(0.05, 0.7), rng.uniform(0.2, 0.85)) * (1 + 0.1 * weave)[..., None]
    lit = cloth * lambert((nx / length, ny / length, 1 / length), light)
    over(image, cover((collar - v) * 0.2, size, 1.5), lit.astype(np.float32))


def _hair(rng, image, u, v, colour: np.ndarray, light: Light, *, back: bool, long: bool) -> None:
    """The mass behind the head (`back`), or the part that frames the forehead."""
    size = len(u)
    strands = textures.fractal(rng, size, 0.9, 12)
    locks = textures.fractal(rng, size, 1.3, 5)
    if back:
        reach = 1.9 if long else 0.25
        shape = np.hypot(u / 1.22, (v + 0.12) / 1.1) - 1
        below = np.maximum(np.abs(u) - 1.18 - 0.12 * v, v - reach - 0.1 * locks)
        inside = np.minimum(shape + 0.9 * (v > reach), np.maximum(below, -v - 0.1))
        inside = inside + 0.05 * locks
    else:
        parting = rng.uniform(-0.4, 0.4)
        fringe = -0.52 - 0.2 * np.exp(-(((u - parting) / 0.4) ** 2)) + 0.75 * np.clip(np.abs(u) - 0.55, 0, 1) ** 1.2
        outer = np.hypot(u / 1.2, (v + 0.14) / 1.08) - 1
        inside = np.maximum(outer, (v - fringe) * 0.7 + 0.05 * locks)
        if long:
            inside = np.minimum(
                inside, np.maximum(np.abs(np.abs(u) - 1.08) - 0.16 - 0.05 * locks, np.abs(v - 0.35) - 0.95)
            )
    shine = np.exp(-(((v + 0.72 + 0.06 * locks - 0.25 * u * light.direction[0]) / 0.16) ** 2)) * 0.9
    round_ = np.clip(0.75 + 0.4 * u * light.direction[0] - 0.2 * v, 0.25, 1.4)
    lit = colour * (np.clip(1 + 0.3 * strands + 0.2 * locks, 0.1, 2.5) * round_)[..., None] * (light.key + light.fill)
    lit = lit + (shine * np.clip(1 + 0.4 * strands, 0, 2))[..., None] * (0.05 + 0.5 * colour) * (not back)
    soft = blurred(cover(inside * 0.22, size, 2)[..., None], 2)[..., 0]
    over(image, soft, (lit * (0.6 if back else 1.0)).astype(np.float32))
