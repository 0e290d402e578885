"""The guard of generators' training: does a reward rise because pictures get better, or because it is hacked?

Every `guard.every` steps it draws the same prompts from the same seeds, none of which trains or measures the results,
and compares what it sees with what it saw before the first step: the trained reward, a judge that is not trained on,
the gap between both, the size of velocities against the reference's (NormGuard,
https://huggingface.co/papers/2606.27771), the spread among pictures of one prompt, saturation, lattices. Values are
`guard/<name>` in metrics.jsonl, the first alarm of each kind `alarm/<name>`.
"""

import math
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rlkit.errors import GuardError
from rlkit.evaluate.generator import Measure
from rlkit.evaluate.names import ALARMS
from rlkit.generators import pixels
from rlkit.models.generator import Generator
from rlkit.recipe import HackingGuard
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker

WATCHED = ("reward", "held_out", "velocity_ratio", "diversity", "saturation", "grid")
PRINTED = {"gap": ".2f", "held_out": ".1%", "velocity": ".3f", "diversity": ".0%", "saturation": ".3f", "grid": ".2f"}

ONE_SIDED = 1.645
"""Standard errors that a fall of the judge must exceed: in one of twenty measurements it does so by chance."""

Values = dict[str, list[float | None]]
"""Name -> a value per prompt; None where it is missing."""


