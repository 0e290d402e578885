"""What every gate does with its verdict on a judge or reward: keep it, say it, and stop the run where it is closed.

What is measured is in rlkit/caption/judge_gate.py and rlkit/generators/reward_gate.py.
"""

import json
from typing import Literal, Protocol

from reward_models.agreement import Interval
from rlkit.errors import GateError
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress

FILE = "gate.json"
KEYS = {"judge": "sampling.judge", "reward": "rewards"}


class Gate(Protocol):
    """What was measured."""

    @property
    def open(self) -> bool:
        """Whether the judge or reward may steer."""

    def sentence(self) -> str:
        """The figures, and what they mean."""


def passed(recipe: Recipe, folder: RunFolder) -> bool:
    """Whether there is nothing to measure: no gate is asked for, or an earlier start of this run has passed it. One
    that was closed and stopped the run is measured again when the run is launched again."""
    if recipe.sampling.gate == "off":
        return True
    path, there = folder.path / FILE, False
    if folder.main and path.is_file():
        there = recipe.sampling.gate == "warn" or json.loads(path.read_text(encoding="utf-8"))["open"]
    return ranks.gathered(there)[0]  # as the main process found it, which alone writes


def figure(one: Interval, sign: Literal["", "+"] = "") -> str:
    """A mean with its interval."""
    return f"{one.value:{sign}.3f} ({one.low:{sign}.3f} to {one.high:{sign}.3f})"


def settle(
    kind: Literal["judge", "reward"],
    name: str,
    gate: Gate,
    advice: str,
    recipe: Recipe,
    folder: RunFolder,
    progress: Progress,
) -> None:
    """Write gate.json and go on, or raise GateError where the gate is closed and `sampling.gate` is stop.

    `name` says which judge or rewards were measured, `advice` what would help.
    """
    folder.write_json(FILE, {"open": gate.open, "judge": name, "told": gate.sentence()})
    if gate.open:
        progress.note(f"{kind} gate open: {gate.sentence()}")
        return
    message = f"{kind} gate closed: {gate.sentence()}. {advice}"
    if recipe.sampling.gate == "stop":
        raise GateError(f"{KEYS[kind]} {name}: {message}, or sampling.gate=warn to go on")
    progress.note(message)
