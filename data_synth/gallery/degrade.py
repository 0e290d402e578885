"""Ways to spoil a picture, each a function (image, strength in (0, 1], rng, box) -> image of the same shape.

    spoilt = DEGRADATIONS["blur"](image, 0.5, np.random.default_rng(0))

A stronger strength with an equally seeded generator is the same fault, farther from the original
(root mean square; for banding fewer levels; for composition a view farther away); from 0.2 on it can be
seen wherever there is something to spoil (`visible` says whether: a grey picture has no colour to lose). `box` is the
subject's or face's (left, top, right, bottom in shares of the width and height): composition cuts it off,
over_smoothed_skin smooths it; the others do not need it. Lengths scale with the picture's shorter side.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d, uniform_filter

GAMMA = 2.2
ATTRIBUTES = ("composition", "exposure", "colour", "sharpness", "artefacts")
VISIBLE = 2.5
"""`difference`, in levels of 255, from which one picture can be told from another side by side."""
_LUMA = np.float32((0.2126, 0.7152, 0.0722))
Box = tuple[float, float, float, float]
Function = Callable[[np.ndarray, float, np.random.Generator, Box | None], np.ndarray]


@dataclass(frozen=True)
class Degradation:
    """A fault, the attribute whose rating it lowers, and whether a strong one is a reason to refuse the picture
    (`veto`: what only generated photos have)."""

    function: Function
    attribute: str
    veto: bool = False

    def __call__(
        self, image: np.ndarray, strength: float, rng: np.random.Generator, box: Box | None = None
    ) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [H, W, 3]. Raises ValueError for another array and a strength outside (0, 1]."""
        if not (image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and min(image.shape[:2]) >= 16):
            raise ValueError(f"image is {image.dtype} {image.shape}; expected uint8 [H, W, 3], at least 16 x 16.")
        if not 0 < strength <= 1:
            raise ValueError(f"strength is {strength}; expected above 0, at most 1.")
        return self.function(image, strength, rng, box)


