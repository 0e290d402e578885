"""The gate of rewards that steer a loop of a generator: what they choose must please a judge that chooses nothing.

A reward whose choice the held-out judge likes no better than what comes unchosen teaches its own taste and nothing
else. So a loop that keeps, or learns from, what its rewards rank first measures that before it goes on, and stops; as
rlkit/caption/judge_gate.py does for judges of captions, where the truth is known.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reward_models import agreement
from reward_models.agreement import Interval
from rlkit.errors import GateError
from rlkit.recipe import Recipe
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress

FILE = "gate.json"


@dataclass(frozen=True)
class Gate:
    """Means of the held-out judge, in its own unit, with 95 % intervals that draw whole prompts."""

    plain: Interval
    chosen: Interval
    gain: Interval
    """chosen - plain."""
    about: str
    """What was chosen from what."""

    @property
    def open(self) -> bool:
        """Whether the choice pleases the held-out judge by more than chance."""
        return self.gain.low > 0

    def sentence(self) -> str:
        """All figures."""

        def told(one: Interval, sign: str = "") -> str:
            return f"{one.value:{sign}.3f} ({one.low:{sign}.3f} to {one.high:{sign}.3f})"

        return (
            f"{self.about}; by the held-out judge the choice is worth {told(self.chosen)}, the rest with it "
            f"{told(self.plain)}, difference {told(self.gain, '+')}"
        )


def of_samples(held_out: Sequence[float], chosen: Sequence[bool], prompts: Sequence[str], about: str) -> Gate:
    """Some samples chosen from all: `held_out` [samples] of each, NaN where it has no score."""
    values, mask = np.asarray(held_out, float), np.asarray(chosen, bool)

    def mean_of(which):
        return lambda v, m: float(np.nanmean(v[which(m)])) if np.isfinite(v[which(m)]).any() else np.nan

    every, best = mean_of(np.ones_like), mean_of(lambda m: m)
    found = [
        agreement.bootstrap_by_prompt(one, prompts, values, mask)
        for one in (every, best, lambda v, m: best(v, m) - every(v, m))
    ]
    return Gate(*found, about)


def of_prompts(plain: Sequence[float], best: Sequence[float], prompts: Sequence[str], about: str) -> Gate:
    """For each prompt its plain outcome and the one that rewards chose, [prompts] each, NaN where one has no score."""
    both = np.stack([np.asarray(plain, float), np.asarray(best, float)], 1)
    known = np.isfinite(both).all(1)
    names, both = [one for one, here in zip(prompts, known, strict=True) if here], both[known]
    found = [
        agreement.bootstrap_by_prompt(lambda v: float(np.mean(v)), names, one)
        for one in (both[:, 0], both[:, 1], both[:, 1] - both[:, 0])
    ]
    return Gate(*found, about)


def settle(gate: Gate, recipe: Recipe, folder: RunFolder, progress: Progress, advice: str) -> None:
    """Write gate.json and go on, or raise GateError where the gate is closed and `sampling.gate` is stop."""
    if folder.main:
        folder.write_json(FILE, {"open": gate.open, "told": gate.sentence()})
    if gate.open:
        progress.note(f"reward gate open: {gate.sentence()}")
        return
    message = f"reward gate closed: {gate.sentence()}. {advice}"
    if recipe.sampling.gate == "stop":
        raise GateError(f"{message}, or sampling.gate=warn to go on")
    progress.note(message)


def due(recipe: Recipe, folder: RunFolder) -> bool:
    """Whether there is a gate that this run has not passed yet."""
    path, setting = folder.path / FILE, recipe.sampling.gate
    passed = path.is_file() and (setting == "warn" or json.loads(path.read_text(encoding="utf-8"))["open"])
    return setting != "off" and not passed
