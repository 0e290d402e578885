"""Pictures for people: grids of prompts and seeds, and strips of the same prompts and seeds before and after.

Which prompts are shown is chosen by rule, never by eye: the most improved, the worst, and the first as they come.
"""

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rlkit.running.folder import RunFolder
from rlkit.running.tracking import Tracker

GAP = 2  # pixels between pictures
LEAST = 96  # smaller pictures are enlarged to about this side, without smoothing
MOST = 256  # higher ones are shrunk to this height
EXAMPLES = 3  # prompts of each kind

Row = Mapping[str, Any]


def thumbnail(picture: Image.Image) -> Image.Image:
    """The picture, no higher than MOST."""
    if picture.height <= MOST:
        return picture
    return picture.resize((max(1, round(picture.width * MOST / picture.height)), MOST), Image.Resampling.LANCZOS)


def save_grid(path: Path, rows: Sequence[Sequence[Image.Image]]) -> None:
    """Write a row for each prompt, a column for each seed; the file appears whole. All pictures are of one size."""
    first = rows[0][0]
    times = max(1, LEAST // max(first.size))
    width, height = first.width * times, first.height * times
    sheet = np.full((len(rows) * (height + GAP) - GAP, len(rows[0]) * (width + GAP) - GAP, 3), 255, np.uint8)
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            pixels = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST))
            top, left = down * (height + GAP), across * (width + GAP)
            sheet[top : top + height, left : left + width] = pixels
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(buffer.getvalue())
    aside.replace(path)


@dataclass(frozen=True)
class Drawn:
    """What one system made of the held-out prompts."""

    rows: Sequence[Row]
    pictures: Sequence[Sequence[Image.Image]]
    """Of each prompt, one per seed."""


def choose(before: Sequence[Row], after: Sequence[Row], first: int) -> dict[str, list[int]]:
    """Numbers of prompts: "improved" by the trained reward, "worst" by the held-out judge where there is one (what it
    fell for, then the lowest), and the `first` ones.

    Rows without a score are neither improved nor worst. With one system, `before` is `after`.
    """
    trained, judged = (
        [(_score(a, keys), _score(b, keys)) for a, b in zip(before, after, strict=True)]
        for keys in (("reward", "held_out"), ("held_out", "reward"))
    )
    gains = {at: b - a for at, (a, b) in enumerate(trained) if a is not None and b is not None}
    improved = sorted((at for at, gain in gains.items() if gain > 0), key=lambda at: -gains[at])[:EXAMPLES]
    known = {at: pair for at, pair in enumerate(judged) if None not in pair and at not in improved}
    worst = sorted(known, key=lambda at: _badness(*known[at]))[:EXAMPLES]
    taken = {*improved, *worst}
    others = [at for at in range(min(first, len(after))) if at not in taken]
    return {"improved": improved, "worst": worst, "first": others}


def publish(
    folder: RunFolder,
    tracker: Tracker,
    systems: Mapping[str, Drawn],
    headline: tuple[str, str],
    *,
    first: int,
    step: int,
) -> None:
    """Write samples/pictures/*.png and samples/pictures.jsonl for the chosen prompts, and hand them to the tracker.

    `headline` names the systems that choosing compares; every system is shown.
    """
    before, after = (systems[name].rows for name in headline)
    rows = []
    for kind, numbers in choose(before, after, first).items():
        for number in numbers:
            row: dict[str, Any] = {"kind": kind, "number": number, "prompt": after[number]["clip"], "pictures": {}}
            for name, system in systems.items():
                path = folder.samples / "pictures" / f"{number:04}-{name}.png"
                if folder.main:
                    save_grid(path, [list(system.pictures[number])])
                row["pictures"][name] = path.relative_to(folder.path).as_posix()
                for key in ("reward", "held_out"):
                    if key in system.rows[number]:
                        row.setdefault(key, {})[name] = _finite(system.rows[number][key])
            rows.append(row)
    if rows:
        tracker.pictures(rows, step)


def _badness(before: float, after: float) -> tuple[bool, float]:
    """Sorts what fell, most first, before what did not, lowest first."""
    return (after >= before, after if after >= before else after - before)


def _score(row: Row, keys: Sequence[str]) -> float | None:
    """The first of `keys` that the row has."""
    return next((_finite(row[key]) for key in keys if key in row), None)


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
