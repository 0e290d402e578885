"""Rewards and preference pairs from a log of clicks, conversions and sessions, without a model (data_synth/feedback).

Without a log, one with planted truth is simulated, so that naive and corrected rankings can be told right from wrong.
"""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data_synth.feedback import guard, pairs, schema, values
from data_synth.feedback.estimate import between
from data_synth.feedback.simulate import Simulation, World, simulate
from data_synth.records import REJECTED_NAME, write_records
from data_synth.whole import whole
from rlkit.recipe import Recipe
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress, quiet

Figure = dict[str, float | int | None]
SIMULATED_GUARDS = {"reported": "lower"}


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Read the log, value its items, write rewards and pairs; see recipes/reward_feedback.yaml."""
    if not folder.main:
        return  # one process does all
    quiet()
    started, asked = time.monotonic(), recipe.feedback
    guards = {name: guard.Guard(better, asked.guard_margin) for name, better in asked.guards.items()}
    with Progress(folder.path.name, stages=3) as progress:
        truth, path = None, recipe.data.log
        if path is None:
            progress.stage("simulating a log with planted truth")
            truth, path = simulate(World(), recipe.seed), folder.path / "log.parquet"
            write_table(truth.table(), path)
            guards = guards or {n: guard.Guard(better, asked.guard_margin) for n, better in SIMULATED_GUARDS.items()}
        progress.stage(f"reading {path}")
        log = schema.read_log(path, extra=list(guards), rename=asked.rename)
        if log.rejected:
            schema.write_rejected(log.rejected, folder.path / REJECTED_NAME)
        for note in notes(log, recipe):
            progress.note(note)
        progress.stage(f"valuing the items of {len(log):,} showings")
        results = value(log, recipe, guards, folder.path, truth)
    results["cost"] = {"seconds": round(time.monotonic() - started, 1)}
    folder.finish(results)
    print(summary(results, folder.path), flush=True)


def value(
    log: schema.Log, recipe: Recipe, guards: dict[str, guard.Guard], out: Path, truth: Simulation | None
) -> dict[str, Any]:
    """Write rewards.parquet and pairs/ into `out`; returns results.json."""
    asked, options = recipe.feedback, options_of(recipe)
    measured = values.measure(log, options)
    ours = values.value_items(measured, options)
    watched = guard.qualities(log, guards, ours, options)
    compared = pairs.separate(ours, multiplicity=asked.multiplicity, error_rate=asked.error_rate)
    refused: Counter[str] = Counter()
    made = pairs.records(log, ours, compared, watched, options, refused)
    written = write_records(made, out / "pairs", overwrite=True)
    table = pairs.reward_table(log, ours, watched)
    write_table(table, out / "rewards.parquet")
    plain = replace(options, method="snips", position="off", delay="off", min_ess=0.0)
    naive = values.values(replace(log, propensity=None), plain)
    naively = pairs.separate(naive, multiplicity=asked.multiplicity, error_rate=asked.error_rate)
    counts = {
        "rows": len(log) + len(log.rejected),
        "quarantined": len(log.rejected),
        "quarantined_for": log.reasons(),
        "left_out": measured.left_out,
        "items": len(ours.item),
        "items_refused": sum(reason is not None for reason in ours.refused),
        "rewards_capped": sum(reason is not None for reason in table["capped"].to_pylist()),
        "comparisons": compared.comparisons,
        "pairs_separated": len(compared.pairs),
        "pairs_refused": dict(refused),
        "pairs_quarantined": written.quarantined,
        "pairs": written.kept,
    }
    looked = measured.examination
    found: dict[str, Any] = {"systems": {"naive": about(naive, naively), "ours": about(ours, compared)}}
    found["systems"]["ours"]["pairs_against_raw"] = share(
        sum(bool(ours.raw[one.chosen] < ours.raw[one.rejected]) for one in compared.pairs), len(compared.pairs)
    )
    if truth is not None:
        found["systems"]["naive"] |= against(truth, log, naive, naively, options.metric)
        found["systems"]["ours"] |= against(truth, log, ours, compared, options.metric)
        found["systems"]["naive"].pop("coverage", None)  # a raw rate means to measure something else
    return found | {"counts": counts, "examination": None if looked is None else examined(looked)}


def options_of(recipe: Recipe) -> values.Options:
    """The recipe's keys as data_synth takes them."""
    asked = recipe.feedback
    return values.Options(
        metric=asked.metric,
        method=asked.method,
        interval=asked.interval,
        position=asked.position,
        delay=asked.delay,
        min_ess=asked.min_ess,
        session_gap=asked.session_gap,
    )


def about(found: values.Values, compared: pairs.Compared) -> dict[str, Figure]:
    """What can be said of values without knowing the truth."""
    known = ~np.isnan(found.value)
    ess = float(np.median(found.ess)) if len(found.ess) else None
    return {
        "ess_median": {"value": ess, "low": None, "high": None, "n": len(found.ess)},
        "items_refused": share(int((~known).sum()), len(known)),
        "separated": share(len(compared.pairs), compared.comparisons),
    }