@dataclass
class State:
    """What a resumed run must know."""

    start: Values = field(default_factory=dict)
    alarms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Kind -> {"step", "value"} of its first alarm."""
    best: dict[str, float] | None = None
    """{"step", "held_out"} of the weights that the judge liked best."""
    stopped_at: int | None = None
    measured: int = 0


class Guard:
    """Watches the weights `name` of a generator, those that will be saved."""

    def __init__(
        self,
        measure: Measure,
        generator: Generator,
        name: str,
        folder: RunFolder,
        tracker: Tracker,
        progress: Progress,
        passes: Callable[[], int] = int,
    ) -> None:
        """`measure` holds the guard's own prompts and its number of samples; `passes` counts those of training."""
        self.settings: HackingGuard = measure.recipe.guard
        self.last = measure.recipe.train.max_steps
        self.measure, self.generator, self.name = measure, generator, name
        self.folder, self.tracker, self.progress, self.passes = folder, tracker, progress, passes
        self.state = State()
        if not len(measure.held_out):
            progress.note("guard: no evaluate.held_out_rewards, so that no judge watches what the reward does")

    @property
    def ended(self) -> bool:
        """Whether training is over because of an alarm."""
        return self.state.stopped_at is not None

    def watch(self, step: int) -> None:
        """Measure, where it is time after `step` steps. Raises GuardError at an alarm with guard.action: stop."""
        settings = self.settings
        if not settings.every or not self.measure.prompts or (step % settings.every and step != self.last):
            return
        values = self._look()
        for name, found in values.items():
            self.state.start.setdefault(name, found)
        compared = compare(self.state.start, values)
        self.state.measured += 1
        seen = {f"guard/{name}": value for name, value in compared["now"].items()}
        self._log(seen | {"forward_passes": float(self.passes())}, step)
        self._keep_best(compared["now"].get("held_out"), step)
        new = {kind: value for kind, value in alarms(settings, compared).items() if kind not in self.state.alarms}
        for kind, value in new.items():
            self.state.alarms[kind] = {"step": step, "value": value}
            self._log({f"alarm/{kind}": value}, step)
            self.progress.note(f"ALARM {kind} at step {step}: {sentence(kind, value)}")
        if new and settings.action == "stop":
            told = "; ".join(sentence(kind, value) for kind, value in new.items())
            raise GuardError(
                f"at step {step} {told}. guard.action: warn goes on, rollback keeps the best weights; a lower rate, "
                "more kl_weight, or another reward goes against the cause."
            )
        if new and settings.action == "rollback":
            self.state.stopped_at = step
            best = self.state.best
            where = "no weights were kept" if best is None else f"the weights of step {best['step']:.0f} are kept"
            self.progress.note(f"training ends at step {step}; {where}")

    def settle(self) -> None:
        """After training: where an alarm ended it, put the best weights in the place of the last ones.

        Raises GuardError where the file of these weights is gone or of another step.
        """
        if not self.ended or self.state.best is None:
            return
        ranks.wait()
        path, step = best_file(self.folder), self.state.best["step"]
        if not path.is_file():
            raise GuardError(f"{path}: the weights to roll back to are gone; run anew, or with guard.action=warn.")
        with safe_open(path, "pt") as file:
            found = file.metadata()["step"]
        if found != str(step):
            raise GuardError(f"{path}: holds the weights of step {found}, expected those of step {step}; run anew.")
        self.generator.load_weights(load_file(path), self.name)

    def results(self) -> dict[str, Any]:
        """For results.json, under `guard`."""
        found = {"action": self.settings.action, "measured": self.state.measured, "alarms": self.state.alarms}
        found["best"] = self.state.best
        if self.ended:
            found["rolled_back_from"] = self.state.stopped_at
        return found

    def state_dict(self) -> dict[str, Any]:
        """All of its state, as JSON takes it."""
        return vars(self.state).copy()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.state = State(**state_dict)

    def _look(self) -> Values:
        """What the prompts show now, those of all processes."""

        def seen(numbers: Sequence[int]) -> list[dict[str, Any]]:
            found = []
            for number in numbers:
                row, pictures = self.measure.of_prompt(self.generator, self.name, number, ratio=True)
                row |= {"saturation": pixels.mean_saturation(pictures), "profiles": pixels.profiles(pictures)}
                found.append(row)
            return found

        rows = ranks.spread(seen, list(range(len(self.measure.prompts))))
        values = {name: [_finite(row.get(name)) for row in rows] for name in WATCHED}
        values["grid"] = [pixels.grid(row["profiles"] for row in rows)]
        return {name: found for name, found in values.items() if any(value is not None for value in found)}

    def _keep_best(self, held_out: float | None, step: int) -> None:
        best = self.state.best
        if held_out is None or (best is not None and held_out <= best["held_out"]):
            return
        self.state.best = {"step": step, "held_out": held_out}
        if self.settings.action != "rollback":
            return
        weights = {key: one.contiguous() for key, one in self.generator.weights(self.name).items()}
        if self.folder.main:
            path = best_file(self.folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            save_file(weights, aside, metadata={"step": str(step)})
            aside.replace(path)

    def _log(self, metrics: dict[str, float], step: int) -> None:
        self.tracker.log(metrics, step)


def sentence(kind: str, value: float) -> str:
    """What an alarm of this kind says."""
    return ALARMS[kind].format(format(value, PRINTED[kind]))


def best_file(folder: RunFolder) -> Path:
    """Where the weights lie that a rollback goes back to."""
    return folder.checkpoints / "best.safetensors"


def compare(start: Values, values: Values) -> dict[str, dict[str, float]]:
    """Means now and at the start, each over the prompts that have a value both times, `gained` and its `noise`.

    `gained` is a difference as a share of the start: of its size, or of its spread over prompts where that is larger,
    since some judges' scores lie around 0; `noise` is its standard error over prompts. The gap, `now["gap"]`, is the
    gain of the reward less that of the judge.
    """
    found: dict[str, dict[str, float]] = {"now": {}, "start": {}, "gained": {}, "noise": {}}
    for name, after in values.items():
        pairs = [(a, b) for a, b in zip(start[name], after, strict=True) if a is not None and b is not None]
        if not pairs:
            continue
        before = [a for a, _ in pairs]
        found["start"][name], found["now"][name] = statistics.fmean(before), statistics.fmean(b for _, b in pairs)
        scale = max(abs(found["start"][name]), statistics.pstdev(before), 1e-8)
        found["gained"][name] = (found["now"][name] - found["start"][name]) / scale
        spread = statistics.pstdev(b - a for a, b in pairs)
        found["noise"][name] = spread / max(len(pairs) - 1, 1) ** 0.5 / scale
    if {"reward", "held_out"} <= found["gained"].keys():
        found["now"]["gap"] = found["gained"]["reward"] - found["gained"]["held_out"]
    return found


def alarms(settings: HackingGuard, compared: dict[str, dict[str, float]]) -> dict[str, float]:
    """Kind -> value of every limit that is passed; see HackingGuard."""
    now, start, gained = compared["now"], compared["start"], compared["gained"]
    rise = {name: now[name] - start[name] for name in start}
    lost = -gained.get("held_out", 0.0)
    found = {
        "gap": (now.get("gap"), settings.max_gap),
        # eight prompts alone may make a judge seem to fall
        "held_out": (
            lost if lost > ONE_SIDED * compared["noise"].get("held_out", 0.0) else None,
            settings.max_held_out_drop,
        ),
        "velocity": (now.get("velocity_ratio"), settings.max_velocity_ratio),
        "diversity": (-gained["diversity"] if "diversity" in gained else None, settings.max_diversity_drop),
        "saturation": (rise.get("saturation"), settings.max_saturation_rise),
        "grid": (rise.get("grid"), settings.max_grid_rise),
    }
    passed = {kind: value for kind, (value, limit) in found.items() if None not in (value, limit) and value > limit}
    if gained.get("held_out", 0) > 0 or gained.get("reward", 0) <= 0:
        passed.pop("gap", None)  # a reward may well gain more than a judge that gains too; a fall of both is no hack
    return passed


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
