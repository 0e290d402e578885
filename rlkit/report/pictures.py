"""What a report shows of a generator: pictures before and after, quality by steps, what its guard did."""

from collections.abc import Mapping
from typing import Any

from rlkit.evaluate.names import describe, interval_text, number, system_title
from rlkit.report.compare_table import Cell, heading
from rlkit.report.data import RunData
from rlkit.report.svg import colour, line_chart

KINDS = {
    "kept": ("What each round kept", "samples that the next round learns from, cluster by cluster, at most 32"),
    "improved": ("Most improved", "largest gain of the reward"),
    "worst": ("Worst", "what the held-out judge, else the reward, fell for first, then the lowest that is left"),
    "first": ("As they come", "the first held-out prompts, not chosen"),
}


def groups(run: RunData) -> list[dict[str, Any]]:
    """Groups of prompts with every system's pictures and scores, as samples/pictures.jsonl has them."""
    found = []
    for kind, (title, rule) in KINDS.items():
        rows = [_prompt(run, row) for row in run.pictures if row.get("kind") == kind]
        rows = [row for row in rows if row["sides"]]
        if rows:
            found.append({"title": title, "rule": rule, "rows": rows})
    return found


def _prompt(run: RunData, row: Mapping[str, Any]) -> dict[str, Any]:
    sides = []
    pictures = row.get("pictures")
    for name, path in pictures.items() if isinstance(pictures, dict) else ():
        picture = run.picture({"frames": path})
        if picture is None:
            continue
        scores = [
            f"{describe(key).title} {number(row[key][name], describe(key))}"
            for key in ("reward", "held_out")
            if isinstance(row.get(key), dict) and isinstance(row[key].get(name), int | float)
        ]
        sides.append({"title": system_title(name), "picture": picture, "scores": ", ".join(scores)})
    return {"prompt": str(row.get("prompt", "")), "sides": sides}


def by_steps(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per metric a chart over the sampler's steps and a table, systems x steps; empty where it was not measured."""
    measured = results.get("by_steps") or {}
    steps = sorted({int(number) for of_system in measured.values() for number in of_system})
    found = []
    for name in ("reward", "held_out", "to_many"):
        has = {system: of for system, of in measured.items() if any(name in one for one in of.values())}
        if not has:
            continue
        series = {
            system_title(system): [
                (float(at), of[str(at)][name]["value"])
                for at in steps
                if of.get(str(at), {}).get(name, {}).get("value") is not None
            ]
            for system, of in has.items()
        }
        rows = [
            (system_title(system), [_cell(of.get(str(at), {}).get(name), name) for at in steps])
            for system, of in has.items()
        ]
        found.append(
            {
                "title": heading(name),
                "svg": line_chart(series, title=heading(name)),
                "legend": [(title, colour(at)) for at, title in enumerate(series)],
                "table": {"heads": [(f"{at} steps", "") for at in steps], "rows": rows},
            }
        )
    return found


def _cell(interval: Mapping[str, Any] | None, name: str) -> Cell:
    entry = describe(name)
    if not interval:
        return Cell("–", "", False, None)
    return Cell(number(interval.get("value"), entry), interval_text(interval, entry), False, interval.get("n"))


def guard_sentence(results: Mapping[str, Any]) -> str:
    """What the guard of a generator did, in a sentence; empty where none watched."""
    guard = results.get("guard")
    if not isinstance(guard, dict):
        return ""
    alarms, measured = guard.get("alarms") or {}, guard.get("measured", 0)
    text = f"It measured {measured} times on prompts and seeds of its own"
    if not alarms:
        return f"{text} and gave no alarm."
    first = ", ".join(f"{kind} at step {alarm['step']}" for kind, alarm in alarms.items())
    text += f" and gave {len(alarms)} alarm{'s' if len(alarms) > 1 else ''} ({first})"
    best = guard.get("best")
    if "rolled_back_from" in guard and best:
        return (
            f"{text}; training ended at step {guard['rolled_back_from']}, and what was saved and measured are the "
            f"weights of step {best['step']}, which the held-out judge liked best."
        )
    return f"{text}; training went on."
