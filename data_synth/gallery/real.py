"""Real pictures that installed packages carry; never downloaded, and never scored by what was trained on their scene.

Colour, from scikit-image's wheel (files it lays under skimage/data) and scikit-learn's:
- astronaut (portrait of Eileen Collins, NASA, public domain)
- chelsea (a cat, Stefan van der Walt, CC0)
- coffee (a cup from above, Rachel Michetti / Pikolo Espresso Bar, CC0)
- motorcycle_left, motorcycle_right (a garage; Middlebury Stereo 2014, Scharstein et al., no licence stated)
- rocket (a Falcon 9 at dusk, SpaceX, public domain)
- china (a temple, danielbuechele, CC BY 2.0), flower (a dahlia, vultilion, CC BY 2.0)
Grey, flagged: camera (Lav Varshney, CC0), brick, gravel (CC0Textures, CC0), grass (linolafett, CC0), coins (Brooklyn
Museum, no known restrictions), moon (no licence stated), clock (blurred by a moving camera; Stefan van der Walt,
public domain).
Left out: microscope, eye-ground and telescope pictures, logos, scans of text, charts: nobody takes them for taste; and
skimage's files that are fetched on demand (cat, lily, ...), which the wheel does not carry.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_synth.errors import DataError
from data_synth.gallery.scenes import Scene, render
from data_synth.pictures import read_picture

_FILES = {
    "astronaut": ("skimage", "data/astronaut.png", "astronaut", False),
    "chelsea": ("skimage", "data/chelsea.png", "chelsea", False),
    "coffee": ("skimage", "data/coffee.png", "coffee", False),
    "motorcycle_left": ("skimage", "data/motorcycle_left.png", "motorcycle", False),
    "motorcycle_right": ("skimage", "data/motorcycle_right.png", "motorcycle", False),
    "rocket": ("skimage", "data/rocket.jpg", "rocket", False),
    "china": ("sklearn", "datasets/images/china.jpg", "china", False),
    "flower": ("sklearn", "datasets/images/flower.jpg", "flower", False),
    "camera": ("skimage", "data/camera.png", "camera", True),
    "brick": ("skimage", "data/brick.png", "brick", True),
    "grass": ("skimage", "data/grass.png", "grass", True),
    "gravel": ("skimage", "data/gravel.png", "gravel", True),
    "coins": ("skimage", "data/coins.png", "coins", True),
    "moon": ("skimage", "data/moon.png", "moon", True),
    "clock": ("skimage", "data/clock_motion.png", "clock", True),
}
_FACE = {"astronaut": (0.33, 0.1, 0.55, 0.41)}
BLURRED = ("clock", "moon")
"""Not sharp as they are: of no use where a clean picture is meant."""
SURFACES = ("coins", "grass", "gravel")
"""Seen from above or all over: neither tilt nor a cut is a fault of theirs."""


@dataclass(frozen=True)
class Real:
    """A photo somebody took."""

    name: str
    group: str
    """Pictures of one scene share it."""
    image: np.ndarray
    """uint8 RGB [H, W, 3]"""
    grey: bool
    """Without colours: colour says nothing about it."""
    face: tuple[float, float, float, float] | None = None
    """In shares of width and height."""


def real_names(*, grey: bool = False, sharp: bool = False) -> list[str]:
    """Those that are there, in a fixed order; `grey` adds the colourless ones, `sharp` leaves out the blurred. Raises
    DataError where there is none."""
    found = []
    for name, (package, path, _, colourless) in _FILES.items():
        if _file(package, path) is not None and (grey or not colourless) and not (sharp and name in BLURRED):
            found.append(name)
    if not found:
        raise DataError("no real picture found; expected scikit-image or scikit-learn: pip install scikit-image.")
    return found


def real_picture(name: str) -> Real:
    """The one of that name, which is there."""
    package, path, _, colourless = _FILES[name]
    return Real(name, group_of(name), read_picture(_file(package, path)), colourless, _FACE.get(name))


def real_pictures(*, grey: bool = False) -> list[Real]:
    """Those of `real_names`, blurred ones too."""
    return [real_picture(name) for name in real_names(grey=grey)]


def group_of(name: str) -> str:
    """The scene of a picture."""
    return _FILES[name][2]


def cartoons(number: int, *, size: int = 192, seed: int = 1 << 20) -> Iterator[Scene]:
    """Clean cartoons with right anatomy, from seeds that training does not reach."""
    for k in range(number):
        yield render(seed + k, size=size, style="cartoon", wrong=False)


def _file(package: str, path: str) -> Path | None:
    """A file of an installed package, without importing the package (skimage would look into a download cache)."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    file = Path(spec.submodule_search_locations[0]) / path
    return file if file.is_file() else None