def against(
    truth: Simulation, log: schema.Log, found: values.Values, compared: pairs.Compared, metric: str
) -> dict[str, Figure]:
    """Values against what was planted: inversions and separated pairs in the wrong order, intervals that cover.

    A planted inversion whose items were refused is wrong in neither order; it counts as undecided.
    """
    planted = planted_values(truth, metric)
    if planted is None:
        return {}
    prompt, number = named(log, found)
    true = planted[prompt, number]
    entry = {pair: k for k, pair in enumerate(zip(prompt.tolist(), number.tolist(), strict=True))}
    inversions = [
        (entry[p, better], entry[p, worse])
        for p, better, worse in truth.inversions()
        if (p, better) in entry and (p, worse) in entry and planted[p, better] > planted[p, worse]
    ]
    known = [pair for pair in inversions if not np.isnan(found.value[list(pair)]).any()]
    sure = {(one.chosen, one.rejected) for one in compared.pairs}
    covered = (found.low <= true) & (true <= found.high)
    return {
        "inversions_wrong": share(sum(bool(found.value[a] <= found.value[b]) for a, b in known), len(inversions)),
        "inversions_separated_right": share(sum(pair in sure for pair in inversions), len(inversions)),
        "inversions_separated_wrong": share(sum((b, a) in sure for a, b in inversions), len(inversions)),
        "separated_wrong": share(sum(bool(true[a] < true[b]) for a, b in sure), len(sure)),
        "coverage": share(int(covered.sum()), int((~np.isnan(found.value)).sum())),
    }


def planted_values(truth: Simulation, metric: str) -> np.ndarray | None:
    """Float[prompts, items] of a metric; None for continuation, whose truth depends on the other items of a page."""
    planted = {
        "click": truth.value,
        "conversion": truth.value * truth.conversion_rate,
        "conversion_per_click": truth.conversion_rate,
    }
    return planted.get(metric)


def named(log: schema.Log, found: values.Values) -> tuple[np.ndarray, np.ndarray]:
    """(prompt, item) numbers of a simulated log's entries, read from the names, whatever their order in the log."""
    numbers = [log.items[item].removeprefix("item ").split("-") for item in found.item]
    return np.array([int(p) for p, _ in numbers]), np.array([int(i) for _, i in numbers])


def share(count: int, total: int) -> Figure:
    """A share with Wilson's 95 % interval; None of nothing."""
    if not total:
        return {"value": None, "low": None, "high": None, "n": 0}
    value = count / total
    low, high = between(value, value * (1 - value) / total, total, kind="wilson")
    return {"value": value, "low": float(low), "high": float(high), "n": total}


def examined(looked: Any) -> list[dict[str, Any]]:
    """The examination of each place, with its 95 % interval."""
    rows = []
    for position, one, variance in zip(looked.positions, looked.values, np.diag(looked.covariance), strict=True):
        if np.isnan(one):
            rows.append({"position": int(position), "value": None, "low": None, "high": None})
            continue
        half = np.exp(1.96 * np.sqrt(variance))
        rows.append(
            {"position": int(position), "value": float(one), "low": float(one / half), "high": float(one * half)}
        )
    return rows


def notes(log: schema.Log, recipe: Recipe) -> list[str]:
    """What a person should know before believing the numbers."""
    lines = list(log.notes)
    if log.propensity is None:
        lines.append("no propensity: who was shown what is taken as chance; only the place is corrected")
    if (log.position == log.position[0]).all():
        lines.append("no position: all places are taken as looked at alike")
    if len(np.unique(log.session)) == len(log):
        lines.append("no session: showings are taken as independent, so intervals may be too short")
    if not recipe.feedback.guards and recipe.data.log is not None:
        lines.append("no guards: what engages but is wrong is not noticed; name a column with feedback.guards")
    return lines


def write_table(table: Any, path: Path) -> None:
    """A parquet file that appears whole."""
    with whole(path) as file:
        pq.write_table(table, file, compression="zstd")


def summary(results: dict[str, Any], out: Path) -> str:
    """What a person wants to know at the end."""
    counts, systems = results["counts"], results["systems"]
    guarded = sum(counts["pairs_refused"].values())
    lines = [
        f"{out}: {counts['pairs']:,} pairs of {counts['comparisons']:,} comparisons; {guarded:,} more separate but "
        f"were refused. {counts['items'] - counts['items_refused']:,} of {counts['items']:,} items have a reward.",
    ]
    if counts["quarantined"]:
        lines.append(f"{counts['quarantined']:,} rows of the log could not be used (rejected_rows.jsonl says why)")
    against_raw = systems["ours"]["pairs_against_raw"]["value"]
    if against_raw is not None:
        lines.append(f"raw rates order {against_raw:.1%} of the separated pairs the other way round")
    if "inversions_wrong" in systems["ours"]:
        wrong = {name: systems[name]["inversions_wrong"] for name in ("naive", "ours")}
        if wrong["ours"]["value"] is not None:
            lines.append(
                f"of {wrong['ours']['n']} planted inversions raw rates get {wrong['naive']['value']:.1%} wrong, "
                f"corrected values {wrong['ours']['value']:.1%}"
            )
    lines += [
        f"  judge by eye:  rlkit review {out / 'pairs'}",
        f"  rewards:       {out / 'rewards.parquet'}",
    ]
    return "\n".join(lines)
