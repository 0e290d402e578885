"""A table of systems x metrics with intervals, as Markdown (README, cards) and as cells (report, terminal).

A system's number is bold only when it is best and the paired interval of its difference to the runner-up excludes zero
(`results["differences"]`, see `differences`): overlap of two separate intervals says little about a paired comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlkit.evaluate.intervals import Interval, Row, paired_difference_over_seeds
from rlkit.evaluate.names import METRICS, describe, interval_text, number, signed, system_title

Systems = Mapping[str, Mapping[str, Interval]]
Differences = Mapping[str, Mapping[str, Mapping[str, Interval]]]


@dataclass(frozen=True)
class Cell:
    """One printed number: `value` and `interval` are text, `best` says whether to print it bold."""

    value: str
    interval: str
    best: bool
    n: int | None


def differences(rows: Mapping[str, Sequence[Sequence[Row]]]) -> dict[str, dict[str, dict[str, Interval]]]:
    """`out[a][b][metric]`: paired interval of system a minus system b, for all ordered pairs.

    `rows[system]` is a list over training seeds of the rows of `intervals.summarise`. Systems with different numbers of
    seeds (base has one, the others three) are paired by repeating the single one.
    """
    out: dict[str, dict[str, dict[str, Interval]]] = {}
    for one in rows:
        for other in rows:
            if one == other:
                continue
            left, right = list(rows[one]), list(rows[other])
            seeds = max(len(left), len(right))
            left = left * seeds if len(left) == 1 else left
            right = right * seeds if len(right) == 1 else right
            out.setdefault(one, {})[other] = paired_difference_over_seeds(left, right)
    return out


def metric_order(systems: Systems) -> list[str]:
    """The metrics that any system has, known ones first in their usual order."""
    present = dict.fromkeys(name for metrics in systems.values() for name in metrics)
    return [name for name in METRICS if name in present] + [name for name in present if name not in METRICS]


def cells(systems: Systems, paired: Differences | None = None) -> dict[str, dict[str, Cell]]:
    """`out[system][metric]` for every system and metric of `systems`."""
    best = {name: best_system(name, systems, paired or {}) for name in metric_order(systems)}
    return {
        system: {
            name: Cell(
                number(metrics[name].get("value"), describe(name)),
                interval_text(metrics[name], describe(name)),
                best[name] == system,
                metrics[name].get("n"),
            )
            if name in metrics
            else Cell("–", "", False, None)
            for name in best
        }
        for system, metrics in systems.items()
    }


def best_system(metric: str, systems: Systems, paired: Differences) -> str | None:
    """The system whose `metric` is best beyond doubt: its paired interval to every other excludes zero; else None."""
    better = describe(metric).better
    values = {
        name: metrics[metric]["value"]
        for name, metrics in systems.items()
        if metric in metrics and metrics[metric].get("value") is not None
    }
    if not better or len(values) < 2:
        return None
    first = (max if better == "higher" else min)(values, key=lambda name: values[name])
    for other in values:
        if other != first and not _surely_better(paired.get(first, {}).get(other, {}).get(metric), better):
            return None
    return first


def _surely_better(difference: Interval | None, better: str) -> bool:
    if difference is None or difference.get("low") is None or difference.get("high") is None:
        return False
    return difference["low"] > 0 if better == "higher" else difference["high"] < 0


def markdown(
    systems: Systems, metrics: Sequence[str] | None = None, paired: Differences | None = None, *, intervals: bool = True
) -> str:
    """A GitHub table, one line per system, one column per metric; ends with a newline."""
    metrics = [name for name in (metrics or metric_order(systems)) if name in metric_order(systems)]
    table = cells(systems, paired)
    lines = [
        "| system | " + " | ".join(heading(name) for name in metrics) + " |",
        "|:--|" + "--:|" * len(metrics),
    ]
    for system in systems:
        texts = []
        for name in metrics:
            cell = table[system][name]
            text = f"**{cell.value}**" if cell.best else cell.value
            texts.append(f"{text} ({cell.interval})" if intervals and cell.interval else text)
        lines.append(f"| {_escape(system_title(system))} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def heading(metric: str) -> str:
    """A column heading with unit and direction: "exact order, % ↑"."""
    entry = describe(metric)
    arrow = {"higher": " ↑", "lower": " ↓"}.get(entry.better, "")
    return _escape(entry.title) + (", %" if entry.percent else "") + arrow


def before_after(systems: Systems, before: str, after: str, paired: Differences | None = None) -> list[dict[str, str]]:
    """One line per metric that both systems have: texts by name, ready to print.

    `verdict` is "better", "worse" or "same": the first two only where the paired interval of the change excludes zero,
    or, where no pairs were stored, where the two intervals do not overlap; "" for metrics that have no direction.
    """
    lines = []
    for name in metric_order(systems):
        if name not in systems[before] or name not in systems[after]:
            continue
        old, new = systems[before][name], systems[after][name]
        if old.get("value") is None and new.get("value") is None:
            continue
        entry = describe(name)
        change = (paired or {}).get(after, {}).get(before, {}).get(name)
        missing = old.get("value") is None or new.get("value") is None
        step = change["value"] if change else None if missing else new["value"] - old["value"]
        change_interval = ""
        if change and change.get("low") is not None:
            change_interval = f"{signed(change['low'], entry)} to {signed(change['high'], entry)}"
        lines.append(
            {
                "metric": name,
                "title": heading(name),
                "name": entry.title,
                "unit": "%" if entry.percent else "",
                "meaning": entry.meaning,
                "before": number(old.get("value"), entry),
                "before_interval": interval_text(old, entry),
                "after": number(new.get("value"), entry),
                "after_interval": interval_text(new, entry),
                "change": signed(step, entry),
                "change_interval": change_interval,
                "verdict": _verdict(old, new, change, entry.better),
            }
        )
    return lines


def retained(results: Mapping[str, object]) -> list[tuple[str, list[dict[str, str]]]]:
    """Per trained system, lines as of `before_after` about what its start could do: `results["retained"]`."""
    found = []
    for system, told in (results.get("retained") or {}).items():
        both = {"before": told["before"], "after": told["after"]}
        lines = before_after(both, "before", "after", {"after": {"before": told["change"]}})
        found.append((system_title(system), lines))
    return found


def _verdict(old: Interval, new: Interval, change: Interval | None, better: str) -> str:
    if not better:
        return ""
    if change is not None and change.get("low") is not None:
        rises, falls = change["low"] > 0, change["high"] < 0
    elif None in (old.get("low"), old.get("high"), new.get("low"), new.get("high")):
        return ""
    else:
        rises, falls = new["low"] > old["high"], new["high"] < old["low"]
    if not rises and not falls:
        return "same"
    return "better" if rises == (better == "higher") else "worse"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def headline_systems(results: Mapping[str, object]) -> tuple[str | None, str | None]:
    """The two systems of the headline: `results["headline"]` = [before, after] where given, else base and dpo.

    (None, None) when there are fewer than two systems.
    """
    systems = list(results.get("systems") or {})
    named = results.get("headline")
    if isinstance(named, list) and len(named) == 2 and set(named) <= set(systems):
        return named[0], named[1]
    if len(systems) < 2:
        return None, None
    before = next((name for name in ("base", "naive") if name in systems), systems[0])
    after = next((n for n in ("dpo", "ours", "sft", systems[-1]) if n in systems and n != before), systems[-1])
    return before, after
