"""The clips of a recipe: rendered by the world or found in a folder, as rows that name a file, a caption and the truth.

A row is a dict: `id`, `video` (path), `caption` (what a captioner is trained on), and where they are known
`true_caption`, `events` (list of [actor, action]) and `probes` (list of [skill, question, answer]).
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_synth.folder import Captioned, sift_folder
from data_synth.frames_cache import FramesCache
from data_synth.pool import in_processes
from data_synth.video import Clip, read_clip
from data_synth.world.clips import render_clips, write_captions
from data_synth.world.noise import Noise
from rlkit.errors import DataError
from rlkit.recipe import Data, Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress

WORLD = Path("runs/world")  # rendered clips are shared by all recipes
FRAMES = Path("runs/frames")  # and so are decoded frames
FEW = 64  # clips decoded faster than processes start


class JsonLines(Sequence):
    """A JSONL file as a sequence; only the offsets of its lines are held in memory."""

    def __init__(self, path: str | Path, count: int | None = None) -> None:
        self.path = Path(path)
        offsets, at = [], 0
        with self.path.open("rb") as file:
            for line in file:
                if count is not None and len(offsets) == count:
                    break
                if line.strip():
                    offsets.append(at)
                at += len(line)
        self.offsets = np.asarray(offsets, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[index]))
            return json.loads(file.readline())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(len(self)):
            yield self[index]


def world_folder(data: Data) -> Path:
    """Where the world's clips of these settings lie; other settings have other folders."""
    low, high = data.num_events
    return WORLD / f"seed{data.world_seed}-events{low}-{high}"


def world_clips(data: Data, split: str, count: int, progress: Progress, *, workers: int = 2) -> JsonLines:
    """Render what is missing and return the rows of clips 0..count-1 of a split."""
    folder = world_folder(data)
    events = (data.num_events[0], data.num_events[1])
    progress.stage(f"rendering {count:,} clips ({split})", total=count)
    for done in render_clips(folder, count, seed=data.world_seed, split=split, num_events=events, workers=workers):
        progress.step(done)
    noise = data.noise and Noise(data.noise.salient_first, data.noise.invented, tuple(data.noise.padding))
    tag = f"{count}-{data.language}" + ("" if data.noise is None else "-noisy")
    path = write_captions(
        folder,
        count,
        seed=data.world_seed,
        split=split,
        num_events=events,
        noise=noise,
        language=data.language,
        tag=tag,
    )
    return JsonLines(path)


class Reader:
    """Frames of a row's clip, sampled as the recipe's `data:` section says and decoded once (see FramesCache)."""

    def __init__(self, data: Data, root: Path, *, cache: Path | None = None) -> None:
        self.data, self.root = data, Path(root)
        self.cache = None if cache is None else FramesCache(cache)

    def clip(self, video: str, start: float | None = None, end: float | None = None) -> Clip:
        """Decode one clip; `video` is relative to the root. Raises DataError for a file that does not decode."""
        read = read_clip if self.cache is None else self.cache.clip
        return read(
            self.root / video,
            num_frames=self.data.num_frames,
            fps=self.data.fps,
            start=start,
            end=end,
            height=self.data.frame_size,
            decoder=self.data.decoder,
        )

    def whole(self, video: str, num_frames: int = 8) -> Clip:
        """A few frames in the file's own size, for film strips."""
        return read_clip(self.root / video, num_frames=num_frames)


