"""Places as a camera sees them: mountains, meadows and water under a sky; streets of houses. Linear light."""

from itertools import pairwise

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from data_synth.gallery import textures
from data_synth.gallery.paint import Box, Light, bumps, cover, grid, hsv, lambert, over, pick, shadow


def sky(rng: np.random.Generator, size: int, horizon: float, light: Light) -> np.ndarray:
    """Clear, cloudy or evening sky over the whole picture, brightest at the horizon."""
    _, y = grid(size)
    evening = rng.random() < 0.3
    high = hsv(rng.uniform(0.55, 0.63), rng.uniform(0.35, 0.75), rng.uniform(0.55, 0.9))
    low = hsv(rng.uniform(0.04, 0.12), rng.uniform(0.3, 0.6), 1.0) if evening else hsv(0.56, rng.uniform(0.05, 0.25), 1)
    fade = np.clip(y / max(horizon, 0.1), 0, 1)[..., None] ** rng.uniform(0.8, 1.8)
    image = high + (low - high) * fade
    amount = rng.uniform(-1.2, 1.0)  # of clouds
    seen = np.clip(horizon - y, 0, 1) / max(horizon, 0.1)
    u, v = (grid(size)[0] - 0.5) / (0.25 + seen), 1 / (0.25 + seen)  # clouds lie flat: small near the horizon
    tile, du, dv = textures.tile_of(1.6), *rng.uniform(0, textures.TILE, 2)
    density = textures.at(tile, u * 90 + du, v * 110 + dv) + textures.at(tile, u * 300 + dv, v * 300 + du) * 0.25
    lit = density - textures.at(tile, u * 90 + du + 6 * light.direction[0], v * 110 + dv - 6)
    cloud = np.clip((density + amount - 0.3) * 0.9, 0, 1) ** 1.2
    white = low * 0.25 + np.float32((0.72, 0.74, 0.78))
    over(image, cloud * rng.uniform(0.7, 1.0), white * (0.82 + 0.5 * np.clip(lit, -0.6, 0.6))[..., None])
    return image.astype(np.float32)


def ground(rng: np.random.Generator, size: int, horizon: float, light: Light, hue: float | None = None) -> np.ndarray:
    """Grass, sand or soil in perspective over the whole picture; only what lies under the horizon makes sense."""
    x, y = grid(size)
    depth = 1 / np.maximum(y - horizon + 0.04, 0.03)
    u, v = (x - 0.5) * depth * size * 0.35, depth * size * 0.35
    du, dv = rng.uniform(0, textures.TILE, 2)
    patches = textures.at(textures.tile_of(1.5), u * 0.3 + du, v * 0.3 + dv)
    blades = textures.at(textures.tile_of(0.5, 3), u * 1.3 + dv, v * 0.8 + du)
    hue = pick(rng, [rng.uniform(0.2, 0.33), rng.uniform(0.08, 0.14)]) if hue is None else hue
    one, two = hsv(hue, rng.uniform(0.4, 0.65), rng.uniform(0.4, 0.6)), hsv(hue - 0.06, 0.5, rng.uniform(0.5, 0.75))
    mix = np.clip(0.5 + 0.3 * patches, 0, 1)[..., None]
    image = one + (two - one) * mix
    relief = 1 + np.clip(0.33 * blades, -0.75, 1.2) * np.clip((y - horizon) * 4, 0.25, 1)
    return (image * relief[..., None] * (light.key * 0.7 + light.fill * 0.6)).astype(np.float32)


