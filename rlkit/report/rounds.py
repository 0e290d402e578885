"""The rounds of a loop that learns from its own samples, as a table."""

from collections.abc import Mapping
from typing import Any

from rlkit.evaluate.names import Metric, number, system_title
from rlkit.report.compare_table import Cell

PLAIN = Metric("", "", "")


def table(results: Mapping[str, Any]) -> dict[str, Any]:
    """Headings and rows of results["rounds"], {system: {seed: [what a round says of itself]}}; empty without. The round
    that is reported, and why a system ended, are said beside it; what no round knows is no column."""
    rounds = results.get("rounds") or {}
    lines = [
        (_title(results, system, place, seed, one), one)
        for system, seeds in rounds.items()
        for place, (seed, of_seed) in enumerate(seeds.items())
        for one in of_seed
    ]
    names = [name for name in dict.fromkeys(key for _, one in lines for key in one) if name != "round"]
    names = [name for name in names if any(one.get(name) is not None for _, one in lines)]
    return {
        "heads": [(name.replace("_", " "), "") for name in names],
        "rows": [(title, [Cell(_printed(one.get(name)), "", False, None) for name in names]) for title, one in lines],
    }


def _printed(value: float | None) -> str:
    return f"{value:,}" if isinstance(value, int) else number(value, PLAIN)


def _title(results: Mapping[str, Any], system: str, place: int, seed: str, one: Mapping[str, Any]) -> str:
    kept = (results.get("kept_round") or {}).get(system, [])[place : place + 1]
    mark = ", reported" if kept == [one["round"]] else ""
    return f"{system_title(system)}, seed {seed}, round {one['round']}{mark}"


def stops(results: Mapping[str, Any]) -> list[str]:
    """Why systems ended before their last round, a sentence each."""
    seeds = {system: list(of_system) for system, of_system in (results.get("rounds") or {}).items()}
    return [
        f"{system_title(system)}, seed {seed}: {why}."
        for system, reasons in (results.get("stopped") or {}).items()
        for seed, why in zip(seeds.get(system, []), reasons, strict=False)
        if why
    ]
