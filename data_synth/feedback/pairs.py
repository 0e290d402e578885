"""Preference pairs where intervals separate, and rewards with weights, from the values of items.

Every two items of a prompt are compared: the difference of their values with its interval (estimate.difference). Many
comparisons find differences by luck, so the level is widened for all of them at once:
    fdr         Benjamini and Hochberg 1995 choose the pairs, at most `error_rate` of which are expected to be wrong,
                and their intervals are those of Benjamini and Yekutieli 2005 (False Discovery Rate-Adjusted Multiple
                Confidence Intervals): level 1 - R error_rate / m for R of m chosen. A pair is chosen exactly where
                that interval lies on one side of 0. Comparisons of one prompt share items; for such dependence the
                bound is not proven.
    familywise  Bonferroni: level 1 - error_rate / m; with probability 1 - error_rate not one pair is wrong. Holds for
                any dependence.
What a guard objects to is refused with its reason, and counted.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from scipy import stats

from data_synth import tiers
from data_synth.feedback.estimate import between, difference
from data_synth.feedback.guard import Quality, cap, refuse_pair
from data_synth.feedback.schema import Log
from data_synth.feedback.values import Options, Values
from data_synth.records import make_record

Multiplicity = Literal["fdr", "familywise"]
MOST_Z = 40.0


@dataclass(frozen=True)
class Separated:
    """Two entries of Values whose difference lies on one side of 0, and the evidence."""

    chosen: int
    rejected: int
    difference: float
    low: float
    high: float
    """At `level`, which is widened for the number of comparisons."""
    level: float
    p: float
    """Smallest level of error at which the interval of the difference touches 0."""


@dataclass(frozen=True)
class Compared:
    """All comparisons of a log: those that separate, and how many there were."""

    pairs: list[Separated]
    comparisons: int


def separate(found: Values, *, multiplicity: Multiplicity = "fdr", error_rate: float = 0.05) -> Compared:
    """The pairs of `found` whose intervals separate, the better entry as `chosen`. Refused entries take no part."""
    one, other, rho = _all_pairs(found)
    if not len(one):
        return Compared([], 0)
    z = _touching(found, one, other, rho)
    p = 2 * stats.norm.sf(z)
    level = 1 - _level(p, multiplicity, error_rate)
    low, high = _between(found, one, other, rho, np.full(len(one), stats.norm.ppf((1 + level) / 2)))
    gap = found.value[one] - found.value[other]
    kept = np.flatnonzero(p <= 1 - level)
    return Compared(
        [Separated(*(x[i].item() for x in (one, other, gap, low, high)), level, float(p[i])) for i in kept], len(one)
    )


def _all_pairs(found: Values) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(better entry, worse entry, correlation) of every two items of a prompt that have values."""
    better, worse, rho = [np.empty(0, int)], [np.empty(0, int)], [np.empty(0)]
    for number, (entries, _) in enumerate(found.covariance):
        a, b = np.triu_indices(len(entries), 1)
        known = ~np.isnan(found.value[entries])
        a, b = (x[known[a] & known[b]] for x in (a, b))
        swap = found.value[entries[a]] < found.value[entries[b]]
        a, b = np.where(swap, b, a), np.where(swap, a, b)
        better.append(entries[a])
        worse.append(entries[b])
        rho.append(found.correlation(number)[a, b])
    return np.concatenate(better), np.concatenate(worse), np.concatenate(rho)


def _between(found: Values, one, other, rho, z) -> tuple[np.ndarray, np.ndarray]:
    """Interval of value[one] - value[other], each at its z."""
    sides = []
    for entries in (one, other):
        ends = between(found.value[entries], found.variance[entries], found.ess[entries], kind=found.kind, z=z)
        sides.append((found.value[entries], *ends))
    return difference(*sides, rho)


def _touching(found: Values, one, other, rho) -> np.ndarray:
    """The z at which the interval of the difference touches 0, by bisection."""
    small, large = np.zeros(len(one)), np.full(len(one), MOST_Z)
    for _ in range(50):
        middle = (small + large) / 2
        clear = _between(found, one, other, rho, middle)[0] > 0
        small, large = np.where(clear, middle, small), np.where(clear, large, middle)
    return small


