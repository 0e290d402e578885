"""The world on disk: a folder of mp4 files beside a captions.jsonl, the layout every folder of real clips has.

A clip's content depends on (seed, split, index) and the number of events alone, so a folder grows: asking for more
clips renders only the missing ones, and a killed run goes on where it stopped.
"""

import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_synth.pool import in_processes
from data_synth.video import write_mp4
from data_synth.whole import whole
from data_synth.world.captions import parse, probes, true_caption
from data_synth.world.noise import Noise, noisy_caption
from data_synth.world.render import FPS, render
from data_synth.world.script import Event, Script, draw_script

PER_FOLDER = 1000  # files in one directory; a directory of a million files is slow everywhere


def clip_name(split: str, index: int) -> str:
    """Path of a clip inside the world's folder."""
    return f"{split}/{index // PER_FOLDER:04d}/{index:07d}.mp4"


def render_clips(
    folder: str | Path,
    count: int,
    *,
    seed: int = 0,
    split: str = "train",
    num_events: tuple[int, int] = (3, 3),
    workers: int = 1,
) -> Iterator[int]:
    """Make sure clips 0..count-1 of a split are on disk; yields how many are there so far, for a progress display.

    Each file appears whole, so files that exist are complete and are left alone. workers > 1 renders in that many
    processes; the bytes are the same for every number of workers.
    """
    folder = Path(folder)
    missing = [index for index in range(count) if not (folder / clip_name(split, index)).exists()]
    done = count - len(missing)
    yield done
    for directory in sorted({(folder / clip_name(split, index)).parent for index in missing}):
        directory.mkdir(parents=True, exist_ok=True)
    task = partial(_render_one, folder, seed, split, num_events)
    if workers > 1 and len(missing) > 64:
        for _ in in_processes(task, missing, workers):
            done += 1
            yield done
    else:
        for index in missing:
            task(index)
            done += 1
            yield done


def _render_one(folder: Path, seed: int, split: str, num_events: tuple[int, int], index: int) -> None:
    write_mp4(
        folder / clip_name(split, index), render(draw_script(seed, index, split=split, num_events=num_events)), FPS
    )


def clip_row(script: Script, split: str, index: int, *, seed: int, noise: Noise | None, language: str = "en") -> dict:
    """One line of captions.jsonl: the caption as the web would write it, the true one, and the truth behind it."""
    rng = random.Random(f"{seed}/{split}/{index}/caption")
    return {
        "id": f"{split}-{index:07d}",
        "video": clip_name(split, index),
        "caption": true_caption(script, language) if noise is None else noisy_caption(script, rng, noise, language),
        "true_caption": true_caption(script, language),
        "events": [list(event) for event in script.events],
        "timestamps": [list(span) for span in script.spans],
        "duration": script.duration,
        "probes": [list(probe) for probe in probes(script)],
        "licence": "CC0-1.0",
    }


def write_captions(
    folder: str | Path,
    count: int,
    *,
    seed: int = 0,
    split: str = "train",
    num_events: tuple[int, int] = (3, 3),
    noise: Noise | None = None,
    language: str = "en",
    tag: str = "",
) -> Path:
    """Write <folder>/<split><-tag>.jsonl with `count` rows (see `clip_row`), whole or not at all; returns its path.

    Without `noise` the caption is the true one. `video` is relative to the folder.
    """
    path = Path(folder) / f"{split}{tag and '-'}{tag}.jsonl"
    with whole(path, "w") as file:
        for index in range(count):
            script = draw_script(seed, index, split=split, num_events=num_events)
            row = clip_row(script, split, index, seed=seed, noise=noise, language=language)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def events_of(text: str) -> tuple[list[Event], int]:
    """(events told, number of sentences that tell none): what evaluation asks of a caption."""
    parsed = parse(text)
    return list(parsed.events), len(parsed.extra)
