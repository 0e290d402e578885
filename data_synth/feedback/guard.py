"""Engaging but wrong: an item that gains clicks or continuation and loses on a quality column is refused or capped.

For each guarded column (reports, skips, a consistency score) the items are valued as any metric is, over clicks, with
the same weights; `margin` is in the column's unit.

    pair    refused unless the chosen item is *shown* not to be worse than the rejected one by the margin: the lower
            end of the difference's 95 % interval lies above -margin (a non-inferiority test). Too few clicks to show
            it is a refusal too, with its own reason.
    reward  an item *shown* to be worse than the mean of its prompt's other items by more than the margin (the upper end
            lies below -margin) is capped at the mean reward of the others, so that engagement cannot lift it above
            them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from data_synth.feedback.estimate import difference
from data_synth.feedback.schema import Log
from data_synth.feedback.values import Options, Values, values

Z = float(stats.norm.ppf(0.975))
MIN_ESS = 30.0
"""Of clicks; lower than for a reward, since few clicks make the interval wide and the test refuse."""


@dataclass(frozen=True)
class Guard:
    """What is watched: which end of the column is good, and by how much an item may be worse."""

    better: Literal["higher", "lower"]
    margin: float = 0.05


@dataclass(frozen=True)
class Quality:
    """A guarded column, valued: `entry[i]` is where entry i of the engagement values is found in `values`, -1
    nowhere.
    """

    name: str
    guard: Guard
    values: Values
    entry: np.ndarray
    matrix: np.ndarray
    """Int[entries]: number of the covariance matrix, and in `place` the row there."""
    place: np.ndarray

    def gap(self, one: int, other: int) -> tuple[float, float]:
        """95 % interval of how much better `one` is than `other`, entries of the engagement values; NaN: unknown."""
        a, b = self.entry[one], self.entry[other]
        if a < 0 or b < 0 or self.values.refused[a] or self.values.refused[b]:
            return np.nan, np.nan
        found = self.values
        rho = found.correlation(self.matrix[a])[self.place[a], self.place[b]]
        sides = [(found.value[i], found.low[i], found.high[i]) for i in (a, b)]
        low, high = (float(x) for x in difference(*sides, rho))
        return (low, high) if self.guard.better == "higher" else (-high, -low)


def qualities(log: Log, guards: Mapping[str, Guard], of: Values, options: Options) -> list[Quality]:
    """The guarded columns of the log, valued for the entries of `of`."""
    found = []
    for name, guard in guards.items():
        own = values(log, replace(options, metric=name, method="snips", min_ess=min(options.min_ess, MIN_ESS)))
        at = {pair: number for number, pair in enumerate(zip(own.prompt.tolist(), own.item.tolist(), strict=True))}
        entry = np.array([at.get(pair, -1) for pair in zip(of.prompt.tolist(), of.item.tolist(), strict=True)])
        matrix, place = np.empty(len(own.item), int), np.empty(len(own.item), int)
        for number, (entries, _) in enumerate(own.covariance):
            matrix[entries], place[entries] = number, np.arange(len(entries))
        found.append(Quality(name, guard, own, entry, matrix, place))
    return found


def refuse_pair(watched: Sequence[Quality], chosen: int, rejected: int) -> str | None:
    """Why this pair must not be made, by the first guard that objects; None where all are content."""
    for quality in watched:
        low, high = quality.gap(chosen, rejected)
        if np.isnan(low):
            return f"{quality.name}: too few clicks to compare"
        if high < -quality.guard.margin:
            return f"{quality.name}: the chosen item is worse"
        if low < -quality.guard.margin:
            return f"{quality.name}: not shown to be as good"
    return None


def cap(watched: Sequence[Quality], of: Values) -> tuple[np.ndarray, list[str | None]]:
    """(reward [m], reason [m] of those capped): the values, capped where a guard says so; NaN where it was refused."""
    reward, reasons = of.value.copy(), [None] * len(of.value)
    for quality in watched:
        for entries, _ in of.covariance:
            for entry in entries:
                if _worse_than_others(quality, entry, entries):
                    reasons[entry] = f"{quality.name}: worse than the prompt's other items"
    for entries, _ in of.covariance:
        sound = [of.value[e] for e in entries if reasons[e] is None and not of.refused[e]]
        limit = float(np.mean(sound)) if sound else 0.0
        for entry in entries:
            if reasons[entry] is not None and reward[entry] > limit:
                reward[entry] = limit
            else:
                reasons[entry] = None
    return reward, reasons


def _worse_than_others(quality: Quality, entry: int, entries: np.ndarray) -> bool:
    """Whether the item is shown to be worse than the mean of the others, by more than the margin."""
    own, found = quality.entry[entry], quality.values
    others = [quality.entry[e] for e in entries if e != entry and quality.entry[e] >= 0]
    others = np.array([e for e in others if not found.refused[e]], int)
    if own < 0 or found.refused[own] or not len(others):
        return False
    mean = found.value[others].mean()
    half = Z * np.sqrt(found.variance[others].sum()) / len(others)
    sides = (found.value[own], found.low[own], found.high[own]), (mean, mean - half, mean + half)
    low, high = difference(*sides, 0.0)
    return bool((high if quality.guard.better == "higher" else -low) < -quality.guard.margin)
