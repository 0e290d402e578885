"""The gallery's rows as groups: pictures rendered and degraded by the project, or a user's own in the same columns.

Rows of one picture are compared, and those of a cartoon also with those of a photo: only so overall learns that smooth
is no fault by itself. One is better where no label of it is worse and some label is better; a tie is where all labels
are equal, but two pictures are never called equal; where one lacks a label that the other has, nothing is said.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from data_synth.gallery import dataset
from data_synth.gallery.camera import taken
from data_synth.gallery.degrade import ATTRIBUTES, DEGRADATIONS, visible
from data_synth.gallery.scenes import Scene, render
from data_synth.pool import in_processes
from rlkit.recipe import Data
from rlkit.rewards.labels import Group, Item, Pair
from rlkit.running import ranks
from rlkit.running.progress import Progress

GALLERY = Path("runs/gallery")  # rendered pictures are shared by all recipes
STRENGTHS = ((0.15, 0.5), (0.5, 1.0))  # each fault once in either range
FAULTS = 5
SPLITS = {"train": 0, "dev": 1, "test": 2}
SEEDS = 10
"""A split's seed is SEEDS * data.world_seed + its number: no two share a picture."""
SIZE = 192


def pictures(data: Data, split: str, count: int, progress: Progress) -> Path:
    """The folder of `count` rendered pictures of a split with all their versions; rendered where it is missing."""
    size, seed = data.frame_size or SIZE, seed_of(data, split)
    folder = GALLERY / f"seed{data.world_seed}-size{size}" / f"{split}-{count}"
    progress.stage(f"rendering {count:,} pictures ({split})", total=count)
    with ranks.main_first():
        if ranks.is_main() and not (folder / dataset.GALLERY_NAME).is_file():
            rows = training_rows(count, seed=seed, size=size, workers=os.cpu_count() or 1)
            dataset.write_gallery(folder, _counted(rows, progress))
    return folder


def seed_of(data: Data, split: str) -> int:
    """The gallery's seed of a split."""
    return SEEDS * data.world_seed + SPLITS[split]


def training_rows(count: int, *, seed: int, size: int, workers: int = 1) -> Iterator[dict[str, Any]]:
    """Every picture as some camera took it: clean, with FAULTS faults weak and strong, with what makes no difference,
    and with its figure right and wrong where it has one. The rows are the same for any number of workers."""
    pictures = range(seed * dataset.PICTURES, seed * dataset.PICTURES + count)
    if workers < 2:
        for picture in pictures:
            yield from rows_of(picture, size)
        return
    for rows in in_processes(partial(rows_of, size=size), pictures, workers, chunksize=4):
        yield from rows


def rows_of(picture: int, size: int) -> list[dict[str, Any]]:
    """All versions of one picture."""
    drawn, draw = render(picture, size=size), np.random.default_rng([picture, 2])
    scene = replace(drawn, image=taken(drawn.image, draw, clean=drawn.style == "cartoon"))
    return versions(scene, picture, draw, drawn, FAULTS)


def versions(scene: Scene, picture: int, draw: np.random.Generator, drawn: Scene, count: int) -> list[dict[str, Any]]:
    """The picture clean, with `count` faults where they show; and what of `drawn`, which is `scene` before a camera
    took it, makes no difference or has the other anatomy."""
    clean = dataset.row(scene, picture)
    found, drawn_faults = [clean], draw.permutation(list(DEGRADATIONS)).tolist()
    for name in [name for name in drawn_faults if dataset.applies(name, scene)][:count]:
        for low, high in STRENGTHS:
            spoilt = dataset.spoilt(scene, picture, name, float(draw.uniform(low, high)))
            if visible(clean["image"], spoilt["image"]):
                found.append(spoilt)
    for pair in dataset.pairs_of(drawn, picture, size=len(drawn.image), degradations=0):
        for one in (pair["chosen"], pair["rejected"]):
            if not np.array_equal(one["image"], drawn.image):
                found.append(one)
    return found


def _counted(rows: Iterable[dict[str, Any]], progress: Progress) -> Iterator[dict[str, Any]]:
    for _, of_picture in groupby(rows, key=lambda row: row["picture"]):
        yield from of_picture
        progress.advance()


def groups(folder: Path, *, cache_gib: float) -> list[Group]:
    """The pictures of a gallery's folder, each with its versions, a cartoon beside a photo where there is one; pixels
    beyond `cache_gib` stay on the disk."""
    of_picture: dict[int, list[tuple[Mapping[str, Any], Item]]] = {}
    left = cache_gib * 2**30
    for row in dataset.read_gallery(folder):
        left -= row["image"].nbytes
        item = item_of(row, row["image"] if left > 0 else row["file"])
        told = {name: row[name] for name in ("picture", "style", "ratings", "veto")}
        of_picture.setdefault(row["picture"], []).append((told, item))
    found = []
    for versions in beside(list(of_picture.values())):
        rows, items = zip(*versions, strict=True)
        found.append(Group(str(rows[0]["picture"]), items, compared(rows)))
    return found


def beside(pictures: Sequence[list[tuple[Mapping[str, Any], Item]]]) -> list[list[tuple[Mapping[str, Any], Item]]]:
    """The pictures' versions, the first photo's with the first cartoon's behind them, and so on; the rest alone."""
    cartoons, photos = (
        [one for one in pictures if (one[0][0]["style"] == "cartoon") is drawn] for drawn in (True, False)
    )
    return [photo + cartoon for photo, cartoon in zip_longest(photos, cartoons, fillvalue=[])]


def compared(rows: Sequence[Mapping[str, Any]]) -> tuple[Pair, ...]:
    """The pairs among rows that their labels decide; ties only among versions of one picture."""
    found = []
    for one, other in combinations(range(len(rows)), 2):
        sign = verdict(rows[one], rows[other])
        if sign is None or (sign == 0 and rows[one]["picture"] != rows[other]["picture"]):
            continue
        better, worse = (one, other) if sign >= 0 else (other, one)
        found.append(Pair(better, worse, tie=sign == 0))
    return tuple(found)


def item_of(row: Mapping[str, Any], media: Any) -> Item:
    """A row's labels with its picture, or the file that holds it."""
    ratings = {name: value for name, value in row["ratings"].items() if value is not None}
    veto = {name: value for name, value in row["veto"].items() if value is not None}
    return Item(media, ratings, row["distribution"], veto, row["kind"], row["face"])


def verdict(one: Mapping[str, Any], other: Mapping[str, Any]) -> int | None:
    """1 where `one` is better, -1 where `other` is, 0 in a tie, None where the labels do not say."""
    differences = []
    for name in ATTRIBUTES:
        values = [row["ratings"][name] for row in (one, other)]
        if None in values:
            return None
        differences.append(values[0] - values[1])
    wrong = [row["veto"]["anatomy"] for row in (one, other)]
    differences.append(0 if None in wrong else int(wrong[1]) - int(wrong[0]))
    if all(d == 0 for d in differences):
        return 0
    if all(d >= 0 for d in differences):
        return 1
    return -1 if all(d <= 0 for d in differences) else None
