"""Questions about clips that a captioner answers before training: to ask again afterwards, and to go on training on.

Replay of old data beside new is the plainest remedy against forgetting (https://huggingface.co/papers/1811.11682, and
as PPO-ptx in InstructGPT, https://huggingface.co/papers/2203.02155, whose loss on pretraining text this is).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from data_synth.check import check_path
from data_synth.jsonl import read_lines
from data_synth.records import Rejected, make_record
from rlkit.caption import one_row, rows
from rlkit.caption.clips import FRAMES, Clips, Reader
from rlkit.caption.dataset import Examples
from rlkit.engine import seed_of
from rlkit.errors import DataError
from rlkit.models import Captioner
from rlkit.recipe import Recipe
from rlkit.running import ranks

if TYPE_CHECKING:
    from rlkit.caption.trainer import CaptionTrainer


@dataclass(frozen=True)
class Question:
    """What is asked of a clip, and what is right."""

    video: str
    """Relative to the reader's folder."""
    question: str
    answer: str
    skill: str | None = None
    start: float | None = None
    end: float | None = None

    def record(self) -> dict[str, Any]:
        """As a training row with one answer."""
        return make_record(self.question, self.answer, [], videos=[self.video], start=self.start, end=self.end)


def read_questions(path: Path) -> list[Question]:
    """The questions of a JSONL file. Raises DataError with file and line of the first that cannot be asked."""
    found = []
    for where, row in read_lines(path):
        problems = [row.reasons[0]] if isinstance(row, Rejected) else _problems(row, path.parent)
        if problems:
            raise DataError(f'{where}: {problems[0]} A line is {{"video": ..., "question": ..., "answer": ...}}.')
        found.append(Question(**{name: row[name] for name in Question.__annotations__ if row.get(name) is not None}))
    if not found:
        raise DataError(f'{path}: no questions; expected lines {{"video": ..., "question": ..., "answer": ...}}.')
    return found


def _problems(row: Mapping[str, Any], folder: Path) -> list[str]:
    found = check_path(row.get("video"), "video", folder)
    for name in ("question", "answer", *(["skill"] if row.get("skill") is not None else [])):
        if not isinstance(row.get(name), str) or not row[name].strip():
            found.append(f"{name}: found {row.get(name)!r:.80}, expected text.")
    for name in ("start", "end"):
        value = row.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
        if value is not None and not number:
            found.append(f"{name}: found {value!r:.80}, expected seconds from 0 on.")
    if not found and row.get("end") is not None and row["end"] <= (row.get("start") or 0):
        found.append(f"end: found {row['end']}, expected more than start ({row.get('start') or 0}).")
    return found


def of_clips(clips: Iterable[Mapping[str, Any]]) -> list[Question]:
    """The world's own questions about its clips."""
    return [
        Question(row["video"], question, answer, skill)
        for row in clips
        for skill, question, answer in row.get("probes", ())
    ]


def reader_of(path: Path, recipe: Recipe) -> Reader:
    """Reads the clips that a file of questions names."""
    return Reader(recipe.data, path.parent, cache=FRAMES)


class Records(Sequence):
    """Questions as training rows."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.questions[index].record()


class Replay:
    """Adds to each forward pass the loss of a few old questions, which follow from seed, step and process alone."""

    def __init__(self, captioner: Captioner, questions: Sequence[Question], reader: Reader, recipe: Recipe) -> None:
        self.examples = Examples(captioner, Records(questions), reader, cache_gib=recipe.data.cache_gib / 4)
        self.recipe = recipe
        self.at = (-1, 0)
        """(optimiser step, forward pass in it) of the last call."""

    def rows(self, step: int, part: int) -> list[rows.Example]:
        """The questions of a forward pass."""
        settings = self.recipe.retain
        drawn = torch.Generator().manual_seed(seed_of(self.recipe.seed, "replay", step, part, ranks.number()))
        numbers = torch.randint(len(self.examples), (settings.replay_rows,), generator=drawn)
        return [self.examples[number] for number in numbers.tolist()]

    def loss(self, trainer: "CaptionTrainer", model: nn.Module) -> Tensor:
        """replay_weight times the mean negative log-likelihood of the answers' tokens; a step's passes are averaged."""
        step = trainer.state.global_step
        part = self.at[1] + 1 if self.at[0] == step else 0
        self.at = (step, part)
        batch = rows.batch_of(trainer.captioner, self.rows(step, part))
        log_probs, mask = one_row.log_probs(trainer.captioner, batch, model=model)
        loss = -(log_probs * mask).sum() / mask.sum()
        trainer.note("replay/loss", float(loss.detach()))
        return self.recipe.retain.replay_weight * loss / trainer.args.gradient_accumulation_steps


def replay(captioner: Captioner, found: Clips, recipe: Recipe) -> Replay | None:
    """What `retain.replay` names, or the world's questions about training clips; None where nothing is replayed.

    Raises DataError for a file that cannot be used.
    """
    settings = recipe.retain
    if settings is None or not settings.replay_weight:
        return None
    if settings.replay is not None:
        path = Path(settings.replay)
        return Replay(captioner, read_questions(path), reader_of(path, recipe), recipe)
    return Replay(captioner, of_clips(found.train), found.reader, recipe)
