"""Things close by: fruit and vases on a table, flowers, leaves, cloth and stone. Linear light."""

import numpy as np

from data_synth.gallery import textures
from data_synth.gallery.clutter import heap
from data_synth.gallery.paint import (
    Body,
    Box,
    Light,
    blurred,
    bumps,
    cover,
    draw_light,
    grid,
    hsv,
    lambert,
    over,
    pick,
    shadow,
)


def backdrop(rng: np.random.Generator, size: int) -> np.ndarray:
    """Something far behind, out of focus: a garden, a room, points of light."""
    x, y = grid(size)
    if rng.random() < 0.35:
        return blurred(heap(rng, size, draw_light(rng), 30), size / rng.uniform(14, 40)).astype(np.float32)
    hue = rng.random()
    one, two = hsv(hue, rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.7)), hsv(hue + rng.uniform(-0.15, 0.15), 0.4, 0.35)
    far = np.clip(0.5 + 0.35 * textures.fractal(rng, size, 1.6) + rng.uniform(-0.5, 0.5) * (y - 0.5), 0, 1)[..., None]
    image = (one + (two - one) * far).astype(np.float32)
    for _ in range(int(rng.integers(0, 9))):
        distance = np.hypot(x - rng.random(), y - rng.random()) - rng.uniform(0.02, 0.08)
        over(image, cover(distance, size, 4) * rng.uniform(0.2, 0.6), hsv(hue + rng.uniform(-0.1, 0.1), 0.3, 0.95))
    wall = image.mean(axis=(0, 1)) * (1.25 - 0.6 * np.hypot(x - rng.random(), y - rng.random()))[..., None]
    image += (wall - image) * np.float32(pick(rng, [0.0, 0.9], p=[0.6, 0.4]))
    return blurred(image, size / 40).astype(np.float32)


def still_life(rng: np.random.Generator, size: int, light: Light) -> tuple[np.ndarray, Box]:
    """Fruit, balls and a vase on a table; (picture, box of the largest thing)."""
    image, horizon = backdrop(rng, size), rng.uniform(0.5, 0.66)
    over(image, cover(horizon - grid(size)[1], size, 3), _table(rng, size, horizon, light))
    main = pick(rng, [1 / 3, 2 / 3]) + rng.uniform(-0.05, 0.05)
    foot = rng.uniform(max(horizon + 0.12, 0.74), 0.86)
    if rng.random() < 0.5:
        box = _vase(rng, image, main, foot, rng.uniform(0.35, 0.5), light)
    else:
        box = _fruit(rng, image, main, foot, rng.uniform(0.13, 0.19), light)
    away = 1.0 if main < 0.5 else -1.0
    for number in range(int(rng.integers(1, 4))):
        place = main + away * (0.24 + 0.16 * number + rng.uniform(-0.03, 0.03))
        _fruit(rng, image, place, foot + rng.uniform(-0.06, 0.06), rng.uniform(0.06, 0.1), light)
    return image, box


def _table(rng, size: int, horizon: float, light: Light) -> np.ndarray:
    """Wood or cloth in perspective, lit from one side."""
    x, y = grid(size)
    depth = 1 / np.maximum(y - horizon + 0.25, 0.05)
    u, v = (x - 0.5) * depth * size * 0.6, depth * size * 0.9
    du, dv = rng.uniform(0, textures.TILE, 2)
    if rng.random() < 0.6:
        rings = textures.at(textures.tile_of(1.3, 8), v + dv, u * 0.5 + du)
        grain = 0.22 * np.sin(rings * 9) + 0.2 * textures.at(textures.tile_of(0.5, 6), v * 2 + du, u + dv)
        colour = hsv(rng.uniform(0.04, 0.1), rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.75))
    else:
        grain = 0.1 * (np.sin(u * 2.2) + np.sin(v * 2.2)) + 0.14 * textures.at(textures.tile_of(0.6), u + du, v + dv)
        colour = hsv(rng.random(), rng.uniform(0.05, 0.5), rng.uniform(0.45, 0.85))
    side = 1 - 0.35 * np.clip((0.5 - x) * light.direction[0] * 2, -0.4, 1)
    return (colour * ((1 + grain) * side)[..., None] * (light.key * 0.75 + light.fill * 0.6)).astype(np.float32)


