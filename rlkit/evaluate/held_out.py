"""Systems of one run beside each other on the same held-out clips: measured, kept on disk, compared and reported."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_synth.records import text_of
from rlkit.caption.clips import Clips, Reader
from rlkit.evaluate import intervals
from rlkit.evaluate.captioner import HeldOut, hold_out, measure
from rlkit.evaluate.retained import Retained, scales
from rlkit.models import Captioner, adapter_scale
from rlkit.recipe import Recipe
from rlkit.report import compare_table, film_strip
from rlkit.report.finish import finish
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker, write_jsonl

NOT_METRICS = ("id", "caption", "told")
SHOWN = 24  # clips in the report


class Evaluation:
    """Rows per system, one per held-out clip; `<run>/evaluation.jsonl` keeps them for runs that build on this one."""

    def __init__(self, clips: Clips, recipe: Recipe, folder: RunFolder, tracker: Tracker, progress: Progress) -> None:
        self.clips, self.recipe, self.folder = clips, recipe, folder
        self.tracker, self.progress = tracker, progress
        self.systems: dict[str, list[dict[str, Any]]] = {}
        self.held: HeldOut | None = None
        self.retained = Retained(recipe, progress, self.hold_out)
        self._pairs: list[dict[str, Any]] = []

    def hold_out(self, captioner: Captioner) -> HeldOut:
        """The held-out clips as this processor encodes them; encoded once."""
        if self.held is None:
            self.held = hold_out(
                captioner,
                list(self.clips.held_out),
                self.clips.held_out_reader,
                self.recipe.evaluate,
                self.recipe.data.language,
            )
        return self.held

    def add_run(self, name: str, run_folder: Path) -> None:
        """Rows of a finished run on the same clips; noted and left out where that run measured other clips."""
        path = run_folder / "evaluation.jsonl"
        rows = read_rows(path) if path.is_file() else []
        wanted = [row["id"] for row in self.clips.held_out]
        by_id = {row["id"]: row for row in rows}
        if not wanted or not all(one in by_id for one in wanted):
            self.progress.note(f"{name}: {path} does not hold these held-out clips; left out of the table")
            return
        self.systems[name] = [by_id[one] for one in wanted]

    def add(
        self,
        name: str,
        captioner: Captioner,
        folder: RunFolder,
        *,
        seconds: float | None = None,
        pairs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Measure a system and keep its rows in its folder, with the seconds of training where it was trained here; an
        adapter also at the other retain.adapter_scales."""
        self.systems[name] = []  # before its other scales
        first, *others = scales(self.recipe)
        for scale in others:
            with adapter_scale.scaled(captioner.model, scale / first):
                self._measure(f"{name} x{scale:g}", captioner, folder.part(f"scales/{scale:g}"), folder)
        if folder.path == self.folder.path:
            self._pairs = list(pairs)
            self.tracker.pairs([self._pair(number, pair) for number, pair in enumerate(self._pairs)], 0)
        if seconds is not None:
            folder.write_json("cost.json", {"train_seconds": round(seconds, 1)})
        self._measure(name, captioner, folder, folder)

    def _measure(self, name: str, captioner: Captioner, folder: RunFolder, start: RunFolder) -> None:
        """Rows of a system; the file is written last: from there on it counts as measured."""
        settings = self.recipe.evaluate
        if settings.num_clips == 0 or not len(self.clips.held_out):
            self.systems.pop(name, None)
            self.retained.after(name, captioner, folder, start, [])
            return
        held = self.hold_out(captioner)
        total = sum(len(examples) for examples in held.examples.values()) + len(held.probes)
        total = -(-total // ranks.count())  # this process's share
        self.progress.stage(f"{name}: evaluating on {len(held.rows)} held-out clips", total=total)
        self.systems[name] = measure(captioner, held, settings, self.progress)
        self.retained.after(name, captioner, folder, start, self.systems[name])
        if folder.main:
            write_jsonl(folder.path / "evaluation.jsonl", self.systems[name])
        ranks.wait()

    def read(self, name: str, folder: RunFolder) -> bool:
        """Take over a system measured before a kill; its model is whole, since evaluation comes after saving."""
        path = folder.path / "evaluation.jsonl"
        if not path.is_file():
            return False
        self.systems[name] = read_rows(path)
        for scale in scales(self.recipe)[1:]:
            part = folder.part(f"scales/{scale:g}")
            self.systems[f"{name} x{scale:g}"] = read_rows(part.path / "evaluation.jsonl")
            self.retained.read(f"{name} x{scale:g}", part, folder)
        self.retained.read(name, folder, folder)
        return True

    def seconds(self, folder: RunFolder) -> float:
        """Training seconds of a system that was read back."""
        return json.loads((folder.path / "cost.json").read_text())["train_seconds"]

    def finish(
        self,
        cost: Mapping[str, Any],
        *,
        headline: str | None = None,
        more: Mapping[str, Any] | None = None,
        seeds: Sequence["Evaluation"] = (),
    ) -> dict[str, Any]:
        """results.json, samples, report, card and the last screen; returns the results. `headline` is the system that
        is shown beside the first one, where that is not the usual choice; `more` goes into the results; `seeds` are the
        same systems trained with other seeds."""
        results = self.results(seeds) | {"cost": dict(cost), **(more or {})}
        first, usual = compare_table.headline_systems(results)
        if first is not None and headline in self.systems and headline not in (first, usual):
            results["headline"] = [first, headline]
        if self.systems:
            self.tracker.captions(self._samples(), 0)
        finish(self.folder, results)
        return results

    def results(self, seeds: Sequence["Evaluation"] = ()) -> dict[str, Any]:
        """`systems` with intervals, and `differences` between each two of them; over these `seeds` too."""
        rows = {
            name: [metric_rows(one.systems[name]) for one in (self, *seeds) if name in one.systems]
            for name in self.systems
        }
        results: dict[str, Any] = {"systems": {}}
        for name, of_seeds in rows.items():
            one = len(of_seeds) == 1
            results["systems"][name] = intervals.summarise(of_seeds[0]) if one else intervals.pool_seeds(of_seeds)
        if len(rows) > 1:
            results["differences"] = compare_table.differences(rows)
        if self.retained.systems:
            results["retained"] = self.retained.systems
        return results

    def _samples(self) -> list[dict[str, Any]]:
        """Held-out clips with every system's caption; the strips are drawn once."""
        found = []
        for at in range(min(SHOWN, len(self.clips.held_out))):
            row = self.clips.held_out[at]
            captions = {name: rows[at]["caption"] for name, rows in self.systems.items()}
            events = {name: [" ".join(e) for e in rows[at]["told"]] for name, rows in self.systems.items()}
            events["truth"] = [" ".join(event) for event in row.get("events") or []]
            found.append(
                {
                    "clip": row["video"],
                    "frames": self._strip(self.clips.held_out_reader, row["video"], f"samples/strips/{row['id']}.jpg"),
                    "prompt": "Describe the video.",
                    "truth": row["true_caption"],
                    "captions": captions,
                    "events": events,
                }
            )
        return found

    def _pair(self, number: int, pair: Mapping[str, Any]) -> dict[str, Any]:
        record = pair["record"]
        video = record["videos"][0]
        return {
            "clip": video,
            "frames": self._strip(self.clips.reader, video, f"samples/strips/pair-{number:03d}.jpg"),
            "prompt": text_of(record["prompt"]),
            "chosen": text_of(record["chosen"]),
            "rejected": [text_of(answer) for answer in record["rejected"]],
            "rejected_kind": list(record["rejected_kind"]),
            "margin": list(pair["margin"]),
        }

    def _strip(self, reader: Reader, video: str, name: str) -> str:
        path = self.folder.path / name
        if not path.exists() and self.folder.main:
            clip = reader.whole(video)
            film_strip.save(film_strip.film_strip(clip.frames, clip.timestamps), path)
        return name


def stages(recipe: Recipe) -> int:
    """Stages of the progress display that `retain` adds to a system's: the start's answers, those of the outcome where
    the questions are your own, and the evaluation of further scales."""
    if recipe.retain is None:
        return 0
    return 1 + len(scales(recipe)) * (recipe.retain.probes is not None) + len(scales(recipe)) - 1


def metric_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The numbers of rows without their texts; `id` stays, so that systems are compared clip by clip."""
    return [{"clip": row["id"]} | {key: row[key] for key in row if key not in NOT_METRICS} for row in rows]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of an evaluation.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
