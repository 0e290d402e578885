"""Painting with light: coverage, shaded round bodies, shadows, and the camera that makes a photo of linear light.

Positions are in picture widths (x to the right, y down, 0 to 1); colours are linear light, float32 RGB.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter, uniform_filter

GAMMA = 2.2
LUMA = np.float32((0.2126, 0.7152, 0.0722))
Box = tuple[float, float, float, float]
"""left, top, right, bottom, in picture widths."""


@dataclass(frozen=True)
class Light:
    """One key light and what the surroundings fill in."""

    direction: np.ndarray
    """Unit vector towards the light: right, down, towards the camera."""
    key: np.ndarray
    fill: np.ndarray


def pick(rng: np.random.Generator, options: Sequence[float], p: Sequence[float] | None = None) -> float:
    """One of the numbers, as Python's float: numpy's would turn pictures into float64."""
    return float(rng.choice(options, p=p))


@lru_cache(maxsize=16)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the pixel centres, float32 [size, size]."""
    y, x = (np.mgrid[0:size, 0:size].astype(np.float32) + np.float32(0.5)) / np.float32(size)
    return x, y


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """A colour as people pick it, in linear light."""
    return np.float32(colorsys.hsv_to_rgb(hue % 1.0, saturation, value)) ** np.float32(GAMMA)


def draw_light(rng: np.random.Generator) -> Light:
    """Light from above on one side, warm or cool, hard or soft."""
    side = pick(rng, [-1.0, 1.0]) * rng.uniform(0.25, 0.9)
    direction = np.float32((side, -rng.uniform(0.35, 0.9), rng.uniform(0.5, 1.0)))
    warmth, soft = rng.uniform(-0.06, 0.16), rng.uniform(0.3, 0.6)
    key = np.float32((1 + warmth, 1.0, 1 - 1.3 * warmth)) * (1.35 - soft)
    return Light(direction / np.linalg.norm(direction), key, np.float32((1 - warmth / 2, 1.0, 1 + warmth / 2)) * soft)


def cover(distance: np.ndarray, size: int, soft: float = 1.0) -> np.ndarray:
    """Share of a pixel that lies inside, for signed distances (negative inside); the edge is `soft` pixels wide."""
    return np.clip(0.5 - distance * (size / soft), 0, 1)


