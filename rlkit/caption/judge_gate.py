"""The gate of a judge: its best sample must beat the policy's greedy caption before it may label pairs.

A judge weaker than the policy does harm: what it holds for the best of the policy's samples is worse than what the
policy says by itself. So the gate measures both on labelled clips that neither was trained on, and stops the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_synth.events import parse
from data_synth.world.clips import events_of
from reward_models import agreement, event_order
from rlkit.caption import generate, pairs
from rlkit.caption.clips import FEW, Clips, Reader, world_held_out
from rlkit.caption.judges import Judge, Row, answered, shown_to
from rlkit.errors import GateError
from rlkit.gates import figure, passed, settle
from rlkit.models import Captioner
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress

TRUTH = "event_order"
"""The reward that is the truth where clips come with their events."""


@dataclass(frozen=True)
class Gate:
    """Mean truth of captions of labelled clips, in [0, 1] (reward_models/event_order.py), with 95 % intervals."""

    greedy: agreement.Interval
    best_by_judge: agreement.Interval
    best_by_truth: agreement.Interval
    gain: agreement.Interval
    """best_by_judge - greedy, clip by clip."""
    num_clips: int
    num_samples: int

    @property
    def open(self) -> bool:
        """Whether the judge's choice beats the greedy caption by more than chance."""
        return self.gain.low > 0

    def sentence(self) -> str:
        """Both figures, and what they mean."""
        return (
            f"the best of {self.num_samples} samples by the judge is worth {figure(self.best_by_judge)}, the greedy "
            f"caption {figure(self.greedy)}, difference {figure(self.gain, '+')}, the best by the truth "
            f"{figure(self.best_by_truth)}, on {self.num_clips} labelled clips"
        )


def gate(captioner: Captioner, judge: Judge, found: Clips, recipe: Recipe, question: str, progress: Progress) -> Gate:
    """Measure a judge on labelled clips that neither it nor the policy was trained on."""
    clips, reader = labelled(found, recipe, progress)
    if not clips:
        raise GateError(
            "sampling.judge has to pass a gate, for which there are no labelled clips: raise evaluate.num_clips, or "
            "sampling.gate=off"
        )
    progress.stage(
        f"judge gate: {recipe.sampling.num_samples} captions of {len(clips)} labelled clips", total=len(clips)
    )
    measured = ranks.spread(lambda part: _values(captioner, judge, part, reader, recipe, question, progress), clips)
    names = ("greedy", "best_by_judge", "best_by_truth")
    values = {name: np.array([one[at] for one in measured]) for at, name in enumerate(names)}
    values["gain"] = values["best_by_judge"] - values["greedy"]
    ids = [row["id"] for row in clips]
    intervals = {name: agreement.bootstrap_by_prompt(lambda v: float(np.mean(v)), ids, v) for name, v in values.items()}
    return Gate(**intervals, num_clips=len(clips), num_samples=recipe.sampling.num_samples)


def labelled(found: Clips, recipe: Recipe, progress: Progress) -> tuple[list[Row], Reader]:
    """At most sampling.gate_clips clips that nothing is trained on: the world's other split, or the held-out clips of a
    folder."""
    clips, reader = found.held_out, found.held_out_reader
    if recipe.data.source == "world":
        split = "dev" if recipe.evaluate.split == "test" else "test"
        clips, reader = world_held_out(recipe.data, split, recipe.sampling.gate_clips, progress)
    return [clips[at] for at in range(min(len(clips), recipe.sampling.gate_clips))], reader


def of_rewards(recipe: Recipe, num_samples: int) -> Recipe:
    """The recipe as the gate reads it where its rewards are the judge of `num_samples` captions: none has to pass where
    they are the truth alone."""
    used = [one.name for one in recipe.rewards if one.weight]
    judge = "world" if used == [TRUTH] else " + ".join(used)
    return replace(recipe, sampling=replace(recipe.sampling, judge=judge, num_samples=num_samples))


def applies(recipe: Recipe) -> bool:
    """Whether a recipe's judge has to pass: any but the truth itself."""
    return recipe.sampling.gate != "off" and recipe.sampling.judge not in (None, "world")


def stages(recipe: Recipe) -> int:
    """How many stages of the progress display `check` goes through."""
    if not applies(recipe):
        return 0
    rendered = 1 + (recipe.sampling.gate_clips > FEW * ranks.count()) if recipe.data.source == "world" else 0
    return 1 + rendered


def check(
    captioner: Captioner,
    judge: Judge,
    found: Clips,
    recipe: Recipe,
    folder: RunFolder,
    question: str,
    progress: Progress,
) -> None:
    """The gate of a recipe, before its judge labels pairs; `gate.json` in the run folder keeps the figures.

    Raises GateError where the judge does not beat the policy and `sampling.gate` is stop.
    """
    if not applies(recipe) or passed(recipe, folder):
        return
    result = gate(captioner, judge, found, recipe, question, progress)
    settle("judge", recipe.sampling.judge, result, _advice(result), recipe, folder, progress)


def _advice(result: Gate) -> str:
    """What would help, by what is missing."""
    if result.best_by_truth.low <= result.greedy.high:
        return (
            "Even the truth finds little better among the samples: raise sampling.num_samples or sampling.temperature"
        )
    return "Train the judge on more labelled clips, or on the captioner's own wrong samples (negatives: own_samples)"


def _values(
    captioner: Captioner,
    judge: Judge,
    part: Sequence[Row],
    reader: Reader,
    recipe: Recipe,
    question: str,
    progress: Progress,
) -> list[tuple[float, float, float]]:
    """Per clip the truth of the greedy caption, of the judge's best sample and of the best sample."""
    settings = recipe.sampling
    examples = [shown_to(captioner, row, answered(row, ["A"], question), reader) for row in part]
    size = recipe.evaluate.per_device_eval_batch_size
    options = {"max_new_tokens": settings.max_completion_length, "batch_size": size}
    greedy = [one[0] for one in generate.captions(captioner, examples, **options)]
    drawn = generate.captions(
        captioner,
        examples,
        num_return_sequences=settings.num_samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=recipe.seed,
        progress=progress,
        **options,
    )
    readable = [[text for text in dict.fromkeys(one) if pairs.readable(text)] or ["."] for one in drawn]
    scores = judge(part, readable, reader)
    values = []
    for row, plain, texts, given in zip(part, greedy, readable, scores, strict=True):
        truth = [truth_of(row, text) for text in texts]
        scored = [(score, -at) for at, score in enumerate(given) if score is not None]
        best = truth[-max(scored)[1]] if scored else truth_of(row, plain)
        values.append((truth_of(row, plain), best, max(truth)))
    return values


def truth_of(row: Row, text: str) -> float:
    """How well a caption tells a labelled clip: by the world's events, else by the events of its true caption."""
    if row.get("events") is not None:
        told, extra = events_of(text)
        return event_order.reward([tuple(event) for event in row["events"]], told, extra)
    truth, told = ([event.text.lower() for event in parse(one).events] for one in (row["true_caption"], text))
    return event_order.reward(truth, told, 0)
