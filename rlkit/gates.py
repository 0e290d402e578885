"""What every gate does with its verdict on a judge or reward: keep it, say it, and stop the run where it is closed.

What is measured is in rlkit/caption/judge_gate.py and rlkit/generators/reward_gate.py.
"""

from typing import Literal, Protocol

from reward_models.agreement import Interval
from rlkit.errors import GateError
from rlkit.recipe import Recipe
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
