"""Things that cover each other: the dead leaves model, which has the edges and the scales of natural pictures.

Lee, Mumford and Huang 2001, "Occlusion models for natural images": shapes of radii with density r^-3, the nearer over
the farther. Here each has a shape, a material, light from one side and a shadow. Linear light.
"""

import numpy as np

from data_synth.gallery import textures
from data_synth.gallery.paint import Box, Light, grid, hsv, pick


def clutter(rng: np.random.Generator, size: int, light: Light) -> tuple[np.ndarray, Box]:
    """A heap of things, the one on top at a third; (picture, its box)."""
    image = heap(rng, size, light, int(rng.integers(40, 110)))
    x, y = (pick(rng, (1 / 3, 2 / 3)) + rng.uniform(-0.04, 0.04) for _ in range(2))
    radius = rng.uniform(0.14, 0.22)
    _thing(rng, image, x, y, radius, light, _materials(rng, size, 1), hsv(rng.random(), 0.6, 0.8))
    return image, (x - radius, y - radius, x + radius, y + radius)


def heap(rng: np.random.Generator, size: int, light: Light, number: int) -> np.ndarray:
    """Things of all sizes, in one palette, float32 [size, size, 3]."""
    image = np.empty((size, size, 3), np.float32)
    hue, spread = rng.random(), pick(rng, [0.06, 0.2, 0.5])
    image[:] = hsv(hue, 0.3, 0.3)
    materials = _materials(rng, size, 4)
    smallest, largest = 0.02, 0.4
    u = rng.random(number)
    radii = 1 / np.sqrt(u / smallest**2 + (1 - u) / largest**2)  # density r^-3 between the two
    radii[: number // 8] = rng.uniform(0.15, largest, number // 8)  # the farthest fill the picture
    for radius in radii:
        colour = hsv(hue + rng.normal() * spread, rng.beta(1.3, 3.0), rng.uniform(0.15, 0.95))
        _thing(rng, image, rng.uniform(-0.05, 1.05), rng.uniform(-0.05, 1.05), float(radius), light, materials, colour)
    return image


def _materials(rng: np.random.Generator, size: int, number: int) -> list[np.ndarray]:
    """Noise fields to lay on things: rough, woven, grained, smooth."""
    makers = (
        lambda: 0.3 * textures.fractal(rng, size, 0.8),
        lambda: 0.2 * textures.fractal(rng, size, 1.4),
        lambda: 0.3 * textures.fractal(rng, size, 0.7, 5),
        lambda: 0.18 * textures.band(rng, size, float(rng.choice([2.5, 4.0, 7.0]))),
        lambda: 0.5 * (textures.cells(rng, size, 1600)[0] - 0.5),
        lambda: 0.06 * textures.fractal(rng, size, 1.6),
    )
    return [np.clip(1 + makers[k](), 0.1, 2) for k in rng.choice(len(makers), number, replace=False)]


def _thing(rng, image: np.ndarray, x: float, y: float, radius: float, light: Light, materials, colour) -> None:
    size = len(image)
    left, right = (int(np.clip(round((x + s * radius * 1.5) * size), 0, size)) for s in (-1, 1))
    top, bottom = (int(np.clip(round((y + s * radius * 1.5) * size), 0, size)) for s in (-1, 1))
    box = np.s_[top:bottom, left:right]
    dx, dy = (one[box] - centre for one, centre in zip(grid(size), (x, y), strict=True))
    if not dx.size:
        return
    turn, flat, power = rng.uniform(0, np.pi), rng.uniform(0.4, 1.0), pick(rng, [1.2, 2.0, 2.0, 8.0])
    u, v = np.cos(turn) * dx + np.sin(turn) * dy, (np.cos(turn) * dy - np.sin(turn) * dx) / flat
    reach = (np.abs(u / radius) ** power + np.abs(v / radius) ** power) ** (1 / power)
    edge = (1 - reach) * (radius * flat * size)  # pixels inside
    du, dv = dx + light.direction[0] * radius * 0.3, dy + light.direction[1] * radius * 0.3
    dark = np.clip(1.25 - np.hypot(du, dv) / radius, 0, 0.5)[..., None]
    bent = 1 + rng.uniform(0, 0.8) * (dx * light.direction[0] + dy * light.direction[1]) / radius
    lit = np.clip(bent, 0.15, 2) * materials[rng.integers(len(materials))][box]
    tone = colour * (light.key * np.float32(rng.uniform(0.3, 1.0)) + light.fill * 0.7)
    piece = image[box]
    piece *= 1 - dark
    piece += np.clip(edge + 0.5, 0, 1)[..., None] * (lit[..., None] * tone - piece)