def _fruit(rng, image: np.ndarray, place: float, foot: float, radius: float, light: Light) -> Box:
    """An apple, orange or ball: mottled, dimpled, glossy."""
    size = len(image)
    shadow(image, place - light.direction[0] * radius * 0.9, foot - radius * 0.08, radius * 1.5, radius * 0.4, 0.75)
    body = Body(size)
    hue = pick(rng, [rng.uniform(-0.03, 0.03), rng.uniform(0.06, 0.14), rng.uniform(0.2, 0.32), rng.random()])
    flat = rng.uniform(-0.12, 0.12) * radius
    body.add(
        (place - abs(flat), foot - radius), (place + abs(flat), foot - radius), (radius, radius), np.float32((1,) * 3)
    )
    mottle = np.clip(0.5 + 0.45 * textures.fractal(rng, size, 1.4), 0, 1)[..., None]
    rich = rng.uniform(0.25, 0.85)
    one, two = hsv(hue, rich, rng.uniform(0.3, 0.85)), hsv(hue + rng.uniform(0, 0.08), rich * 0.8, 0.7)
    skin = (one + (two - one) * mottle) * (1 + 0.08 * textures.band(rng, size, 2.6))[..., None]
    normal = body.normals(0.6, bumps(textures.band(rng, size, max(2.5, radius * size / 9)), rng.uniform(0, 0.07)))
    lit = skin * lambert(normal, light) + _gloss(normal, light, rng.uniform(8, 60))[..., None] * rng.uniform(0.1, 0.7)
    dim = np.clip((grid(size)[1] - foot + radius * 0.5) / radius, 0, 0.5)[..., None]  # the table takes light away
    over(image, body.alpha, (lit * (1 - dim)).astype(np.float32))
    return (place - radius, foot - 2 * radius, place + radius, foot)


def _vase(rng, image: np.ndarray, place: float, foot: float, tall: float, light: Light) -> Box:
    """A turned vase: a profile of radii, normals of a round body, a glaze."""
    size = len(image)
    x, y = grid(size)
    t = np.clip((foot - y) / tall, 0, 1)
    knots = rng.uniform(0.1, 0.34, 5) * tall
    knots[1] = max(knots[1], 0.26 * tall)
    radius = np.interp(t, np.linspace(0, 1, 5), knots).astype(np.float32)
    radius = np.repeat(blurred(radius[:, :1, None], size / 14)[..., 0], size, axis=1)
    shadow(image, place - light.direction[0] * knots[0] * 1.2, foot - 0.01, knots.max() * 1.5, 0.05, 0.75)
    inside = cover(np.maximum(np.abs(x - place) - radius, np.maximum(foot - tall - y, y - foot - 0.2 * radius)), size)
    nx = np.clip((x - place) / np.maximum(radius, 1e-3), -0.98, 0.98)
    ny = -np.gradient(radius, axis=0) * size * 0.5
    length = np.maximum(np.sqrt(1 + ny**2), 1)
    normal = nx / length, ny / length, np.sqrt(1 - nx**2) / length
    glaze = hsv(rng.random(), rng.uniform(0.05, 0.6), rng.uniform(0.4, 0.9))
    coat = glaze * (1 + 0.08 * textures.fractal(rng, size, 1.0) + 0.05 * textures.band(rng, size, 3.0))[..., None]
    if rng.random() < 0.5:
        stripe = np.clip(np.sin(t * rng.uniform(15, 40)) * 6, 0, 1)
        over(coat, stripe * 0.8, hsv(rng.random(), 0.4, rng.uniform(0.2, 0.8)))
    lit = coat * lambert(normal, light) + _gloss(normal, light, rng.uniform(15, 60))[..., None] * rng.uniform(0.1, 0.6)
    over(image, inside, lit.astype(np.float32))
    return (place - float(radius.max()), foot - tall, place + float(radius.max()), foot)


def _gloss(normal, light: Light, power: float) -> np.ndarray:
    half = light.direction + np.float32((0, 0, 1))
    half /= np.linalg.norm(half)
    return np.clip(sum(n * h for n, h in zip(normal, half, strict=True)), 0, 1) ** np.float32(power)


