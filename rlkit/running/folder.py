"""The folder of one run: its recipe and environment, what it measured on the way, and its results.

The folder is the truth and resuming reads nothing else. Files appear whole: written aside, then renamed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlkit.errors import RecipeError, RunFolderError
from rlkit.plugins import shown_path
from rlkit.recipe.file import Step, as_dict, launchable, load
from rlkit.running import environment

NO_RESULT = ("out", "compare.workers", "pairs.workers", "train.dataloader_num_workers", "train.ddp_timeout")
"""Keys that may change when a run goes on."""


@dataclass
class RunFolder:
    """A run's files. Only the main process (rank 0) writes: on the others every writing method does nothing."""

    path: Path
    main: bool = True

    @property
    def samples(self) -> Path:
        """What the model said, for people: jsonl and pictures."""
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        """`checkpoint-<step>` folders; give it to TrainingArguments as `output_dir`."""
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """The trained model, as transformers, PEFT or diffusers load it."""
        return self.path / "final"

    @property
    def finished(self) -> bool:
        """Whether the run is complete; results.json is written last and says so."""
        return bool(self.results().get("complete"))

    def results(self) -> dict[str, Any]:
        """results.json; empty before the run is finished."""
        path = self.path / "results.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def part(self, name: str) -> RunFolder:
        """A folder inside, for one part of a run that trains several models; with its own metrics and checkpoints."""
        inside = RunFolder(self.path / name, self.main)
        if self.main:
            inside.path.mkdir(parents=True, exist_ok=True)
        return inside

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Append one flat line to metrics.jsonl. NaN and infinities are written as null.

        What depends on the clock belongs under `time/` (`time/samples_per_second`); `time` itself is added. All other
        numbers of an interrupted and resumed run equal those of an uninterrupted one.
        """
        if not self.main:
            return
        numbers = {name: _number(value) for name, value in metrics.items()}
        line = {"step": int(step), **numbers, "time": round(time.time(), 3)}
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The logged lines; a half line, left by a kill, is skipped."""
        path = self.path / "metrics.jsonl"
        return [line for line, _ in _whole_lines(path)] if path.is_file() else []

    def resume_at(self, step: int | None) -> None:
        """Drop the lines after `step`, which will be logged again; None drops all. An algorithm calls this before it
        trains, with the step of its checkpoint."""
        path = self.path / "metrics.jsonl"
        if not self.main or not path.is_file():
            return
        kept = [text for line, text in _whole_lines(path) if step is not None and line["step"] <= step]
        write_text(path, "".join(kept))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file in the folder, whole or not at all."""
        if self.main:
            write_text(self.path / name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint, or None. What a kill left half written is removed by the main process; one that
        was whole and is damaged now is set aside, and said."""
        whole = []
        for path in self.checkpoints.glob("checkpoint-*"):
            damage = _damage(path)
            if damage == "":
                whole.append(path)
            elif self.main and damage is None:
                shutil.rmtree(path)
            elif self.main:
                aside = path.with_name(f"damaged-{path.name}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                print(f"{shown_path(path)}: {damage}, so it is not used; it lies in {aside.name} now.", flush=True)
        return max(whole, key=_step_of, default=None)

    def checkpoint_complete(self, step: int, keep: int | None = None) -> None:
        """Mark `checkpoints/checkpoint-<step>` as whole; call when every rank has written its part. `keep` is how many
        of the newest stay, by their steps and not by the clock, which may jump."""
        if not self.main:
            return
        path = self.checkpoints / f"checkpoint-{step}"
        sizes = {}
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())  # else power may go while the mark is on disk and a weight is not
            sizes[file.relative_to(path).as_posix()] = file.stat().st_size
        write_text(path / "complete", json.dumps(sizes))
        for old in sorted(self.checkpoints.glob("checkpoint-*"), key=_step_of)[: -keep if keep else 0]:
            (old / "complete").unlink(missing_ok=True)  # first: a kill must not leave half a one that counts
            shutil.rmtree(old)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Write results.json, whole and last; the run is finished from here on."""
        self.write_json("results.json", {"complete": True, **results})


def prepare(step: Step, main: bool) -> tuple[RunFolder, str]:
    """The step's run folder and what to do with it: "start", "resume" or "finished".

    Raises RunFolderError, and changes nothing, where the folder holds another recipe's run or files of something else.
    """
    folder = RunFolder(step.out, main)
    name = shown_path(step.out)
    stored = step.out / "recipe.yaml"
    if step.out.exists() and not step.out.is_dir():
        raise RunFolderError(f"{name}: a file where the run folder belongs. Remove it, or give another with out=...")
    if stored.is_file():
        changes = differences(step, stored)
        if changes:
            raise RunFolderError(
                f"{name}: holds the run of another recipe; {len(changes)} keys differ:\n"
                + "\n".join(f"  {change}" for change in changes[:20])
                + "\nGive this run its own folder with out=runs/another_name, or remove the old folder."
            )
        if main and not (step.out / "env.json").is_file():
            folder.write_json("env.json", environment.describe())
        return folder, "finished" if folder.finished else "resume"
    foreign = sorted(path.name for path in step.out.iterdir() if path.name != ".lock") if step.out.is_dir() else []
    if foreign:
        found = ", ".join(foreign[:3])
        raise RunFolderError(
            f"{name}: holds {found} but no recipe.yaml, so it is no run folder. Choose another with out=..."
        )
    if main:
        create(step)
    return folder, "start"


def create(step: Step) -> None:
    """Make the run folder with its recipe and environment."""
    try:
        step.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{shown_path(step.out)}: cannot be made: {error.strerror}. Give another with out=..."
        ) from None
    comment = (
        f"{step.name}, as it ran: overrides applied, defaults written out.\nLaunching this file again resumes the run."
    )
    write_text(step.out / "recipe.yaml", launchable(step.recipe, step.out, comment))
    RunFolder(step.out).write_json("env.json", environment.describe())


def differences(step: Step, stored: Path) -> list[str]:
    """The keys in which the stored recipe differs from the one asked for, with both values; those that change no result
    do not count."""
    try:
        there = flat(as_dict(load(stored)))
    except RecipeError as error:
        return error.problems
    here = flat(as_dict(step.recipe))
    keys = [key for key in here | there if key not in NO_RESULT and here.get(key) != there.get(key)]
    return [f"{key}: {_shown(there, key)} in the folder, {_shown(here, key)} asked for" for key in keys]


def _shown(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "absent"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def lock(path: Path) -> IO[str]:
    """Hold the folder for this process until it ends, however it ends. Raises RunFolderError where another holds it."""
    try:
        import fcntl
    except ImportError:  # Windows has none; there the user sees to it
        return (path / ".lock").open("w", encoding="utf-8")
    file = (path / ".lock").open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise RunFolderError(
            f"{shown_path(path)}: another process is running here. Wait for it, or stop it first."
        ) from None
    return file


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)  # on a full disk it would take room for nothing


def write_folder(path: Path, fill: Callable[[Path], object]) -> None:
    """A folder that appears whole, in the place of an older one: `fill` writes it aside."""
    aside = path.with_name(f".{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    fill(aside)
    shutil.rmtree(path, ignore_errors=True)
    aside.rename(path)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint that was marked as whole, "" where nothing is; None where it never was."""
    try:
        sizes = json.loads((checkpoint / "complete").read_text(encoding="utf-8") or "{}")
    except FileNotFoundError:
        return None
    except ValueError:
        return "the mark `complete` is damaged"
    for name, size in sizes.items():
        file = checkpoint / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            return f"{name} " + ("is missing" if found is None else f"has {found:,} bytes of {size:,}")
    return ""


def _number(value: Any) -> Any:
    """A JSON value: text, whole numbers and null as they are, all else as a float, with null for what is not finite."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _whole_lines(path: Path) -> list[tuple[dict[str, Any], str]]:
    """(parsed, text) of each line that ends in a newline and is JSON."""
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        if not text.endswith("\n"):
            continue
        try:
            line = json.loads(text)
        except ValueError:
            continue
        found.append((line, text))
    return found
