"""What click logs come to, against planted truth and on real logs: python tests/bench/feedback.py [--repetitions 1000]

inversions  of pairs whose worse item the logging policy favours, how many come out in the wrong order: by raw rates,
            with the place alone corrected, with the propensities alone, with both; how often a separated pair is wrong
coverage    how often 95 % intervals hold the truth, over fresh logs, examination (and delays) estimated from each log
open bandit Thompson sampling -> uniform policy, on the logs of the package obp (looked up, not imported)
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv

from data_synth.feedback import pairs
from data_synth.feedback.estimate import difference, evaluate
from data_synth.feedback.simulate import Simulation, World, simulate
from data_synth.feedback.values import Options, Values, measure, value_items, values

SMALL = World(prompts=1, sessions=3_000, rounds=2, stay=1.0, bait=0.0, conversion=(0.3, 0.6))
HEAVY = replace(SMALL, prompts=2, items=4)
"""Every item is on every page, so that the policy's favourites hardly ever leave the top: heavy weights, few effective
rows."""
NAIVE = Options(position="off", delay="off", min_ess=0)


def main() -> None:
    """Measure and print one JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=1_000, help="logs for coverage")
    parser.add_argument("--logs", type=int, default=20, help="logs for inversions")
    options = parser.parse_args()
    asked = {f"click, {method}": Options(method=method) for method in ("snips", "ips", "clipped", "dr")}
    asked["click, snips, normal"] = Options(interval="normal")
    heavy = {f"{name}, heavy weights": asked[name] for name in ("click, snips", "click, dr", "click, snips, normal")}
    asked["conversion, snips"] = Options(metric="conversion")
    asked["conversion per click, snips"] = Options(metric="conversion_per_click")
    cases = [
        *inversions(options.logs),
        *coverage(SMALL, asked, options.repetitions),
        *coverage(HEAVY, heavy, options.repetitions),
        *open_bandit(),
    ]
    for case in cases:
        print("  ".join(f"{name} {value}" for name, value in case.items()))
    print(json.dumps({"bench": "feedback", "cases": cases}))


def inversions(logs: int) -> Iterator[dict[str, Any]]:
    """One case per way of valuing: shares over all planted inversions, and over all separated pairs."""
    ways = {"raw": NAIVE, "place": Options(), "propensity": Options(position="off"), "both": Options()}
    tally = {way: np.zeros(6) for way in ways}
    for seed in range(logs):
        made = simulate(World(), seed)
        log = made.log()
        for way, options in ways.items():
            start = time.perf_counter()
            found = values(log if way in ("propensity", "both") else replace(log, propensity=None), options)
            compared = pairs.separate(found)
            seconds = time.perf_counter() - start
            tally[way] += [*against(made, found, compared), seconds]
    for way, (count, wrong, right_sure, made_pairs, wrong_pairs, seconds) in tally.items():
        yield {
            "case": f"inversions, {way}",
            "planted": int(count),
            "wrong": round(wrong / count, 4),
            "separated_right": round(right_sure / count, 4),
            "pairs": int(made_pairs),
            "pairs_wrong": round(wrong_pairs / made_pairs, 4),
            "ours_s": round(seconds / logs, 3),
        }


def against(made: Simulation, found: Values, compared: pairs.Compared) -> tuple[int, int, int, int, int]:
    """(planted inversions, in the wrong order, separated the right way, pairs, wrong pairs)."""
    number = found.item % made.world.items
    truth = made.value[found.prompt, number]
    entry = {pair: k for k, pair in enumerate(zip(found.prompt.tolist(), number.tolist(), strict=True))}
    planted = [(entry[p, a], entry[p, b]) for p, a, b in made.inversions()]
    sure = {(one.chosen, one.rejected) for one in compared.pairs}
    return (
        len(planted),
        sum(not found.value[a] > found.value[b] for a, b in planted),
        sum(pair in sure for pair in planted),
        len(sure),
        sum(bool(truth[a] < truth[b]) for a, b in sure),
    )