def decode(reader: Reader, rows: Sequence[dict[str, Any]], progress: Progress) -> None:
    """Put the frames of all clips into the reader's cache, in one process per core; each rank takes its share."""
    mine = range(ranks.number(), len(rows), ranks.count())
    if len(mine) <= FEW:
        return  # when they are asked for
    progress.stage(f"decoding {len(rows):,} clips", total=len(mine))
    task = partial(_decode_row, reader)
    workers = max((os.cpu_count() or 1) // ranks.count(), 1)
    for done, _ in enumerate(in_processes(task, (_place(rows[at]) for at in mine), workers), 1):
        progress.step(done)


def _place(row: dict[str, Any]) -> tuple[str, float | None, float | None]:
    return row["video"], row.get("start"), row.get("end")


def _decode_row(reader: Reader, place: tuple[str, float | None, float | None]) -> None:
    reader.clip(*place)


@dataclass(frozen=True)
class Clips:
    """What a recipe trains on and is measured on. `train` rows carry `caption`; `held_out` rows the truth."""

    train: Sequence[dict[str, Any]]
    held_out: Sequence[dict[str, Any]]
    reader: Reader
    held_out_reader: Reader
    """Held-out clips of the world lie in a folder of their own."""
    quarantined: int = 0

    def labelled(self) -> Iterator[dict[str, Any]]:
        """Training rows with a true caption."""
        return (row for row in self.train if row.get("true_caption"))

    def unlabelled(self) -> Iterator[dict[str, Any]]:
        """Training rows without one."""
        return (row for row in self.train if not row.get("true_caption"))


def stages(recipe: Recipe) -> int:
    """How many stages of the progress display `collect` goes through."""
    counts = (recipe.data.num_clips, recipe.evaluate.num_clips)
    return sum(1 + (count > FEW * ranks.count()) for count in counts) if recipe.data.source == "world" else 1


def collect(recipe: Recipe, folder: RunFolder, progress: Progress) -> Clips:
    """The clips of a recipe's `data:` section. Raises DataError when none is usable."""
    data = recipe.data
    if data.source == "world":
        with ranks.main_first():
            train = world_clips(data, "train", data.num_clips, progress)
        measured = recipe.evaluate
        held_out, held_out_reader = world_held_out(data, measured.split, measured.num_clips, progress)
        reader = Reader(data, world_folder(data), cache=FRAMES)
        decode(reader, train, progress)
        return Clips(Labelled(train, data.num_labelled), held_out, reader, held_out_reader)
    if data.source == "pairs":  # they name their clips themselves; none of them is known to be held out
        pairs = Path(data.pairs)
        reader = Reader(data, Path(data.folder or (pairs if pairs.is_dir() else pairs.parent)), cache=FRAMES)
        return Clips([], [], reader, reader)
    rows, reader, quarantined = folder_clips(data, folder, progress, count=data.num_clips)
    every = max(5, len(rows) // recipe.evaluate.num_clips) if recipe.evaluate.num_clips else len(rows) + 1
    held_out = Captions(rows, [at for at in range(len(rows)) if at % every == every - 1])
    train = Captions(rows, [at for at in range(len(rows)) if at % every != every - 1])
    return Clips(Labelled(train, data.num_labelled), held_out, reader, reader, quarantined)


def world_held_out(data: Data, split: str, count: int, progress: Progress) -> tuple[JsonLines, Reader]:
    """The first `count` clips of `split`: three events each, true captions, whatever is trained on."""
    test = replace(data, num_events=[3, 3], noise=None)
    with ranks.main_first():
        rows = world_clips(test, split, count, progress)
    reader = Reader(data, world_folder(test), cache=FRAMES)
    decode(reader, rows, progress)
    return rows, reader


def folder_clips(data: Data, folder: RunFolder, progress: Progress, *, count: int) -> tuple[JsonLines, Reader, int]:
    """At most `count` usable clips of a folder, their reader, and how many lines or files were set aside with their
    reason. They are looked through once: a run that goes on keeps its clips. Raises DataError when none is usable."""
    progress.stage(f"reading {data.folder}")
    reader = Reader(data, Path(data.folder), cache=FRAMES)
    kept = folder.path / "clips.jsonl"
    if folder.main and not (kept.is_file() and kept.stat().st_size):
        sift_folder(data.folder, folder.path, data.captions, load=lambda item: _decode(item, reader))
    ranks.wait()
    rejected = folder.path / "rejected_rows.jsonl"
    quarantined = len(JsonLines(rejected)) if rejected.is_file() else 0
    if quarantined:
        progress.note(f"{quarantined} lines or files set aside, with reasons: {folder.path}/rejected_rows.jsonl")
    rows = JsonLines(kept, count)
    if not len(rows):
        raise DataError(
            f"{data.folder}: no usable clip is left; see {folder.path}/rejected_rows.jsonl for the reasons."
        )
    return rows, reader, quarantined


def _decode(item: Captioned, reader: Reader) -> None:
    """Decode a clip of a folder once, into the cache. Raises DataError, its reason to be set aside."""
    if item.kind != "video":
        raise DataError("a picture, and this recipe trains on videos.")
    reader.clip(item.media, item.start, item.end)


class Subset(Sequence):
    """Those rows of a sequence that stand at `places`."""

    def __init__(self, rows: Sequence[dict[str, Any]], places: Sequence[int]) -> None:
        self.rows, self.places = rows, np.asarray(places, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[int(self.places[index])]


class Captions(Subset):
    """Lines of a folder, whose captions are taken for true."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = super().__getitem__(index)
        return {**row, "true_caption": row["caption"]}


class Labelled(Sequence):
    """World rows of which the first `count` keep their true caption; None keeps all."""

    def __init__(self, rows: Sequence[dict[str, Any]], count: int | None) -> None:
        self.rows, self.count = rows, count

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return row if self.count is None or index < self.count else {**row, "true_caption": None}
