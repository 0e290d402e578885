"""`rlkit report <run folder>`: one HTML file that shows what a run did; no server, no network, no script.

Everything on the page comes from the run folder (rlkit/report/data.py says which files); what is missing is left out.
Film strips are inside the page, as are the curves, which are also written to plots/*.svg.
"""

import argparse
import json
import os
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from rlkit.evaluate.caption_metrics import matched_positions, score
from rlkit.evaluate.names import ALARMS, describe, is_detail, number, system_title
from rlkit.report import compare_table, pictures, rounds
from rlkit.report.data import RunData, read_run
from rlkit.report.svg import axis_number, colour, interval_chart, line_chart
from rlkit.report.word_diff import word_diff

CONTROLS = ("blind_order_exact", "shuffled_order_exact", "other_clip_order_exact")
# The first that the results have is the headline; the next ones stand beside it.
HEADLINES = ("order_exact", "reward", "pairwise_seen", "acceptance_last", "order_tau", "event_f1")
BESIDE = ("extra_sentences", "event_recall", "skill_probe", "invented_events", "length_words", "held_out", "diversity")
EXAMPLES = 3

# Curves that belong in one picture; a name not listed is drawn with those that share its part before "/".
FAMILIES = {
    "loss": ("loss", "eval_loss"),
    "margin": ("rewards/margins", "eval_rewards/margins"),
    "order accuracy by likelihood": ("order_accuracy",),
    "grounding: true clip minus control": ("grounding/shuffled", "grounding/blind"),
    "rewards": ("rewards/chosen", "rewards/rejected"),
    "accuracy": ("rewards/accuracies", "eval_rewards/accuracies", "mean_token_accuracy"),
    "log-probabilities": ("logps/chosen", "logps/rejected"),
    "logits": ("logits/chosen", "logits/rejected"),
    "margin and length": ("margin_length_correlation",),
    "entropy": ("entropy",),
    "gradient norm": ("grad_norm",),
    "learning rate": ("learning_rate",),
    "sharing ratio": ("sharing_ratio",),
    "guard: trained reward and held-out judge": ("guard/reward", "guard/held_out"),
    "guard: gap between their gains": ("guard/gap",),
    "guard: size of velocities against the reference": ("guard/velocity_ratio",),
    "guard: diversity": ("guard/diversity",),
    "guard: saturation": ("guard/saturation",),
    "guard: lattice": ("guard/grid",),
}
NO_CURVE = ("step", "time", "epoch", "total_flos", "num_tokens", "train_loss")


