"""Where a run's numbers and samples go: always into the run folder, and to W&B where `report_to` asks for it.

Algorithms call `Tracker` and never ask who listens. Names are TRL's; W&B shows them as transformers' own callback does
(`train/rewards/margins`, `eval/loss`). Checked against wandb 0.31 and transformers 5.23.
"""

import json
import netrc
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import rewrite_logs

from rlkit.running.folder import RunFolder, write_text
from rlkit.running.progress import Progress

PAIR_COLUMNS = ["frames", "prompt", "chosen", "rejected", "kind", "margin"]
CAPTION_COLUMNS = ["frames", "prompt", "truth"]
PICTURE_COLUMNS = ["kind", "prompt"]


class Null:
    """Listens to nothing."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class Wandb:
    """One W&B run; offline, saying so once, when nobody is logged in."""

    def __init__(self, folder: Path, *, name: str, config: Mapping[str, object], progress: Progress) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
        if mode == "offline":
            reason = "WANDB_MODE says so" if "WANDB_MODE" in os.environ else "there is no login"
            progress.note(f"W&B runs offline, since {reason}; later: wandb sync {folder / 'wandb'}/offline-run-*")
        self.wandb = wandb
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rlkit"),
            name=name,
            id=_run_id(folder),
            resume="allow",
            config=dict(config),
            dir=folder,
            mode=mode,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run.define_metric("train/global_step")
        self.run.define_metric("*", step_metric="train/global_step", step_sync=True)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers of one step."""
        self.run.log({**rewrite_logs(dict(metrics)), "train/global_step": step})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
        """A table; a path to a picture becomes the picture."""
        table = self.wandb.Table(columns=list(columns))
        for row in rows:
            table.add_data(*(self.wandb.Image(str(v)) if isinstance(v, Path) else v for v in row))
        self.run.log({name: table, "train/global_step": step})

    def finish(self) -> None:
        """Wait until everything is written."""
        self.run.finish()


@dataclass
class Named:
    """Hands everything on under `name/`; finishing is left to the whole."""

    backend: "Null | Wandb | Named"
    name: str

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers of one step."""
        self.backend.log({f"{self.name}/{key}": value for key, value in metrics.items()}, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], step: int) -> None:
        """A table."""
        self.backend.table(f"{self.name}/{name}", columns, rows, step)

    def finish(self) -> None:
        """Nothing."""


@dataclass
class Tracker:
    """The run folder and one listener."""

    folder: RunFolder
    backend: Null | Wandb | Named

    def log(self, metrics: Mapping[str, object], step: int) -> None:
        """One line of metrics.jsonl and one step of the listener; what is no number is left out.

        What transformers measured with a clock goes under `time/` in the file; all else a resumed run repeats.
        """
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        if numbers:
            self.folder.log({_file_name(name): value for name, value in numbers.items()}, step)
            self.backend.log(numbers, step)

    def part(self, name: str, folder: RunFolder) -> "Tracker":
        """A tracker for one training of several in a run: its own folder, and names of its own for the listener."""
        return Tracker(folder, Named(self.backend, name))

    def pairs(self, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """Preference pairs: `clip frames prompt chosen rejected rejected_kind margin` (lists for the last three).

        `frames` is a film strip's path inside the run folder. Written to samples/pairs.jsonl; the newest call stays.
        """
        if self.folder.main:
            write_jsonl(self.folder.samples / "pairs.jsonl", [{**row, "step": step} for row in rows])
        table = []
        for row in rows:
            margins = row.get("margin") or [None] * len(row["rejected"])
            for text, kind, margin in zip(row["rejected"], row["rejected_kind"], margins, strict=True):
                table.append([self._picture(row), row["prompt"], row["chosen"], text, kind, margin])
        self.backend.table("samples/pairs", PAIR_COLUMNS, table, step)

    def captions(self, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """Captions of held-out clips: `clip frames prompt truth captions events`; written to samples/eval.jsonl.

        `captions` maps a system to its caption, `events` a system (and "truth") to its events.
        """
        if self.folder.main:
            write_jsonl(self.folder.samples / "eval.jsonl", [{**row, "step": step} for row in rows])
        systems = list(dict.fromkeys(name for row in rows for name in row["captions"]))
        table = [
            [self._picture(row), row["prompt"], row["truth"], *(row["captions"].get(name, "") for name in systems)]
            for row in rows
        ]
        self.backend.table("samples/captions", [*CAPTION_COLUMNS, *systems], table, step)

    def pictures(self, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """Pictures of held-out prompts: `kind number prompt pictures reward held_out`; to samples/pictures.jsonl.

        `pictures` maps a system to the path of its pictures inside the run folder, the last two a system to a score.
        """
        if self.folder.main:
            write_jsonl(self.folder.samples / "pictures.jsonl", [{**row, "step": step} for row in rows])
        systems = list(dict.fromkeys(name for row in rows for name in row["pictures"]))
        scores = [(key, name) for key in ("reward", "held_out") for name in systems]
        table = [
            [row["kind"], row["prompt"]]
            + [self._picture({"frames": row["pictures"].get(name)}) for name in systems]
            + [row.get(key, {}).get(name) for key, name in scores]
            for row in rows
        ]
        columns = [*PICTURE_COLUMNS, *systems, *(f"{key}/{name}" for key, name in scores)]
        self.backend.table("samples/pictures", columns, table, step)

    def finish(self) -> None:
        """Close the listener."""
        self.backend.finish()

    def _picture(self, row: Mapping[str, object]) -> Path | None:
        path = self.folder.path / str(row["frames"]) if row.get("frames") else None
        return path if path is not None and path.is_file() else None


def open_tracker(
    report_to: Sequence[str], folder: RunFolder, *, name: str, config: Mapping[str, object], progress: Progress
) -> Tracker:
    """A tracker for `report_to` (TrainingArguments' name); processes other than the main one write nothing."""
    wanted = "wandb" in report_to and folder.main
    backend = Wandb(folder.path, name=name, config=config, progress=progress) if wanted else Null()
    return Tracker(folder, backend)


def for_transformers(report_to: Sequence[str]) -> list[str]:
    """What to hand to `TrainingArguments(report_to=...)`: everything but W&B, which would otherwise log twice."""
    return [name for name in report_to if name not in ("wandb", "none")] or ["none"]


def logged_in() -> bool:
    """Whether W&B has a key for its host, in the environment or in the netrc file; asks nobody."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(str(path)).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class RunCallback(TrainerCallback):
    """Hands a trainer's logs and steps to the tracker and the panel; only the first process of all does."""

    def __init__(self, tracker: Tracker, progress: Progress) -> None:
        self.tracker, self.progress = tracker, progress

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, object] | None = None,
        **_: object,
    ) -> None:
        """After `logging_steps` steps, and after an evaluation. The line at a training's end is left out: it tells of
        this start alone, and a run that is killed after its last checkpoint would never write it."""
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            self.tracker.log(logs, state.global_step)
            self.progress.metrics(logs, state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """After each optimiser step."""
        self.progress.step(state.global_step)


def attach(trainer: Trainer, tracker: Tracker, progress: Progress) -> None:
    """Put `RunCallback` in the place of the trainer's own bar and printed dictionaries."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(RunCallback(tracker, progress))


def write_jsonl(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """One JSON object per line; the file appears whole."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _file_name(metric: str) -> str:
    return f"time/{metric}" if metric.endswith(("_runtime", "_per_second")) else metric


def _run_id(folder: Path) -> str:
    """The run's W&B id, drawn once per run folder, so that a resumed run goes on in the same W&B run."""
    path = folder / "wandb" / "rlkit_run_id"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()