def over(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> None:
    """Lay `colour` ([3] or a picture) over the picture where alpha [H, W] is above 0, in place."""
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(rows):
        return
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    image[box] += alpha[box][..., None] * ((colour[box] if colour.ndim == 3 else colour) - image[box])


def lambert(normal: Sequence[np.ndarray], light: Light) -> np.ndarray:
    """Light that a matt surface sends back, [H, W, 3]; a little reaches round the edge, as skin and cloth let it."""
    x, y, z = normal
    facing = x * light.direction[0] + y * light.direction[1] + z * light.direction[2]
    facing = np.clip((facing + 0.15) / 1.15, 0, None)
    sky = 0.75 + 0.25 * -y
    return facing[..., None] * light.key + sky[..., None] * light.fill


def bumps(height: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (across, down) of a noise field, to lean the normals of a rough surface."""
    across, down = np.empty_like(height), np.empty_like(height)
    across[:, 1:-1], down[1:-1] = height[:, 2:] - height[:, :-2], height[2:] - height[:-2]
    across[:, 0], across[:, -1], down[0], down[-1] = across[:, 1], across[:, -2], down[1], down[-2]
    return across * np.float32(-strength), down * np.float32(-strength)


class Body:
    """Round parts that grow together: capsules kept by height, with one smooth surface."""

    def __init__(self, size: int):
        self.size = size
        self.alpha = np.zeros((size, size), np.float32)
        self.albedo = np.zeros((size, size, 3), np.float32)
        self._height = np.full((size, size), -9.0, np.float32)
        self._lean = np.zeros((2, size, size), np.float32)

    def add(self, start, end, radii, colour: np.ndarray, *, lift: float = 0.0, rough: np.ndarray | None = None) -> None:
        """A capsule from `start` to `end` with a radius at each; `rough` [H, W] moves its edge (fur)."""
        box, (t, right, down) = self._near(start, end, max(radii) + (0.03 if rough is not None else 0.01))
        if t.size == 0:
            return
        radius = float(radii[0]) + float(radii[1] - radii[0]) * t
        if rough is not None:
            radius = radius + rough[box]
        square = (right**2 + down**2) / np.maximum(radius, 1e-4) ** 2
        distance = (np.sqrt(square) - 1) * radius
        self.alpha[box] = np.maximum(self.alpha[box], cover(distance, self.size))
        height = np.sqrt(np.clip(1 - square, 0, 1)) * radius + lift
        higher = (height > self._height[box]) & (distance * self.size < 0.5)
        self._height[box][higher] = height[higher]
        for lean, offset in zip(self._lean, (right, down), strict=True):
            lean[box][higher] = (offset / np.maximum(radius, 1e-4))[higher]
        self.albedo[box][higher] = colour

    def normals(self, smooth: float = 1.5, bump: tuple[np.ndarray, np.ndarray] | None = None):
        """Unit normals (x, y, z) of the surface, seams between parts rounded over `smooth` pixels."""
        weight = gaussian_filter(self.alpha, smooth) + 1e-4
        x, y = (gaussian_filter(lean * self.alpha, smooth) / weight for lean in self._lean)
        if bump is not None:
            x, y = x + bump[0], y + bump[1]
        length = np.maximum(np.hypot(x, y), 1e-6)
        inside = np.minimum(length, 0.98)
        return x / length * inside, y / length * inside, np.sqrt(1 - inside**2)

    def _near(self, start, end, margin: float):
        (x0, y0), (x1, y1) = ((float(x), float(y)) for x, y in (start, end))
        limits = [min(y0, y1) - margin, max(y0, y1) + margin, min(x0, x1) - margin, max(x0, x1) + margin]
        top, bottom, left, right = (int(np.clip(round(one * self.size), 0, self.size)) for one in limits)
        box = np.s_[top:bottom, left:right]
        x, y = (one[box] for one in grid(self.size))
        square = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-8)
        t = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / square, 0, 1)
        return box, (t, x - x0 - t * (x1 - x0), y - y0 - t * (y1 - y0))


def shadow(image: np.ndarray, x: float, y: float, wide: float, high: float, depth: float = 0.65) -> None:
    """A soft shadow on the ground, an ellipse around (x, y)."""
    across, down = grid(len(image))
    dark = np.exp(-(((across - x) / wide) ** 2 + ((down - y) / high) ** 2) * 1.5) * np.float32(depth)
    image *= 1 - dark[..., None]


def blurred(image: np.ndarray, pixels: float) -> np.ndarray:
    """Out of focus: a disc-like blur, three boxes one after the other."""
    width = max(1, round(pixels))
    for _ in range(3):
        image = uniform_filter(image, (width, width, 0), mode="reflect")
    return image


def photo(linear: np.ndarray, rng: np.random.Generator, key: tuple[float, float] = (0.09, 0.22)) -> np.ndarray:
    """uint8 RGB as a camera takes it: vignetting, lens blur, noise, a tone curve, sharpening; exposed so that the
    mean of the logarithm lies within `key`."""
    size = len(linear)
    x, y = grid(size)
    fall = 1 - rng.uniform(0, 0.35) * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    light = np.maximum(linear * fall[..., None], 0)
    light = gaussian_filter(light, (rng.uniform(0.3, 0.5),) * 2 + (0,), truncate=2.5)
    luma = light @ LUMA
    middle = float(np.exp(np.mean(np.log(luma + 0.02))))
    contrast = (luma / middle + 1e-3) ** np.float32(rng.uniform(-0.1, 0.6))
    light *= (rng.uniform(*key) / middle * contrast)[..., None]
    white = max(float(np.quantile(light @ LUMA, 0.98)), 0.5) * rng.uniform(1.1, 1.5)
    light = light * (1 + light / white**2) / (1 + 0.5 * light)  # a shoulder, after Reinhard 2002, equation 4
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    light += noise * np.sqrt(np.maximum(light, 0) * rng.uniform(2e-5, 2e-4) + 1e-6).astype(np.float32)
    encoded = np.clip(light, 0, 1) ** np.float32(1 / GAMMA)
    if rng.random() < 0.5:
        encoded += (encoded - gaussian_filter(encoded, (0.8, 0.8, 0), truncate=2.5)) * np.float32(rng.uniform(0.2, 0.8))
    bend = rng.uniform(0, 0.35)
    encoded += bend * (encoded * encoded * (3 - 2 * encoded) - encoded)
    return (np.clip(encoded, 0, 1) * 255 + 0.5).astype(np.uint8)
