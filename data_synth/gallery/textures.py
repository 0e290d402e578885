"""Noise fields with the statistics of natural surfaces, drawn from periodic tiles that are made once.

Natural pictures have amplitude spectra near 1/f (Field 1987), so most fields here are 1/f^exponent; band fields have
one wavelength (pores, weave, leaves), cell fields the distances of Worley noise (1996: gravel, stones, leaves).
"""

from functools import lru_cache

import numpy as np
from scipy import fft
from scipy.spatial import cKDTree

TILE = 512  # pixels; larger pictures repeat it


def fractal(rng: np.random.Generator, size: int, exponent: float = 1.0, stretch: int = 1) -> np.ndarray:
    """Float32 [size, size] of mean 0 and deviation 1 over the tile, amplitude 1 / f^exponent; `stretch` times longer
    downwards than across (hair, bark)."""
    return crop(rng, _fractal(exponent, stretch), size)


def band(rng: np.random.Generator, size: int, wavelength: float) -> np.ndarray:
    """Float32 [size, size], mean 0, deviation 1, blobs of one wavelength in pixels."""
    return crop(rng, _band(round(wavelength, 1)), size)


def cells(rng: np.random.Generator, size: int, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(distance to the nearest of `number` points on the tile, to the second nearest, a value in [0, 1) of the nearest)
    float32 [size, size] each, distances in mean cell widths."""
    tiles = _cells(number)
    rows, columns = _place(rng, size)
    return tuple(tile[rows, columns] for tile in tiles)


def crop(rng: np.random.Generator, tile: np.ndarray, size: int) -> np.ndarray:
    """A random piece of a tile, [size, size]."""
    rows, columns = _place(rng, size)
    return tile[rows, columns]


def at(tile: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The tile where (u across, v down) point, in pixels of the tile; linear between them, repeating."""
    u0, v0 = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    fu, fv = u - u0, v - v0
    u0, v0, u1, v1 = u0 % TILE, v0 % TILE, (u0 + 1) % TILE, (v0 + 1) % TILE
    upper = tile[v0, u0] * (1 - fu) + tile[v0, u1] * fu
    return upper * (1 - fv) + (tile[v1, u0] * (1 - fu) + tile[v1, u1] * fu) * fv


def tile_of(exponent: float, stretch: int = 1) -> np.ndarray:
    """The whole periodic tile of `fractal`, for `at`."""
    return _fractal(exponent, stretch)


def tile_of_band(wavelength: float) -> np.ndarray:
    """The whole periodic tile of `band`, for `at`."""
    return _band(round(wavelength, 1))


def _place(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    top, left = rng.integers(TILE, size=2)
    steps = np.arange(size)
    return (top + steps)[:, None] % TILE, (left + steps)[None, :] % TILE


@lru_cache(maxsize=32)
def _fractal(exponent: float, stretch: int) -> np.ndarray:
    vertical, horizontal = fft.fftfreq(TILE)[:, None], fft.rfftfreq(TILE)[None, :]
    frequency = np.hypot(vertical * stretch, horizontal)
    frequency[0, 0] = np.inf
    return _field(1 / np.maximum(frequency, 2 / TILE) ** exponent * (frequency < np.inf), int(exponent * 10) + stretch)


@lru_cache(maxsize=64)
def _band(wavelength: float) -> np.ndarray:
    frequency = np.hypot(fft.fftfreq(TILE)[:, None], fft.rfftfreq(TILE)[None, :])
    return _field(np.exp(-((np.log2(frequency * wavelength + 1e-9) / 0.5) ** 2)), int(wavelength * 10))


@lru_cache(maxsize=16)
def _cells(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    points = rng.random((number, 2)) * TILE
    where = np.stack(np.mgrid[0:TILE, 0:TILE], axis=-1).reshape(-1, 2) + 0.5
    distance, index = cKDTree(points, boxsize=TILE).query(where, k=2)
    width = TILE / number**0.5
    first, second = (distance[:, k].reshape(TILE, TILE).astype(np.float32) / width for k in (0, 1))
    return first, second, rng.random(number).astype(np.float32)[index[:, 0]].reshape(TILE, TILE)


def _field(amplitude: np.ndarray, seed: int) -> np.ndarray:
    spectrum = fft.rfft2(np.random.default_rng(seed).standard_normal((TILE, TILE))) * amplitude
    field = fft.irfft2(spectrum, s=(TILE, TILE))
    return ((field - field.mean()) / field.std()).astype(np.float32)
