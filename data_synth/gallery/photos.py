"""Parts cut out of photos, to be degraded like rendered pictures: what a real scene looks like without a fault.

Each cut is another part of its photo at another size, mirrored or not; every second one has another tone, so that the
light of one photo is not taken for what is right. The scenes are those of data_synth/gallery/real.py, and a user's own.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_synth.errors import DataError
from data_synth.gallery import real
from data_synth.gallery.real import SURFACES, Real
from data_synth.gallery.scenes import Scene
from data_synth.pictures import SUFFIXES, read_picture

SIDES = (192, 400)
"""Least and greatest side of a cut in pixels; the least is also what a photo must have."""
PART = 0.45
"""Least share of the photo's shorter side; every fourth cut is the largest square."""
MIDDLE = (0.25, 0.25, 0.75, 0.75)
"""Where the subject is taken to be."""
COLOURLESS = 8
"""Levels of 255 between the channels up to which a picture is grey."""


@dataclass(frozen=True)
class Photo:
    """One that is there, not read yet."""

    name: str
    scene: str
    file: Path | None = None
    """The user's; None for one that an installed package carries."""


def listed(folder: Path | None) -> list[Photo]:
    """Those that installed packages carry and that are sharp; behind them those in a folder and below, each a scene of
    its own. Raises DataError for a folder that holds none."""
    installed = [Photo(name, real.group_of(name)) for name in real.real_names(grey=True, sharp=True)]
    if folder is None:
        return installed
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder}: holds no photo; expected files ending in {', '.join(SUFFIXES)}.")
    names = [file.relative_to(folder).as_posix() for file in files]
    return installed + [Photo(name, name, file) for name, file in zip(names, files, strict=True)]


def read(photo: Photo) -> Real:
    """A photo that `listed` found. Raises DataError for a file that is no picture, or smaller than SIDES."""
    if photo.file is None:
        return real.real_picture(photo.name)
    image = read_picture(photo.file)
    height, width = image.shape[:2]
    if min(height, width) < SIDES[0]:
        raise DataError(f"{photo.file}: {width} x {height} pixels; expected at least {SIDES[0]} a side.")
    spread = image.max(axis=2).astype(np.int16) - image.min(axis=2)
    return Real(photo.name, photo.scene, image, bool(spread.max() < COLOURLESS))


def cut(photo: Real, number: int) -> Scene:
    """The cut of that number; the same for every run."""
    rng = np.random.default_rng([zlib.crc32(photo.name.encode()), number])
    height, width = photo.image.shape[:2]
    side = min(height, width)
    if number % 4:
        side = max(SIDES[0], int(side * rng.uniform(PART, 1)))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    part = photo.image[top : top + side, left : left + side]
    wanted = int(np.clip(side * rng.uniform(0.5, 1), *SIDES))
    if wanted < side:
        part = np.asarray(Image.fromarray(part).resize((wanted, wanted), Image.Resampling.LANCZOS))
    if rng.random() < 0.5:
        part = part[:, ::-1]
    image = toned(part, rng) if number % 2 else np.ascontiguousarray(part)
    return Scene(image, "photo", "general", subject(photo), MIDDLE, None)


def subject(photo: Real) -> str:
    """As Scene has it."""
    return "surface" if photo.group in SURFACES else "photo"


def toned(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [H, W, 3] a little lighter or darker, flatter or steeper, as another exposure would have it."""
    picture = (image.astype(np.float32) / 255) ** rng.uniform(0.85, 1.18)
    mean = picture.mean()
    return (np.clip(mean + (picture - mean) * rng.uniform(0.92, 1.08), 0, 1) * 255 + 0.5).astype(np.uint8)
