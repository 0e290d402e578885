"""Photos as groups: cut, degraded and written like the gallery's rendered pictures; and their scenes in folds.

A judge that learns from photos is measured on photos of other scenes: every fold's scenes are scored by heads that were
trained without them (cross-validation).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_synth.errors import DataError
from data_synth.gallery import dataset, photos
from data_synth.gallery.photos import Photo
from data_synth.pool import in_processes
from data_synth.records import REJECTED_NAME, Rejected
from data_synth.whole import whole
from rlkit.recipe import Data, Recipe
from rlkit.rewards import gallery
from rlkit.rewards.labels import Group
from rlkit.running import ranks
from rlkit.running.progress import Progress

FROM = 10**12
"""Numbers of cuts, which name their groups: far from the rendered pictures', a million per scene."""
SPAN = 10**6
FAULTS = 8
"""Of a cut: photos are few, so that each is spoilt in more ways than a rendered picture."""


def folder_of(data: Data) -> Path | None:
    """The user's photos, beside those that installed packages carry; None: these alone."""
    return None if data.folder is None else Path(data.folder)


def cuts(data: Data, count: int, progress: Progress) -> Path:
    """The folder with `count` cuts of every photo and all their versions; made where it is missing. Photos that cannot
    be used lie in its rejected_rows.jsonl. Raises DataError where none of the user's can."""
    found = photos.listed(folder_of(data))
    folder = gallery.GALLERY / f"photos-{_fingerprint(found)}" / f"cuts-{count}"
    progress.stage(f"cutting and degrading {len(found):,} photos", total=len(found))
    with ranks.main_first():
        if ranks.is_main() and not (folder / dataset.GALLERY_NAME).is_file():
            numbers = {scene: number for number, scene in enumerate(scenes(data))}
            jobs = [(one, FROM + numbers[one.scene] * SPAN + at * count) for at, one in enumerate(found)]
            make, workers = partial(rows_of, count=count), os.cpu_count() or 1
            made = in_processes(make, jobs, workers, chunksize=1) if workers > 1 else map(make, jobs)
            rejected: list[Rejected] = []
            own = sum(one.file is not None for one in found)
            dataset.write_gallery(folder, _good(made, rejected, progress, own))
            if rejected:
                with whole(folder / REJECTED_NAME, "w") as file:
                    file.writelines(one.line() for one in rejected)
    if (folder / REJECTED_NAME).is_file():
        progress.note(f"photos set aside: {folder / REJECTED_NAME}")
    return folder


def rows_of(job: tuple[Photo, int], *, count: int) -> list[dict[str, Any]] | Rejected:
    """All versions of the cuts of one photo, whose first has the number in `job`; or why it cannot be used."""
    one, first = job
    try:
        photo = photos.read(one)
    except DataError as error:
        return Rejected(str(one.file), [str(error)], {"file_name": one.name})
    found = []
    for number in range(count):
        scene, picture = photos.cut(photo, number), first + number
        found += gallery.versions(scene, picture, np.random.default_rng([picture, 2]), scene, FAULTS)
    return found


def scene_of(group: Group) -> int | None:
    """The scene that a group's photo shows, numbered as photos.listed has them; None for a rendered picture."""
    number = int(group.name) - FROM
    return number // SPAN if number >= 0 else None


def scenes(data: Data) -> list[str]:
    """Names of the photos' scenes, by their numbers."""
    return list(dict.fromkeys(one.scene for one in photos.listed(folder_of(data))))


def folds_of(recipe: Recipe) -> list[set[int]]:
    """The scenes in parts of about equal size, for a recipe that trains on photos and is measured on them; none where
    there are less than two scenes."""
    measured = recipe.evaluate.split == "test" and recipe.evaluate.num_clips
    if recipe.data.source != "gallery" or not recipe.reward.photo_cuts or not measured:
        return []
    count = len(scenes(recipe.data))
    parts = min(recipe.reward.photo_folds, count)
    return [set(range(start, count, parts)) for start in range(parts)] if count > 1 else []


def _good(
    made: Iterable[list[dict[str, Any]] | Rejected], rejected: list[Rejected], progress: Progress, own: int
) -> Iterator[dict[str, Any]]:
    """Raises DataError where all of the user's photos, `own` of them, were set aside."""
    for one in made:
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            yield from one
        progress.advance()
    if rejected and len(rejected) == own:
        raise DataError(f"no photo of the folder can be used; {rejected[0].where}: {rejected[0].reasons[0]}")


def _fingerprint(found: Sequence[Photo]) -> str:
    """Of names, sizes and times: other photos get another folder."""
    told: list[Any] = [(one.name, one.scene) for one in found]
    stats = [(one.file, one.file.stat()) for one in found if one.file is not None]
    told += [(str(file.resolve()), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]