def _level(p: np.ndarray, multiplicity: Multiplicity, error_rate: float) -> float:
    """The level of error of each interval, so that the whole keeps to error_rate."""
    if multiplicity == "familywise":
        return error_rate / len(p)
    steps = error_rate * np.arange(1, len(p) + 1) / len(p)
    chosen = np.flatnonzero(np.sort(p) <= steps)
    return float(steps[chosen[-1]]) if len(chosen) else float(steps[0])


def records(
    log: Log, found: Values, compared: Compared, watched: Sequence[Quality], options: Options, refused: Counter
) -> Iterator[dict[str, Any]]:
    """A preference record (data_synth/records.py) for each separated pair that no guard refuses; `refused` counts the
    reasons of the others. `scores` hold the evidence, each [chosen, rejected] where there are two."""
    for pair in compared.pairs:
        chosen, rejected = log.completions[found.item[pair.chosen]], log.completions[found.item[pair.rejected]]
        why = refuse_pair(watched, pair.chosen, pair.rejected)
        if why is None and " ".join(chosen.split()) == " ".join(rejected.split()):
            why = "both items have the same text"
        if why is not None:
            refused[why] += 1
            continue
        both = [pair.chosen, pair.rejected]
        name = options.metric
        scores = {
            name: found.value[both].tolist(),
            f"{name}_low": found.low[both].tolist(),
            f"{name}_high": found.high[both].tolist(),
            f"{name}_raw": found.raw[both].tolist(),
            "ess": found.ess[both].round(1).tolist(),
            "views": found.views[both].tolist(),
            "difference": [pair.low, pair.difference, pair.high],
            "level": pair.level,
            "p": pair.p,
            "comparisons": compared.comparisons,
        }
        scores |= {q.name: [float(q.values.value[q.entry[e]]) for e in both] for q in watched}
        ids = {"chosen_item": log.items[found.item[pair.chosen]], "rejected_item": log.items[found.item[pair.rejected]]}
        yield make_record(
            log.prompts[found.prompt[pair.chosen]],
            chosen,
            [(f"less_{name}", rejected)],
            source_id=ids["chosen_item"],
            operator="feedback",
            edit=[{"operator": "feedback", **ids}],
            options={"metric": name, "method": options.method, "position": options.position, "delay": options.delay},
            scores=scores,
            tier=tiers.tier(tiers.Evidence("sampled", margin=pair.difference)),
        )


def reward_table(log: Log, found: Values, watched: Sequence[Quality]) -> pa.Table:
    """One row per prompt and item: `reward` (null where refused), `weight` in [0, 1], interval, sizes, reasons.

    weight = t / (t + variance), t being the variance of true values between the items of a prompt, pooled over the
    prompts (the observed one less what estimation adds, at least 0): the share of what is seen in a reward that is not
    noise.
    """
    reward, capped = cap(watched, found)
    known = ~np.isnan(found.value)
    weight = np.where(known, _between_items(found) / (_between_items(found) + np.where(known, found.variance, 1)), 0.0)
    return pa.table(
        {
            "prompt": [log.prompts[p] for p in found.prompt],
            "item": [log.items[i] for i in found.item],
            "completion": [log.completions[i] for i in found.item],
            "reward": pa.array(reward, from_pandas=True),
            "weight": weight,
            "uncapped": pa.array(found.value, from_pandas=True),
            "low": pa.array(found.low, from_pandas=True),
            "high": pa.array(found.high, from_pandas=True),
            "raw": found.raw,
            "views": found.views,
            "ess": found.ess,
            "refused": pa.array(found.refused, pa.string()),
            "capped": pa.array(capped, pa.string()),
        }
    )


def _between_items(found: Values) -> float:
    """Variance of true values between the items of a prompt, by moments."""
    above, below = 0.0, 0
    for entries, _ in found.covariance:
        known = entries[~np.isnan(found.value[entries])]
        if len(known) > 1:
            above += (len(known) - 1) * (found.value[known].var(ddof=1) - found.variance[known].mean())
            below += len(known) - 1
    return max(above / below, 1e-12) if below else 1e-12
