"""The keys of `compare:`, systems side by side over several seeds; see schema.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from rlkit.recipe.marks import Changes, OnDisk
from rlkit.recipe.units import Count, CountOrZero


@dataclass(frozen=True)
class System:
    """One row of a comparison."""

    recipe: Annotated[str, OnDisk("file")] = ""
    """The recipe it runs, from the working directory; without what that recipe needs, its variants and its
    compare_with: each of these is a system here, or a recipe under `needs` of the comparison."""
    start: str | None = None
    """The system above whose final weights it starts from; null keeps the recipe's own model."""
    seeds: list[CountOrZero] | None = None
    """One seed, as in `[0]`, trains it once; all that start from it share it. null: each seed of the comparison."""
    set: Annotated[dict[str, Any], Changes()] = field(default_factory=dict)
    """Dotted keys with their other values."""
    hidden: bool = False
    """Leave it out of the table: a start that others need."""


@dataclass(frozen=True)
class Compare:
    """Several systems over several seeds."""

    seeds: list[CountOrZero] = field(default_factory=lambda: [0, 1, 2])
    """Each system is trained once with each, unless it has `seeds` of its own."""
    systems: dict[str, System] = field(default_factory=dict)
    """Name -> what it is; the first two are what the others are compared with in the last screen."""
    workers: Count = 1
    """Systems trained at once, each in a process of its own with its share of the cores, or a GPU in turn."""
    target: str | None = None
    """For generators: the system whose final reward the others are to reach; `passes_to_target` is what it took them,
    by the guard's prompts (guard.every)."""