def difference(one: np.ndarray, two: np.ndarray) -> float:
    """Root mean square difference in levels of 255, of the worst tenth of blocks of 8 x 8 pixels."""
    square = np.square(one.astype(np.float32) - two).mean(axis=2)
    height, width = (side // 8 * 8 for side in square.shape)
    blocks = square[:height, :width].reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3)).ravel()
    worst = max(1, len(blocks) // 10)
    return float(np.sqrt(np.partition(blocks, -worst)[-worst:].mean()))


def visible(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether a person who looks at both can tell them apart."""
    return difference(one, two) >= VISIBLE


def exposure_under(image, strength, rng, box=None):
    """Up to 3.2 stops darker."""
    return _encoded(_linear(image) * np.float32(2 ** (-3.2 * strength)))


def exposure_over(image, strength, rng, box=None):
    """Up to 2.4 stops brighter, highlights clipped."""
    return _encoded(_linear(image) * np.float32(2 ** (2.4 * strength)))


def low_contrast(image, strength, rng, box=None):
    """Towards a light grey, as through haze."""
    picture = _float(image)
    grey = 0.5 * float((picture @ _LUMA).mean()) + 0.27
    return _levels(grey + (picture - grey) * np.float32(1 - 0.85 * strength))


def colour_cast(image, strength, rng, box=None):
    """A wrong white balance: too warm, too cold, green or magenta; luminance stays."""
    casts = ((1.0, 0.1, -1.2), (-1.1, 0.0, 1.0), (-0.7, 0.6, -0.7), (0.6, -0.7, 0.6))
    gain = np.exp(np.float32(casts[rng.integers(len(casts))]) * np.float32(1.1 * strength))
    linear = _linear(image)
    cast = linear * gain
    return _encoded(cast * (((linear @ _LUMA).mean() + 1e-4) / ((cast @ _LUMA).mean() + 1e-4)))


def over_saturation(image, strength, rng, box=None):
    """Colours up to 3.5 times as strong, clipped."""
    return _chroma(image, 1 + 2.5 * strength)


def desaturation(image, strength, rng, box=None):
    """Colours fade to grey."""
    return _chroma(image, 1 - strength**0.75)


def blur(image, strength, rng, box=None):
    """Out of focus: a Gaussian of up to a 38th of the shorter side."""
    sigma = strength * min(image.shape[:2]) / 38 + 0.35 * min(1.0, 3 * strength)
    return _levels(gaussian_filter(_float(image), (sigma, sigma, 0), truncate=3.0))


def motion_blur(image, strength, rng, box=None):
    """The camera moved along a line, by about a tenth of the shorter side, slowest in the middle of its way."""
    sigma, angle = strength * min(image.shape[:2]) / 34 + 0.4 * min(1.0, 3 * strength), rng.uniform(0, np.pi)
    picture = _float(image)
    if rng.random() < 0.5:  # along an axis, as most shakes are
        return _levels(gaussian_filter1d(picture, sigma, axis=int(angle > np.pi / 2), mode="nearest", truncate=2.5))
    reach = int(np.ceil(2.5 * sigma))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-((steps / sigma) ** 2) / 2)
    height, width = image.shape[:2]
    padded = np.pad(picture, ((reach + 1, reach + 1), (reach + 1, reach + 1), (0, 0)), mode="edge")
    total = np.zeros_like(picture)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        y, x = reach + 1 + step * np.sin(angle), reach + 1 + step * np.cos(angle)
        top, left = int(np.floor(y)), int(np.floor(x))
        fy, fx = np.float32(y - top), np.float32(x - left)
        near = padded[top : top + height + 1, left : left + width + 1]
        rows = near[:-1] * (1 - fy) + near[1:] * fy
        total += np.float32(weight) * (rows[:, :-1] * (1 - fx) + rows[:, 1:] * fx)
    return _levels(total)


def noise(image, strength, rng, box=None):
    """Sensor noise of up to 0.15 of full scale, in brightness more than in colour, weaker in the lights."""
    picture = _float(image)
    luma = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None]
    colour = rng.standard_normal(image.shape, dtype=np.float32)
    return _levels(picture + np.float32(0.15 * strength**0.8) * (0.75 * luma + 0.5 * colour) * (1.15 - 0.5 * picture))


def jpeg(image, strength, rng, box=None):
    """JPEG of quality 32 (at 0.2) down to 5."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=round(5 + 38 * (1 - strength) ** 1.5), subsampling=2)
    return np.asarray(Image.open(file).convert("RGB"))


def over_smoothed_skin(image, strength, rng, box=None):
    """Plastic skin: pores and small shades smoothed away, edges kept; in the face where there is a box, or all over."""
    picture = _float(image)
    radius = max(2, round(min(image.shape[:2]) / 26))
    smooth = _flattened(picture, radius, 0.004 if box is None else 0.006)
    share = np.float32(strength**0.6)
    if box is not None:
        x, y = _grid(image)
        left, top, right, bottom = box
        away = np.hypot((x - (left + right) / 2) / (right - left), (y - (top + bottom) / 2) / (bottom - top)) * 2
        share = np.clip((1.15 - away) * 5, 0, 1)[..., None] * share
    return _levels(picture + (smooth - picture) * share)


def missing_texture(image, strength, rng, box=None):
    """Patches where nothing but outlines is left of the surface; a stronger fault has more of them."""
    picture = _float(image)
    radius = max(2, round(min(image.shape[:2]) / 20))
    flat = _flattened(picture, radius, 0.006)
    field = _blobs(image, rng, 5)
    share = 0.3 + 0.6 * strength
    patch = np.clip((field - np.quantile(field, 1 - share)) * 4 + 0.5, 0, 1)[..., None]
    return _levels(picture + (flat - picture) * (patch * np.float32(0.5 + 0.5 * strength)))


def moire(image, strength, rng, box=None):
    """Coloured waves as of two fine grids, one bent, laid over each other."""
    picture = _float(image)
    x, y = (one * np.float32(min(image.shape[:2])) for one in _grid(image))
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(3.0, 7.0)
    along = x * np.cos(angle) + y * np.sin(angle) + 0.04 * min(image.shape[:2]) * _blobs(image, rng, 4)
    waves = np.stack([np.sin(along * (2 * np.pi / pitch) + phase) for phase in (0.0, 1.2, 2.4)], axis=-1)
    swell = np.clip(0.75 + 0.4 * _blobs(image, rng, 3), 0.35, 1.2)[..., None]
    return _levels(picture + np.float32(0.24 * strength**0.75) * waves * swell * (0.4 + 0.6 * picture))


def grid(image, strength, rng, box=None):
    """The lattice that patches and transposed convolutions leave: lines every 4, 8 or 16 pixels, and a checkerboard."""
    picture = _float(image)
    period, phase = int(rng.choice([4, 8, 16])), rng.integers(16, size=2)
    rows, columns = ((np.arange(side) + p) % period for side, p in zip(image.shape[:2], phase, strict=True))
    sign = -1.0 if rng.random() < 0.5 else 1.0
    lines = np.maximum(rows[:, None] == 0, columns[None, :] == 0) * np.float32(sign)
    board = ((rows[:, None] + columns[None, :]) % 2) * np.float32(2) - 1
    return _levels(picture + (np.float32(0.2 * strength**0.75) * (lines + 0.2 * board))[..., None])


def banding(image, strength, rng, box=None):
    """So few levels that smooth shades fall into steps: 13 of them (at 0.2) down to 4."""
    step = np.float32(0.25 * strength**0.75)
    return _levels(np.clip(np.round(_float(image) / step) * step, 0, 1))


def composition(image, strength, rng, box=None):
    """A tilted horizon (up to 24 degrees), a subject that the border cuts off (half of it), or both."""
    matrix = window(image.shape, strength, rng, box)
    return np.asarray(
        Image.fromarray(image).transform(
            image.shape[1::-1], Image.Transform.AFFINE, matrix[:2].ravel().tolist(), Image.Resampling.BICUBIC
        )
    )


def window(shape: tuple[int, ...], strength: float, rng: np.random.Generator, box: Box | None = None) -> np.ndarray:
    """What `composition` looks at: float [3, 3], from pixels of the spoilt picture to those of the original."""
    height, width = shape[:2]
    left, top, right, bottom = box or (0.25, 0.25, 0.75, 0.75)
    what, sign, upright = rng.integers(3), rng.choice([-1.0, 1.0]), rng.random() < 0.4
    tilt = np.deg2rad(24 * strength) * sign if what != 1 else 0.0
    cos, sin = np.cos(tilt), abs(np.sin(tilt))
    inside = min(width / (width * cos + height * sin), height / (width * sin + height * cos))
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]) * inside
    middle, sides = np.array([width, height]) / 2, np.array([width, height], dtype=float)
    centre = np.array([(left + right) / 2, (top + bottom) / 2]) * sides
    centre = np.clip((np.linalg.solve(turn, centre - middle) + middle) / sides, 0, 1)
    zoom, corner = 1.0, np.zeros(2)
    if what != 0:
        axis = int(upright)
        cut = min(centre[axis], 1 - centre[axis], 0.5) * strength
        zoom = 1 - cut
        corner = np.clip(centre - zoom / 2, 0, 1 - zoom)
        corner[axis] = cut if centre[axis] <= 0.5 else 0.0
    matrix = np.eye(3)
    matrix[:2, :2] = turn * zoom
    matrix[:2, 2] = turn @ (corner * sides - middle) + middle
    return matrix