def main(argv: Sequence[str] | None = None) -> int:
    """`rlkit report <folder> [--open]`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="rlkit report", description="Write report.html of a run folder.")
    parser.add_argument("folder", type=Path, help="a run folder, such as runs/dpo_caption")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    arguments = parser.parse_args(argv)
    if not arguments.folder.is_dir():
        print(f"{arguments.folder}: no such run folder. `rlkit ls runs` or `ls runs/` shows those there are.")
        return 2
    page = write_report(arguments.folder)
    print(page)
    if arguments.open:
        webbrowser.open(page.resolve().as_uri())
    return 0


def write_report(path: Path) -> Path:
    """Write `report.html` (and plots/*.svg) into the run folder and return its path; the file appears whole."""
    path = Path(path)
    run = read_run(path)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    html = environment.get_template("page.html.j2").render(page(run))
    _write(path / "report.html", html)
    for name, svg in plots(run).items():
        _write(path / "plots" / f"{name}.svg", svg)
    return path / "report.html"


def page(run: RunData) -> dict[str, Any]:
    """Everything the template shows."""
    systems = run.results.get("systems") or {}
    paired = run.results.get("differences") or {}
    before, after = compare_table.headline_systems(run.results)
    changes = compare_table.before_after(systems, before, after, paired) if before and after else []
    metrics = compare_table.metric_order(systems)
    main_metrics = [name for name in metrics if name not in CONTROLS and not is_detail(name)]
    return {
        "run": run,
        "title": run.name,
        "finished": bool(run.results),
        "last_step": max((line.get("step", 0) for line in run.metrics.get("", [])), default=None),
        "facts": facts(run),
        "before": system_title(before) if before else None,
        "after": system_title(after) if after else None,
        "hero": next((line for name in HEADLINES for line in changes if line["metric"] == name), None),
        "beside": [line for name in BESIDE for line in changes if line["metric"] == name][:4],
        "changes": changes,
        "n": max((i.get("n") or 0 for s in systems.values() for i in s.values() if isinstance(i, dict)), default=0),
        "measured_on": run.results.get("measured_on", "held-out clips"),
        "chart": systems_chart(systems, before, after),
        "table": table(systems, paired, main_metrics),
        "has_best": any(c.best for row in compare_table.cells(systems, paired).values() for c in row.values()),
        "controls": part_of_table(systems, paired, "order_exact", CONTROLS),
        "skills": part_of_table(systems, paired, "skill_probe", [name for name in metrics if is_detail(name)]),
        "retained": compare_table.retained(run.results),
        "rounds": rounds.table(run.results),
        "stops": rounds.stops(run.results),
        "examples": examples(run, before, after),
        "pictures": pictures.groups(run),
        "by_steps": pictures.by_steps(run.results),
        "guard": pictures.guard_sentence(run.results),
        "pairs": pairs(run),
        "curves": curves(run),
        "alarms": [{**alarm, "text": alarm_text(alarm)} for alarm in run.alarms],
        "cost": flat(run.results.get("cost") or {}),
        "env": flat(run.env),
    }


def facts(run: RunData) -> list[tuple[str, str]]:
    """The line under the title: algorithm, model, data, seed, when."""
    recipe = run.recipe
    model, data = recipe.get("model"), recipe.get("data")
    model = model if isinstance(model, dict) else {"id": model}
    data = data if isinstance(data, dict) else {}
    found = {
        "algorithm": recipe.get("algorithm"),
        "model": model.get("id") or model.get("init"),
        "data": data.get("folder") or data.get("pairs") or data.get("source"),
        "seed": recipe.get("seed"),
        "started": run.env.get("started"),
    }
    return [(name, str(value)) for name, value in found.items() if value is not None]


def systems_chart(systems: compare_table.Systems, before: str | None, after: str | None) -> str:
    """The headline metric of every system, with intervals; empty with fewer than two systems."""
    name = next((n for n in HEADLINES if sum(n in metrics for metrics in systems.values()) > 1), None)
    if name is None:
        return ""
    scale = 100 if describe(name).percent else 1
    rows = []
    for system, metrics in systems.items():
        interval = metrics.get(name) or {}
        if interval.get("value") is not None:
            bounds = [None if interval.get(k) is None else scale * interval[k] for k in ("low", "high")]
            rows.append(
                (system_title(system), number(interval["value"], describe(name)), scale * interval["value"], *bounds)
            )
    emphasis = [system_title(system) for system in (before, after) if system]
    return interval_chart(
        rows, title=compare_table.heading(name), emphasis=emphasis, bounds=(0, 100) if describe(name).percent else None
    )


def table(systems: compare_table.Systems, paired: compare_table.Differences, metrics: Sequence[str]) -> dict[str, Any]:
    """Headings and rows of a table of systems; empty without systems."""
    cells = compare_table.cells(systems, paired)
    metrics = [name for name in metrics if any(name in s for s in systems.values())]
    return {
        "heads": [(compare_table.heading(name), describe(name).meaning) for name in metrics],
        "rows": [(system_title(system), [cells[system][name] for name in metrics]) for system in systems],
    }


def part_of_table(
    systems: compare_table.Systems, paired: compare_table.Differences, first: str, others: Sequence[str]
) -> dict[str, Any]:
    """`first` beside `others`, for the systems that have any of these others; empty where none has."""
    some = {system: metrics for system, metrics in systems.items() if any(name in metrics for name in others)}
    return table(some, paired, (first, *others)) if some else {"heads": [], "rows": []}


def alarm_text(alarm: Mapping[str, Any]) -> str:
    """One sentence about an alarm."""
    value = alarm["value"]
    printed = axis_number(value, 4) if isinstance(value, int | float) else str(value)
    return ALARMS.get(alarm["guard"], "value {}").format(printed)


def examples(run: RunData, before: str | None, after: str | None) -> list[dict[str, Any]]:
    """Groups of clips with captions before and after: most improved, worst, and the first ones as they come."""
    rows = [row for row in run.captions if isinstance(row.get("captions"), dict) and row["captions"]]
    if not rows:
        return []
    names = list(rows[0]["captions"])
    if before not in names or after not in names:
        before, after = compare_table.headline_systems({"systems": dict.fromkeys(names)})
        before, after = before or names[0], after or names[0]
    shown = [_example(run, row, before, after) for row in rows]
    groups = []
    if all(item["gain"] is not None for item in shown):
        # Among equals those with a picture; the sort is stable, so the rest stay in the file's order.
        improved = sorted((i for i in shown if i["gain"] > 0), key=lambda i: (-i["gain"], not i["row"].get("frames")))
        improved = improved[:EXAMPLES]
        left = [i for i in shown if i not in improved]
        worst = [i for i in left if i["quality"] < 1]
        worst = sorted(worst, key=lambda i: (i["gain"] >= 0, i["quality"], not i["row"].get("frames")))[:EXAMPLES]
        groups.append(("Most improved", "largest gain in order and events", improved))
        groups.append(("Worst", "what got worse first, then the lowest quality that is left", worst))
        shown = [i for i in left if i not in worst]
    groups.append(("As they come", "the first clips of the file, not chosen", shown[:EXAMPLES]))
    for _, _, items in groups:
        for item in items:
            item["picture"] = run.picture(item["row"])
    return [{"title": title, "rule": rule, "rows": items} for title, rule, items in groups if items]


def _example(run: RunData, row: Mapping[str, Any], before: str, after: str) -> dict[str, Any]:
    captions = {name: str(text) for name, text in row["captions"].items()}
    old, new = word_diff(captions.get(before, ""), captions.get(after, ""))
    events = row.get("events") if isinstance(row.get("events"), dict) else {}
    sides = []
    for name, pieces in ((before, old), (after, new)):
        told = told_events(events["truth"], events[name]) if "truth" in events and name in events else None
        sides.append({"title": system_title(name), "pieces": pieces, "events": told})
    qualities = [_quality(row, name) for name in (before, after)]
    known = None not in qualities
    return {
        "row": row,
        "clip": str(row.get("clip", "")),
        "prompt": str(row.get("prompt", "")),
        "truth": str(row.get("truth", "")),
        "sides": sides,
        "quality": qualities[1] if known else None,
        "gain": qualities[1] - qualities[0] if known else None,
    }


def _quality(row: Mapping[str, Any], system: str) -> float | None:
    """In [0, 1]: mean of exact order, event F1 and rescaled tau; only to choose examples."""
    events = row.get("events")
    if not isinstance(events, dict) or "truth" not in events or system not in events:
        return None
    scores = score([_key(e) for e in events["truth"]], [_key(e) for e in events[system]], 0, "")
    tau = scores["order_tau"] if scores["order_tau"] == scores["order_tau"] else -1.0
    return (scores["order_exact"] + scores["event_f1"] + (tau + 1) / 2) / 3


def told_events(truth: Sequence[Any], told: Sequence[Any]) -> list[dict[str, str]]:
    """The told events in the order told, then the missing ones; `status` is right, moved, invented or missing.

    The longest run of matched events that is in true order is right; matched ones outside it are moved.
    """
    pairs = matched_positions([_key(e) for e in truth], [_key(e) for e in told])
    right = _longest_rising([place for _, place in pairs])
    matched = {place for _, place in pairs}
    out = []
    for place, event in enumerate(told):
        status = "right" if place in right else "moved" if place in matched else "invented"
        out.append({"label": _label(event), "status": status})
    found = {position for position, _ in pairs}
    out += [{"label": _label(e), "status": "missing"} for i, e in enumerate(truth) if i not in found]
    return out


def _longest_rising(places: Sequence[int]) -> set[int]:
    best: list[list[int]] = []
    for i, place in enumerate(places):
        before = [best[j] for j in range(i) if places[j] < place]
        best.append([*max(before, key=len, default=[]), place])
    return set(max(best, key=len, default=[]))


def _key(event: Any) -> str:
    return json.dumps(event, ensure_ascii=False, sort_keys=True)


def _label(event: Any) -> str:
    if isinstance(event, dict):
        event = list(event.values())
    return " ".join(str(part) for part in event) if isinstance(event, list | tuple) else str(event)


def pairs(run: RunData) -> list[dict[str, Any]]:
    """The first preference pairs with each rejected answer diffed against the chosen one."""
    shown = []
    for row in run.pairs[: 2 * EXAMPLES]:
        rejected = row.get("rejected") or []
        rejected = [rejected] if isinstance(rejected, str) else list(rejected)
        kinds, margins = _padded(row.get("rejected_kind"), rejected), _padded(row.get("margin"), rejected)
        chosen = str(row.get("chosen", ""))
        answers = [
            {"kind": kind, "margin": margin, "pieces": word_diff(chosen, str(text))[1]}
            for text, kind, margin in zip(rejected, kinds, margins, strict=True)
        ]
        shown.append(
            {
                "picture": run.picture(row),
                "prompt": str(row.get("prompt", "")),
                "chosen": chosen,
                "clip": str(row.get("clip", "")),
                "rejected": answers,
            }
        )
    return shown


def _padded(values: Any, like: Sequence[Any]) -> list[Any]:
    values = values if isinstance(values, list) else [] if values is None else [values]
    return [*values, *[None] * len(like)][: len(like)]


def families(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """`out[family][metric]`: points (step, value), known families first; what has one point is no curve.

    Where steps start again, another training has logged into the same file: its curves are named "loss (2)".
    """
    points: dict[str, list[list[tuple[float, float]]]] = {}
    for line in lines:
        for name, value in line.items():
            plain = name.removeprefix("train/")
            if isinstance(value, bool) or not isinstance(value, int | float) or plain in NO_CURVE:
                continue
            if plain.startswith(("time/", "alarm/")) or plain.endswith(("_runtime", "_per_second")):
                continue
            trainings = points.setdefault(plain, [[]])
            step = float(line.get("step", 0))
            if trainings[-1] and step < trainings[-1][-1][0]:
                trainings.append([])
            trainings[-1].append((step, float(value)))
    family_of = {name: family for family, names in FAMILIES.items() for name in names}
    out: dict[str, dict[str, list[tuple[float, float]]]] = {family: {} for family in FAMILIES}
    for name, trainings in points.items():
        family = family_of.get(name) or (name.split("/")[0] if "/" in name else name).replace("_", " ")
        for place, values in enumerate(trainings, start=1):
            if len(values) > 1:
                out.setdefault(family, {})[name if place == 1 else f"{name} ({place})"] = values
    return {family: series for family, series in out.items() if series}


def curves(run: RunData) -> list[dict[str, Any]]:
    """Per part of the run, a chart per family; alarms are marked."""
    out = []
    for part, lines in run.metrics.items():
        alarms = [alarm for alarm in run.alarms if alarm["part"] == part and isinstance(alarm["step"], int)]
        marks = [(alarm["step"], f"{alarm['guard']}: {alarm_text(alarm)}") for alarm in alarms]
        charts = []
        for family, series in families(lines).items():
            legend = [
                (name, colour(i), axis_number(values[-1][1], 4)) for i, (name, values) in enumerate(series.items())
            ]
            svg = line_chart(series, title=family, marks=marks)
            charts.append({"title": family, "svg": svg, "legend": legend})
        if charts:
            out.append({"part": part, "charts": charts})
    return out


def plots(run: RunData) -> dict[str, str]:
    """File name -> SVG that stands alone, for the run's own metrics."""
    return {
        "".join(c if c.isalnum() else "_" for c in family): line_chart(series, title=family, standalone=True)
        for family, series in families(run.metrics.get("", [])).items()
    }


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted key, text)."""
    out: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            out += flat(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            out.append((f"{prefix}{key}", f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"))
        elif isinstance(value, int) and not isinstance(value, bool):
            out.append((f"{prefix}{key}", f"{value:,}"))
        elif value is not None:
            out.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return out


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8", errors="replace")
    aside.replace(path)