def flower(rng: np.random.Generator, size: int, light: Light) -> tuple[np.ndarray, Box]:
    """One blossom before a garden out of focus; (picture, box of the blossom)."""
    image = backdrop(rng, size) * np.float32((0.6, 0.8, 0.5))
    x, y = grid(size)
    cx, cy = pick(rng, [0.36, 0.5, 0.64]) + rng.uniform(-0.04, 0.04), rng.uniform(0.36, 0.5)
    radius = rng.uniform(0.22, 0.32)
    stem = np.abs(x - cx - 0.1 * (y - cy) ** 2) - 0.012
    over(image, cover(np.maximum(stem, cy - y), size), hsv(0.28, 0.6, 0.45) * light.key)
    hue, petals = pick(rng, [rng.uniform(0.85, 1.02), rng.uniform(0.1, 0.17), rng.uniform(0.7, 0.8)]), 0
    for ring in range(int(rng.integers(1, 4))):
        petals, reach = int(rng.integers(5, 13)), radius * (1 - 0.24 * ring)
        angle = np.arctan2(y - cy, x - cx) * petals / 2 + rng.uniform(0, 3)
        r = np.hypot(x - cx, y - cy) * (1 + 0.03 * textures.fractal(rng, size, 1.5))
        fold = np.abs(np.cos(angle))
        edge = reach * (0.35 + 0.65 * fold ** rng.uniform(0.35, 0.8))
        vein = 1 + 0.12 * np.sin(angle * 16 + 2 * textures.fractal(rng, size, 1.2)) * np.clip(r / reach, 0, 1)
        tone = hsv(hue + 0.02 * ring, rng.uniform(0.35, 0.8), rng.uniform(0.75, 0.98))
        lit = (0.35 + 0.75 * fold) * (0.55 + 0.6 * np.clip(r / reach, 0, 1)) * vein
        facing = 1 + 0.35 * ((x - cx) * light.direction[0] + (y - cy) * light.direction[1]) / radius
        shade = blurred(cover(r - edge, size)[..., None], size / 40)[..., 0]
        image *= 1 - 0.4 * (shade * (r > edge * 0.8))[..., None]
        over(image, cover(r - edge, size, 1.5), (tone * (lit * facing)[..., None]).astype(np.float32))
    heart = np.hypot(x - cx, y - cy) - radius * rng.uniform(0.14, 0.24)
    grain = textures.band(rng, size, 3.0)
    over(
        image, cover(heart, size, 2), (hsv(0.12, 0.8, 0.75) * np.clip(1 + 0.4 * grain, 0.2, 2)[..., None]).astype("f4")
    )
    return image, (cx - radius, cy - radius, cx + radius, cy + radius)


def surface(rng: np.random.Generator, size: int, light: Light) -> tuple[np.ndarray, Box]:
    """Leaves, gravel, cloth or bark filling the picture under slanting light, one thing lying on it."""
    x, y = grid(size)
    what = rng.choice(["leaves", "gravel", "cloth", "bark"])
    if what in ("leaves", "gravel"):
        first, second, which = textures.cells(rng, size, int(rng.choice([400, 900, 1600])))
        dome = np.clip(second - first, 0, 0.5) ** 0.6
        height = dome * rng.uniform(1.5, 3.0) + 0.15 * textures.fractal(rng, size, 0.8) + which
        hue = rng.uniform(0.17, 0.36) if what == "leaves" else rng.uniform(0.03, 0.14)
        rich = 0.6 if what == "leaves" else 0.18
        one, two = hsv(hue, rich, 0.3), hsv(hue + rng.uniform(-0.07, 0.05), rich, rng.uniform(0.6, 0.8))
        albedo = (one + (two - one) * which[..., None]) * np.clip(0.3 + dome * 1.6, 0.15, 1.2)[..., None]
    elif what == "cloth":
        pitch = rng.uniform(1.0, 1.8)
        weave = np.sin(x * size * pitch) * np.sin(y * size * pitch)
        height = 3 * textures.fractal(rng, size, 2.2) * size / 128 + 0.35 * weave
        albedo = hsv(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.4, 0.85)) * (1 + 0.12 * weave)[..., None]
    else:
        height = 1.2 * textures.fractal(rng, size, 0.9, 5)
        albedo = hsv(rng.uniform(0.05, 0.1), 0.4, 0.5) * np.clip(1 + 0.35 * height, 0.2, 2)[..., None]
    nx, ny = bumps(height, 0.55)
    length = np.maximum(np.hypot(nx, ny), 1e-6)
    inside = np.minimum(length, 0.95)
    normal = nx / length * inside, ny / length * inside, np.sqrt(1 - inside**2)
    image = (albedo * lambert(normal, light) * (0.9 + 0.1 * textures.fractal(rng, size, 1.8))[..., None]).astype("f4")
    place = pick(rng, [1 / 3, 2 / 3]) + rng.uniform(-0.05, 0.05), pick(rng, [1 / 3, 2 / 3]) + 0.1
    return image, _fruit(rng, image, place[0], place[1] + 0.12, rng.uniform(0.09, 0.15), light)