def landscape(rng: np.random.Generator, size: int, light: Light) -> tuple[np.ndarray, Box]:
    """Ranges of hills, a meadow or a lake, and a tree or a house at a third; (picture, box of the subject)."""
    horizon = pick(rng, [1 / 3, 0.6, 2 / 3]) + rng.uniform(-0.05, 0.05)
    image = sky(rng, size, horizon, light)
    haze = image[int(horizon * size) - 1].mean(0)
    for number in range(int(rng.integers(1, 5))):
        _range(rng, image, horizon, number / 4, haze, light)
    _, y = grid(size)
    soil = ground(rng, size, horizon, light)
    soft, shore = gaussian_filter1d(textures.fractal(rng, size, 1.0)[0], 1.0)[None, :] * 0.006, horizon
    if rng.random() < 0.3:
        shore = horizon + 0.6 * (1 - horizon)
        soil, soft = _water(rng, image, horizon, shore, soil), 0.0
    over(image, cover(horizon + soft - y, size), soil)
    place = pick(rng, [1 / 3, 2 / 3]) + rng.uniform(-0.04, 0.04)
    foot = min(shore + rng.uniform(0.08, 0.22), 0.95)
    if rng.random() < 0.25:
        return image, _house(rng, image, place, foot, light)
    tall = rng.uniform(0.3, min(0.6, foot - 0.05))
    for _ in range(int(rng.integers(0, 3)) if shore == horizon else 0):  # smaller ones, farther away
        far = horizon + rng.uniform(0.01, 0.05)
        tree(rng, image, rng.random(), far, rng.uniform(0.08, 0.2), light)
    return image, tree(rng, image, place, foot, tall, light)