def moved(box: Box, matrix: np.ndarray, shape: tuple[int, ...]) -> Box | None:
    """Where a box of the original lies in the spoilt picture; None where less than a fifth of it is left."""
    height, width = shape[:2]
    corners = np.array([(x * width, y * height, 1) for x in box[::2] for y in box[1::2]]).T
    found = np.linalg.solve(matrix, corners)[:2] / np.array([[width], [height]])
    (left, top), (right, bottom) = found.min(axis=1), found.max(axis=1)
    area = (right - left) * (bottom - top)
    left, top, right, bottom = (float(np.clip(v, 0, 1)) for v in (left, top, right, bottom))
    return (left, top, right, bottom) if (right - left) * (bottom - top) >= 0.2 * area else None


DEGRADATIONS: dict[str, Degradation] = {
    "exposure_under": Degradation(exposure_under, "exposure"),
    "exposure_over": Degradation(exposure_over, "exposure"),
    "low_contrast": Degradation(low_contrast, "exposure"),
    "colour_cast": Degradation(colour_cast, "colour"),
    "over_saturation": Degradation(over_saturation, "colour"),
    "desaturation": Degradation(desaturation, "colour"),
    "blur": Degradation(blur, "sharpness"),
    "motion_blur": Degradation(motion_blur, "sharpness"),
    "noise": Degradation(noise, "artefacts"),
    "jpeg": Degradation(jpeg, "artefacts"),
    "over_smoothed_skin": Degradation(over_smoothed_skin, "artefacts", veto=True),
    "missing_texture": Degradation(missing_texture, "artefacts", veto=True),
    "moire": Degradation(moire, "artefacts", veto=True),
    "grid": Degradation(grid, "artefacts", veto=True),
    "banding": Degradation(banding, "artefacts"),
    "composition": Degradation(composition, "composition"),
}
PHOTO_ONLY = ("over_smoothed_skin", "missing_texture")
"""Faults of photos: a cartoon may be smooth."""


