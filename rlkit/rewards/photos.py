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
    """The user's photos; None for those that installed packages carry."""
    return None if data.folder is None else Path(data.folder)


def cuts(data: Data, count: int, progress: Progress) -> Path:
    """The folder with `count` cuts of every photo and all their versions; made where it is missing. Photos that cannot
    be used lie in its rejected_rows.jsonl. Raises DataError where no photo can."""
    source = folder_of(data)
    found = photos.listed(source)
    folder = gallery.GALLERY / f"photos-{_fingerprint(source, found)}" / f"cuts-{count}"
    progress.stage(f"cutting and degrading {len(found):,} photos", total=len(found))
    with ranks.main_first():
        if ranks.is_main() and not (folder / dataset.GALLERY_NAME).is_file():
            numbers = {scene: number for number, scene in enumerate(scenes(data))}
            jobs = [(name, FROM + numbers[scene] * SPAN + at * count) for at, (name, scene) in enumerate(found)]
            make, workers = partial(rows_of, folder=source, count=count), os.cpu_count() or 1
            made = in_processes(make, jobs, workers, chunksize=1) if workers > 1 else map(make, jobs)
            rejected: list[Rejected] = []
            written = dataset.write_gallery(folder, _good(made, rejected, progress))
            if rejected:
                with whole(folder / REJECTED_NAME, "w") as file:
                    file.writelines(one.line() for one in rejected)
            if not written:
                raise DataError(f"{source}: no photo can be used; {rejected[0].where}: {rejected[0].reasons[0]}")
    if (folder / REJECTED_NAME).is_file():
        progress.note(f"photos set aside: {folder / REJECTED_NAME}")
    return folder


def rows_of(job: tuple[str, int], *, folder: Path | None, count: int) -> list[dict[str, Any]] | Rejected:
    """All versions of the cuts of one photo, whose first has the number in `job`; or why it cannot be used."""
    name, first = job
    try:
        photo = photos.read(folder, name)
    except DataError as error:
        return Rejected(str(folder / name), [str(error)], {"file_name": name})
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
    return list(dict.fromkeys(scene for _, scene in photos.listed(folder_of(data))))


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
    made: Iterable[list[dict[str, Any]] | Rejected], rejected: list[Rejected], progress: Progress
) -> Iterator[dict[str, Any]]:
    for one in made:
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            yield from one
        progress.advance()


def _fingerprint(folder: Path | None, found: Sequence[tuple[str, str]]) -> str:
    """Of names, sizes and times: other photos get another folder."""
    told: list[Any] = [found]
    if folder is not None:
        stats = [(folder / name).stat() for name, _ in found]
        told += [str(folder.resolve()), [(one.st_size, one.st_mtime_ns) for one in stats]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]