def _range(rng, image: np.ndarray, horizon: float, near: float, haze: np.ndarray, light: Light) -> None:
    """One range of hills or mountains behind the horizon; `near` in [0, 1) takes the haze away."""
    size = len(image)
    _, y = grid(size)
    profile = textures.fractal(rng, size, rng.uniform(1.4, 1.7) if near < 0.5 else 1.8)[size // 2]
    profile = gaussian_filter1d(profile, 1.0 if near < 0.5 else size / 40)
    ridge = horizon - (rng.uniform(0.08, 0.24) * (1 - near) + 0.03) * (1 + 0.5 * profile)
    slope = bumps(textures.fractal(rng, size, 1.5), 1.6)
    lean = np.maximum(1.0, np.hypot(*slope) / 0.9)
    nx, ny = slope[0] / lean, slope[1] / lean
    lit = lambert((nx, ny, np.sqrt(np.clip(1 - nx**2 - ny**2, 0, 1))), light)
    colour = hsv(rng.uniform(0.06, 0.12), 0.25, 0.6) if rng.random() < 0.4 else hsv(rng.uniform(0.22, 0.4), 0.45, 0.4)
    rock = colour * (1 + 0.25 * np.clip(textures.fractal(rng, size, 0.8), -2, 2))[..., None] * lit
    if near == 0 and rng.random() < 0.5:  # snow lies high and where it is not too steep
        snow = np.clip(((horizon - y) / 0.25 - 0.55 + 0.2 * ny) * 4, 0, 1)
        over(rock, snow, lit * np.float32(0.9))
    rock += (haze - rock) * np.float32(0.7 * (1 - near) ** 1.3)
    over(image, cover(ridge[None, :] - y, size), rock.astype(np.float32))


def _water(rng, image: np.ndarray, horizon: float, shore: float, soil: np.ndarray) -> np.ndarray:
    """A lake that mirrors what stands above, with waves longer across than down, and a shore in front."""
    size = len(image)
    x, y = grid(size)
    depth = 1 / np.maximum(y - horizon + 0.03, 0.03)
    du, dv = rng.uniform(0, textures.TILE, 2)
    wave = textures.at(textures.tile_of(1.0), (x - 0.5) * depth * 12 + du, depth * 60 + dv)
    rows = np.clip((2 * horizon - y) * size + wave * 0.02 * size * np.clip((y - horizon) * 6, 0.1, 1), 0, size - 1)
    columns = np.broadcast_to(np.arange(size), (size, size))
    mirrored = gaussian_filter(image, (1.5, 0.4, 0))[rows.astype(int), columns]
    water = mirrored * np.float32((0.72, 0.8, 0.82)) * (1 + 0.12 * wave[..., None])
    bank = shore + 0.02 * textures.fractal(rng, size, 1.4)[0][None, :]
    over(water, cover(bank - y, size, 2), soil)
    return water.astype(np.float32)


def tree(rng: np.random.Generator, image: np.ndarray, place: float, foot: float, tall: float, light: Light) -> Box:
    """A tree that stands at (place, foot), its crown of lit and shaded leaves; returns its box."""
    size = len(image)
    x, y = grid(size)
    wide = tall * rng.uniform(0.28, 0.5)
    shadow(image, place - light.direction[0] * tall * 0.35, foot, wide * 1.5, tall * 0.09)
    trunk = np.abs(x - place + 0.01 * np.sin(y * 30)) - tall * 0.03 * (1 + np.clip((y - foot) / tall + 0.3, 0, 1))
    inside = np.maximum(np.maximum(trunk, foot - tall * 0.7 - y), y - foot)
    bark = hsv(0.07, 0.35, 0.35) * (1 + 0.35 * textures.fractal(rng, size, 0.7, 4))[..., None]
    round_ = np.clip(0.7 + (x - place) / (tall * 0.06) * light.direction[0], 0.2, 1.3)[..., None]
    over(image, cover(inside, size), (bark * round_).astype(np.float32))
    centre = foot - tall * 0.66
    px, py = (x - place) / wide, (y - centre) / (tall * 0.36)
    pine = rng.random() < 0.3
    edge = np.abs(px) * 1.5 - np.clip((y - foot + tall) / (tall * 0.9), -0.5, 1) if pine else np.hypot(px, py) - 0.95
    edge = np.maximum(edge, (y - foot + tall * 0.12) / wide) if pine else edge
    clumps = textures.band(rng, size, max(4.0, tall * size / 7))
    leaves = textures.band(rng, size, max(2.5, tall * size / 28))
    ragged = np.clip((y - foot + tall) * 9, 0.1, 1) if pine else 1.0  # the tip of a pine is no cloud of leaves
    edge = edge + (0.13 * clumps + 0.07 * leaves) * ragged * (0.6 if pine else 1.0)
    lean = bumps(clumps, 0.35), bumps(leaves, 0.3)
    nx, ny = (0.7 * np.clip(p, -1, 1) + a + b for p, a, b in zip((px, py), *lean, strict=True))
    length = np.maximum(np.sqrt(nx**2 + ny**2), 1.0)
    lit = lambert((nx / length, ny / length, np.sqrt(np.clip(1 - (nx**2 + ny**2) / length**2, 0, 1))), light)
    hue = pick(rng, [rng.uniform(0.2, 0.34), rng.uniform(0.03, 0.13)], p=[0.8, 0.2])
    green = hsv(hue, rng.uniform(0.45, 0.75), rng.uniform(0.35, 0.6))
    dapple = np.clip(1 + 0.45 * leaves + 0.3 * clumps, 0.12, 2.2)[..., None]
    over(image, np.clip(-edge * 9, 0, 1), (green * dapple * lit).astype(np.float32))
    return (place - wide, foot - tall, place + wide, foot)


def _house(rng, image: np.ndarray, place: float, foot: float, light: Light) -> Box:
    size = len(image)
    x, y = grid(size)
    wide, tall = rng.uniform(0.14, 0.2), rng.uniform(0.13, 0.2)
    shadow(image, place - light.direction[0] * wide * 0.5, foot + 0.01, wide * 1.4, 0.04)
    wall = hsv(rng.random(), rng.uniform(0.05, 0.4), rng.uniform(0.6, 0.9)) * (light.key * 0.6 + light.fill)
    rough = (1 + 0.07 * textures.fractal(rng, size, 0.8))[..., None]
    inside = np.maximum(np.abs(x - place) - wide, np.maximum(foot - tall - y, y - foot))
    over(image, cover(inside, size), (wall * rough).astype(np.float32))
    roof = np.maximum((np.abs(x - place) - wide * 1.15) - (y - (foot - tall)) * 1.2, y - (foot - tall) - 0.004)
    roof = np.maximum(roof, foot - tall - wide * 0.75 - y)
    tiles = (1 + 0.3 * np.sin(y * size * 1.1) + 0.15 * textures.fractal(rng, size, 0.5))[..., None]
    over(image, cover(roof, size), (hsv(rng.uniform(0, 0.08), 0.6, 0.55) * tiles * light.key).astype(np.float32))
    for column in (-0.5, 0.5):
        pane = np.maximum(np.abs(x - place - column * wide) - wide * 0.18, np.abs(y - foot + tall * 0.55) - tall * 0.2)
        over(image, cover(pane - 0.008, size), np.float32((0.75, 0.73, 0.7)))
        over(image, cover(pane, size), hsv(0.58, 0.3, 0.25))
    door = np.maximum(np.abs(x - place) - wide * 0.14, np.maximum(foot - tall * 0.6 - y, y - foot))
    over(image, cover(door, size), hsv(rng.random(), 0.5, 0.35))
    return (place - wide * 1.2, foot - tall - wide * 0.75, place + wide * 1.2, foot)


def night(rng: np.random.Generator, size: int, light: Light) -> tuple[np.ndarray, Box]:
    """The street after dark: windows and lamps lit, the rest in blue; (picture, box of the tallest house)."""
    return street(rng, size, light, lit=rng.uniform(0.25, 0.7))


def street(rng: np.random.Generator, size: int, light: Light, lit: float = 0.0) -> tuple[np.ndarray, Box]:
    """A row of houses along a street; (picture, box of the tallest). `lit`: share of windows with light, by night."""
    horizon = rng.uniform(0.7, 0.82)
    image = sky(rng, size, horizon, light)
    over(image, cover(horizon - grid(size)[1], size), _road(rng, size, horizon, light))
    if lit:
        image *= np.float32((0.03, 0.045, 0.09))
    edges = np.cumsum(np.concatenate([[rng.uniform(-0.15, 0)], rng.uniform(0.2, 0.38, 6)]))
    tallest, box = 0.0, (0.3, 0.2, 0.6, horizon)
    for left, right in pairwise(edges):
        if left < 1:
            tall = rng.uniform(0.3, horizon - 0.06)
            _facade(rng, image, left, right, horizon - tall, horizon, light, lit)
            if tall > tallest and right <= 1:
                tallest, box = tall, (max(left, 0.0), horizon - tall, min(right, 1.0), horizon)
    if lit:
        _lamps(rng, image, horizon)
    return image, box


def _lamps(rng: np.random.Generator, image: np.ndarray, horizon: float) -> None:
    """Street lamps with a glow, and what of it falls on the road."""
    x, y = grid(len(image))
    for place in np.arange(rng.uniform(0.05, 0.25), 1, rng.uniform(0.22, 0.4)).tolist():
        pole = np.maximum(np.abs(x - place) - 0.006, np.maximum(horizon - 0.3 - y, y - horizon - 0.04))
        over(image, cover(pole, len(image)), np.float32((0.01, 0.01, 0.012)))
        far = (x - place) ** 2 + (y - horizon + 0.3) ** 2
        pool = ((x - place) / 0.14) ** 2 + ((y - horizon - 0.06) / 0.05) ** 2
        glow = 0.9 * np.exp(-far / 0.0002) + 0.1 * np.exp(-far / 0.006) + 0.12 * np.exp(-pool)
        image += glow[..., None] * np.float32((1.6, 1.1, 0.6))


def _road(rng, size: int, horizon: float, light: Light) -> np.ndarray:
    x, y = grid(size)
    depth = 1 / np.maximum(y - horizon + 0.06, 0.05)
    du, dv = rng.uniform(0, textures.TILE, 2)
    grain = textures.at(textures.tile_of(0.4), (x - 0.5) * depth * size * 0.4 + du, depth * size * 0.4 + dv)
    asphalt = np.float32((0.13, 0.13, 0.135)) * (1 + 0.3 * grain)[..., None] * (light.key + light.fill) * 0.8
    kerb = cover(y - horizon - 0.035, size)
    over(asphalt, kerb, np.float32((0.33, 0.32, 0.3)) * (1 + 0.1 * grain)[..., None] * light.key)
    line = cover(np.maximum(np.abs(y - horizon - 0.13) - 0.008, np.abs((x * 6) % 1 - 0.5) / 6 - 0.05), size)
    over(asphalt, line, np.float32((0.6, 0.6, 0.58)))
    return asphalt.astype(np.float32)


def _facade(
    rng, image: np.ndarray, left: float, right: float, top: float, foot: float, light: Light, lit: float
) -> None:
    size = len(image)
    x, y = grid(size)
    inside = cover(np.maximum(np.abs(x - (left + right) / 2) - (right - left) / 2, np.maximum(top - y, y - foot)), size)
    hue = pick(rng, [rng.uniform(0.02, 0.13), rng.uniform(0.5, 0.65)], p=[0.75, 0.25])
    wall = hsv(hue, rng.uniform(0.1, 0.55), rng.uniform(0.45, 0.85))
    plaster = 1 + 0.08 * textures.fractal(rng, size, 1.0) + 0.05 * textures.band(rng, size, 2.5)
    if rng.random() < 0.4:  # bricks
        row = np.floor(y * size / 4)
        joint = np.minimum((y * size / 4) % 1, ((x * size / 9) + 0.5 * (row % 2)) % 1)
        plaster = plaster * np.where(joint < 0.16, 1.18, 0.95)
    weather = 1 - 0.25 * np.clip((y - top) / (foot - top), 0, 1) ** 3
    shade = rng.uniform(0.55, 1.0)
    paint = wall * (plaster * weather)[..., None] * (light.key * shade + light.fill)
    floors, columns = max(2, round((foot - top) / rng.uniform(0.1, 0.15))), max(2, round((right - left) / 0.09))
    u, v = (x - left) / (right - left) * columns, (y - top) / (foot - top) * floors
    cu, cv = u % 1 - 0.5, v % 1 - 0.5
    wide, tall = rng.uniform(0.2, 0.3), rng.uniform(0.26, 0.36)
    pixel = 1 / (right - left) * columns / size
    frame = cover(np.maximum(np.abs(cu) - wide - 0.06, np.abs(cv) - tall - 0.05) / pixel / size, size)
    over(paint, frame * (v > 0.25), np.float32((0.55, 0.54, 0.5)) * light.key * shade)
    glass = textures.crop(rng, textures.tile_of(1.5), size) * 0.06 + 0.1 + 0.25 * _hashed(np.floor(u), np.floor(v), rng)
    pane = cover(np.maximum(np.abs(cu) - wide, np.abs(cv) - tall) / pixel / size, size)
    panes = np.clip(glass, 0.02, 1)[..., None] * np.float32((0.55, 0.7, 0.85))
    if lit:
        paint *= np.float32((0.05, 0.06, 0.09))
        bright = (_hashed(np.floor(u), np.floor(v), rng) < lit) * np.clip(0.5 + cv + 0.15 * glass, 0.2, 1.2)
        panes = panes * 0.05 + bright[..., None] * np.float32((1.1, 0.75, 0.35))
    over(paint, pane * (v > 0.25), panes)
    over(paint, cover(y - top - 0.012, size), wall * 0.5)
    over(image, inside, paint.astype(np.float32))


def _hashed(u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A value in [0, 1) for each window."""
    return (np.sin(u * 12.9898 + v * 78.233 + rng.uniform(0, 9)) * 43758.5453) % 1
