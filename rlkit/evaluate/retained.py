"""What a captioner could do before training and what is left of it: the same questions, before and after."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlkit.caption import retain, rows
from rlkit.evaluate import intervals
from rlkit.evaluate.captioner import HeldOut, Probe, asked
from rlkit.models import Captioner
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import write_jsonl

Row = dict[str, Any]
BEFORE, AFTER = "retained_before.jsonl", "retained_after.jsonl"
"""In a system's folder, a row a clip."""


class Retained:
    """Asks `retain.probes`, or the world's questions about held-out clips; nothing where the recipe has no `retain`."""

    def __init__(self, recipe: Recipe, progress: Progress, held: Callable[[Captioner], HeldOut]) -> None:
        """`held` gives the held-out clips as a captioner's processor encodes them."""
        self.recipe, self.progress, self.held = recipe, progress, held
        self.systems: dict[str, dict[str, Any]] = {}
        self._probes: list[Probe] | None = None

    def before(self, name: str, captioner: Captioner, folder: RunFolder) -> None:
        """Ask the start, once; a run that goes on finds the answers in its folder."""
        if self.recipe.retain is not None and not (folder.path / BEFORE).is_file():
            self._ask(f"{name}: asking the start what it knows", captioner, folder, BEFORE)

    def after(
        self, name: str, captioner: Captioner, folder: RunFolder, start: RunFolder, measured: Sequence[Row]
    ) -> None:
        """Ask what was trained, unless its `measured` rows of held-out clips hold the answers; `start` is the folder
        with the answers of its start."""
        if self.recipe.retain is None:
            return
        if self.recipe.retain.probes is None:
            told = ((at, {key: row[key] for key in row if key.startswith("skill_")}) for at, row in enumerate(measured))
            self._keep({at: skills for at, skills in told if skills}, folder, AFTER)
        else:
            self._ask(f"{name}: asking what it still knows", captioner, folder, AFTER)
        self.read(name, folder, start)

    def read(self, name: str, folder: RunFolder, start: RunFolder) -> None:
        """Take over the answers of a system that was measured before."""
        paths = start.path / BEFORE, folder.path / AFTER
        if self.recipe.retain is not None and all(path.is_file() for path in paths):
            self.systems[name] = compared(*map(_rows, paths))

    def _ask(self, stage: str, captioner: Captioner, folder: RunFolder, file: str) -> None:
        if self._probes is None:
            named = self.recipe.retain.probes
            self._probes = _of_file(captioner, Path(named), self.recipe) if named else self.held(captioner).probes
        self.progress.stage(stage, total=len(self._probes))
        self._keep(asked(captioner, self._probes, self.recipe.evaluate, self.progress), folder, file)

    def _keep(self, answers: Mapping[int, Mapping[str, float]], folder: RunFolder, file: str) -> None:
        if folder.main:
            write_jsonl(folder.path / file, [{"clip": str(clip), **skills} for clip, skills in answers.items()])
        ranks.wait()


def scales(recipe: Recipe) -> list[float]:
    """What a trained adapter is multiplied by, the saved one first."""
    return recipe.retain.adapter_scales if recipe.retain is not None else [1.0]


def _of_file(captioner: Captioner, path: Path, recipe: Recipe) -> list[Probe]:
    """The questions of a file, encoded; what is asked of the same clip counts as one clip."""
    questions, reader = retain.read_questions(path), retain.reader_of(path, recipe)
    numbers: dict[tuple, int] = {}
    found = []
    for one in questions:
        clip = numbers.setdefault((one.video, one.start, one.end), len(numbers))
        shown = reader.clip(one.video, one.start, one.end)
        found.append((clip, one.skill, one.answer, rows.encode(captioner, one.record(), shown, index=clip)))
    return found


def compared(before: Sequence[Row], after: Sequence[Row]) -> dict[str, Mapping[str, intervals.Interval]]:
    """`before`, `after` and their `change`, question by question or prompt by prompt, each as intervals of means."""
    return {
        "before": intervals.summarise(before),
        "after": intervals.summarise(after),
        "change": intervals.paired_difference(after, before),
    }


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
