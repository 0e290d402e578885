"""How many forward passes it took to reach a reward: the curves of what the guard measured while training.

Every system of a comparison is measured on the same prompts from the same seeds; a backward pass counts like a forward
one. The target is what one system reached at its end.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Point = tuple[float, float]
"""(forward passes so far, trained reward)"""


def curve(folder: Path) -> list[Point]:
    """What the guard of a run saw, in order. Empty where there was no guard."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    seen = [json.loads(line) for line in lines]
    return [(line["forward_passes"], line["guard/reward"]) for line in seen if "guard/reward" in line]


def passes_to(points: Sequence[Point], target: float) -> float | None:
    """Passes at the first point that reaches `target`; None where none does."""
    return next((passes for passes, reward in points if reward >= target), None)


def to_target(curves: Mapping[str, Sequence[Sequence[Point]]], target: str) -> dict[str, dict[str, Any]]:
    """Passes until the final reward of system `target`, an entry of results.json for each system.

    `curves[system]` is a list over seeds, `target`'s of the same seeds, or one for all. `value` is the mean over the
    seeds that reached it, `low` and `high` the least and the most, `excluded` counts those that did not.
    """
    finals = [points[-1][1] for points in curves[target] if points]
    found: dict[str, dict[str, Any]] = {}
    for name, by_seed in curves.items():
        goals = finals * len(by_seed) if len(finals) == 1 else finals
        passes = [passes_to(points, goal) for points, goal in zip(by_seed, goals, strict=False)]
        reached = [one for one in passes if one is not None]
        found[name] = {
            "value": sum(reached) / len(reached) if reached else None,
            "low": min(reached, default=None),
            "high": max(reached, default=None),
            "n": len(reached),
            "excluded": len(passes) - len(reached),
        }
    return found