def coverage(world: World, asked: dict[str, Options], repetitions: int) -> Iterator[dict[str, Any]]:
    """One case per way of valuing; `refused` entries have no interval and do not count."""
    held: dict[str, list[np.ndarray]] = {}
    start = time.perf_counter()
    for seed in range(repetitions):
        made = simulate(world, 1_000_000 + seed)
        log, shared = made.log(), None
        truths = {"click": made.value, "conversion": made.value * made.conversion_rate}
        truths["conversion_per_click"] = made.conversion_rate
        for name, options in asked.items():
            measured = measure(log, options, shared)
            shared = shared or measured.examination
            found = value_items(measured, options)
            truth = truths[options.metric][found.prompt, found.item % world.items]
            told = np.where(np.isnan(found.value), np.nan, (found.low <= truth) & (truth <= found.high))
            held.setdefault(name, []).append(told)
            if name == "click, snips":
                held.setdefault("difference of two items, snips", []).append(differences(found, truth))
    for name, told in held.items():
        logs = np.array(told)
        share = float(np.nanmean(logs))
        error = float(np.nanstd(np.nanmean(logs, axis=1)) / np.sqrt(len(logs)))  # between logs: items of one share much
        yield {
            "case": f"coverage, {name}",
            "logs": len(logs),
            "intervals": int((~np.isnan(logs)).sum()),
            "refused": int(np.isnan(logs).sum()),
            "coverage": round(share, 4),
            "error": round(error, 4),
        }
    print(f"coverage took {time.perf_counter() - start:.0f} s")


def differences(found: Values, truth: np.ndarray) -> np.ndarray:
    """Whether the 95 % interval of each difference within a prompt holds the true one; NaN where refused."""
    told = []
    for number, (entries, _) in enumerate(found.covariance):
        a, b = np.triu_indices(len(entries), 1)
        rho = found.correlation(number)[a, b]
        one, other = ((found.value[e], found.low[e], found.high[e]) for e in (entries[a], entries[b]))
        low, high = difference(one, other, rho)
        true = truth[entries[a]] - truth[entries[b]]
        told.append(np.where(np.isnan(low), np.nan, (low <= true) & (true <= high)))
    return np.concatenate(told)


def open_bandit() -> Iterator[dict[str, Any]]:
    """The uniform policy's click rate in percent: from the other policy's log, and as it was in its own."""
    package = find_spec("obp")
    if package is None:
        print("obp is not installed (pip install --no-deps obp==0.4.1): no real logs")
        return
    folder = Path(package.submodule_search_locations[0]) / "dataset" / "obd"
    columns = pyarrow.csv.ConvertOptions(include_columns=["item_id", "click", "propensity_score"])
    for campaign in ("men", "women", "all"):
        logged, uniform = (
            pyarrow.csv.read_csv(folder / policy / campaign / f"{campaign}.csv", convert_options=columns)
            for policy in ("bts", "random")
        )
        click, items = logged["click"].to_numpy(), len(uniform["item_id"].unique())
        weight = 1 / items / logged["propensity_score"].to_numpy()
        ips = evaluate(click, weight, method="ips", interval="normal")
        snips = evaluate(click, weight, method="snips", interval="wilson")
        yield {
            "case": f"open bandit, {campaign}",
            "naive": percent(click.mean()),
            "ips": percent(ips.value),
            "snips": percent(snips.value),
            "low": percent(snips.low),
            "high": percent(snips.high),
            "truth": percent(uniform["click"].to_numpy().mean()),
            "ess": round(snips.ess, 1),
            "largest_weight": round(snips.largest_weight),
            "refused": snips.refused,
        }


def percent(value: float) -> float | None:
    """Rounded as published; None for a refused value."""
    return None if np.isnan(value) else round(100 * float(value), 2)


if __name__ == "__main__":
    main()