def _float(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(255)


def _levels(picture: np.ndarray) -> np.ndarray:
    return (np.clip(picture, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)


_TO_LINEAR = (np.arange(256, dtype=np.float32) / 255) ** np.float32(GAMMA)


def _linear(image: np.ndarray) -> np.ndarray:
    return _TO_LINEAR[image]


def _encoded(linear: np.ndarray) -> np.ndarray:
    return _levels(np.clip(linear, 0, 1) ** np.float32(1 / GAMMA))


def _chroma(image: np.ndarray, factor: float) -> np.ndarray:
    picture = _float(image)
    luma = (picture @ _LUMA)[..., None]
    return _levels(luma + (picture - luma) * np.float32(factor))


def _flattened(picture: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Three rounds of edge-preserving smoothing: less and less is left of a surface, outlines stay."""
    for _ in range(3):
        picture = _guided(picture, radius, epsilon)
    return picture


def _guided(picture: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Edge-preserving smoothing, each channel guided by itself (He et al. 2010, equations 5 and 6)."""
    size = (2 * radius + 1, 2 * radius + 1, 1)
    mean = uniform_filter(picture, size)
    variance = uniform_filter(picture * picture, size) - mean * mean
    slope = variance / (variance + np.float32(epsilon))
    return uniform_filter(slope, size) * picture + uniform_filter(mean - slope * mean, size)


def _blobs(image: np.ndarray, rng: np.random.Generator, number: int) -> np.ndarray:
    """A smooth random field of about `number` blobs a side, deviation near 1, [H, W]."""
    small = Image.fromarray(rng.standard_normal((number, number), dtype=np.float32))
    return np.asarray(small.resize(image.shape[1::-1], Image.Resampling.BICUBIC))


def _grid(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    x = (np.arange(width, dtype=np.float32) + 0.5) / width
    y = (np.arange(height, dtype=np.float32) + 0.5) / height
    return np.broadcast_to(x, (height, width)), np.broadcast_to(y[:, None], (height, width))
