"""The few pictures a generator is to learn from: files of a folder, or ten of the world in a look of its own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data_synth.errors import DataError as Unreadable
from data_synth.folder import PICTURE_SUFFIXES, Captioned, read_folder
from data_synth.pictures import read_picture
from data_synth.records import REJECTED_NAME, Rejected
from data_synth.whole import whole
from data_synth.world import look, pictures
from rlkit.errors import DataError

LEAST = 4
"""Fewer pictures have no neighbours from which one could tell what a copy is."""
OF_THE_WORLD = 10


@dataclass(frozen=True)
class Original:
    """One of the few pictures."""

    name: str
    """Its path in the folder, or what it shows."""
    caption: str
    """Without the trigger."""
    pixels: np.ndarray
    """uint8 RGB [side, side, 3]."""


def read_originals(folder: str | None, side: int, *, caption: str, rejected: Path) -> tuple[list[Original], int]:
    """The usable pictures, scaled and cropped to `side`, and how many files were set aside (into `rejected`, a folder).

    Captions come from captions.jsonl in the folder (`image` and `caption` on each line); without that file every
    picture has `caption`. Raises DataError for a folder that does not exist, or has fewer than LEAST usable pictures.
    """
    if folder is None:
        shown = look.few(OF_THE_WORLD)
        return [Original(pictures.prompt(one), pictures.prompt(one), look.render(one, 0, side)) for one in shown], 0
    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected a folder of a few pictures, about ten.")
    found, wrong = _captioned(path) if (path / "captions.jsonl").is_file() else _bare(path, caption)
    originals = [Original(name, text, _sized(pixels, side)) for name, text, pixels in found]
    if wrong:
        with whole(rejected / REJECTED_NAME, "w") as file:
            file.writelines(one.line() for one in wrong)
    if len(originals) < LEAST:
        held = f"{len(originals)} usable pictures" if originals else "no usable picture"
        aside = f"; {len(wrong)} files or lines were set aside, see {rejected / REJECTED_NAME}" if wrong else ""
        endings = ", ".join(sorted(PICTURE_SUFFIXES))
        raise DataError(f"{path}: holds {held}, expected at least {LEAST}, better ten ({endings}){aside}.")
    return originals, len(wrong)


def _bare(folder: Path, caption: str) -> tuple[list[tuple[str, str, np.ndarray]], list[Rejected]]:
    """Every picture file of the folder, in the order of names."""
    found, wrong = [], []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in PICTURE_SUFFIXES or path.name.startswith("."):
            continue
        try:
            found.append((path.name, caption, read_picture(path)))
        except Unreadable as error:
            wrong.append(Rejected(str(path), [f"image: {error}"], {"image": path.name}))
    return found, wrong


def _captioned(folder: Path) -> tuple[list[tuple[str, str, np.ndarray]], list[Rejected]]:
    """The pictures that captions.jsonl names."""
    found, wrong = [], []
    for item in read_folder(folder, load=None):
        if isinstance(item, Rejected):
            wrong.append(item)
            continue
        try:
            found.append((item.media, item.caption, _still(item)))
        except Unreadable as error:
            wrong.append(Rejected(item.where, [f"{item.kind}: {error}"], {item.kind: item.media}))
    return found, wrong


def _still(item: Captioned) -> np.ndarray:
    if item.kind != "image":
        raise Unreadable(f"{item.path}: is a video, expected a picture.")
    return read_picture(item.path)


def _sized(pixels: np.ndarray, side: int) -> np.ndarray:
    """Scaled and cropped to the middle."""
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), (side, side), Image.Resampling.LANCZOS))
