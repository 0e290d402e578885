"""Does a judge agree with people? Accuracy with and without ties, rank correlation, calibration, position bias.

    accuracy_with_ties(human=[1, 0, -1], margins=[2.0, 0.1, -0.7])
    # Agreement(value=1.0, n=3, unscored=0, threshold=0.1)

A row is one pair of answers. `human`: 1 where people find the first answer better, -1 where worse, 0 a tie. `margins`:
the judge's score of the first answer minus that of the second, in its own units. `groups`: the prompt of each row; rows
of one prompt are not independent. A missing score (None or NaN: the judge failed, or could not be read) is never a 0:
such rows are left out and counted as `unscored`. Look at that number too, since failing on hard rows flatters a judge.

Where no row is left, the value is NaN. No value depends on the order of the rows. Every function raises ValueError for
other shapes than it says, unequal lengths, and another `human` than -1, 0 or 1. Intervals are of 95 %.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Agreement:
    """One number about a judge, the rows it rests on, and the rows left out. `float()` of it is the number."""

    value: float
    n: int
    unscored: int
    threshold: float | None = None
    """Of accuracy_with_ties: the largest |margin| that still counts as a tie."""

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Interval:
    """A number and its interval. `undefined` counts the resamples without a value, which the interval leaves out."""

    value: float
    low: float
    high: float
    undefined: int = 0


def accuracy_with_ties(human: ArrayLike, margins: ArrayLike) -> Agreement:
    """Best share of right verdicts over all thresholds t >= 0, where |margin| <= t means that the judge sees a tie.

    (C + T_hm) / (C + D + T_h + T_m + T_hm) at the best t: Deutsch et al. 2023, Ties Matter, arXiv 2305.14324, pairwise
    accuracy with tie calibration. t passes all rows of equal |margin| at once, since no threshold can part them; at 0,
    only margins of exactly 0 are ties. Of several best t the smallest is returned. The best t of a few rows flatters
    the judge, and margins that differ by rounding alone are not equal (round scores that are discrete).

    human: [rows] of -1, 0, 1. margins: [rows].
    """
    human, margins = _columns(human=human, margins=margins)
    scored = ~np.isnan(margins)
    human, margins, unscored = human[scored], margins[scored], int((~scored).sum())
    if not len(human):
        return Agreement(np.nan, 0, unscored, np.nan)
    sizes, group = np.unique(np.append(np.abs(margins), 0.0), return_inverse=True)  # 0.0: the option t = 0
    ties = np.bincount(group[:-1], human == 0, minlength=len(sizes))
    sides = np.bincount(group[:-1], (human != 0) & (np.sign(margins) == human), minlength=len(sizes))
    right = np.cumsum(ties) + sides.sum() - np.cumsum(sides)
    best = int(np.argmax(right))
    return Agreement(float(right[best]) / len(human), len(human), unscored, float(sizes[best]))


def accuracy_without_ties(human: ArrayLike, margins: ArrayLike) -> Agreement:
    """Share of right verdicts on the rows where people prefer one answer; a margin of 0 counts one half.

    (C + T_m / 2) / (C + D + T_m) in the letters of Deutsch et al. 2023. Guessing has 0.5.
    human: [rows] of -1, 0, 1. margins: [rows].
    """
    human, margins = _columns(human=human, margins=margins)
    right = _right(human, margins)[(human != 0) & ~np.isnan(margins)]
    return Agreement(_mean(right), len(right), int(np.isnan(margins).sum()))


def tau_b(ratings: ArrayLike, scores: ArrayLike) -> Agreement:
    """Kendall's tau-b in [-1, 1] (Kendall 1945) of people's ratings and scores of single items, in any units.

    Not for pairs: naming the answers of a pair the other way round would change it. NaN where a side is constant.
    ratings, scores: [items]. Raises ValueError where a rating is missing.
    """
    return _tau(ratings, scores, "b")


def tau_c(ratings: ArrayLike, scores: ArrayLike) -> Agreement:
    """Kendall's tau-c (Stuart 1953): as `tau_b`, for few grades on one side and a continuous score on the other."""
    return _tau(ratings, scores, "c")


def both_orders(first: ArrayLike, second: ArrayLike, groups: ArrayLike | None = None) -> dict[str, object]:
    """How far the slot of an answer decides: every pair asked as (A, B), `first`, and as (B, A), `second`.

    Shares of pairs, which sum to 1 (Zheng et al. 2023, arXiv 2306.05685): `same` verdict, `first_slot` or `second_slot`
    both times, `one_tie` in one order only. `bias`: Interval of the mean verdict over both orders, in [-1, 1], above 0
    for the first slot; quality cancels, since each answer sat once in each slot. Also `n` and `unscored`.

    first, second: [pairs], above 0 where the *first slot* is found better, below 0 the second, 0 a tie. groups:
    [pairs]; without it each pair is its own.
    """
    groups = np.arange(np.size(first)) if groups is None else groups
    first, second, groups = _columns(first=first, second=second, groups=groups)
    scored = ~np.isnan(first) & ~np.isnan(second)
    one, two = np.sign(first[scored]), np.sign(second[scored])
    return {
        "same": _mean(one == -two),
        "first_slot": _mean((one == 1) & (two == 1)),
        "second_slot": _mean((one == -1) & (two == -1)),
        "one_tie": _mean((one == 0) != (two == 0)),
        "bias": bootstrap_by_prompt(_mean, groups[scored], (one + two) / 2),
        "n": int(scored.sum()),
        "unscored": int((~scored).sum()),
    }


def expected_calibration_error(probability: ArrayLike, outcome: ArrayLike, bins: int = 10) -> dict[str, object]:
    """`error` in [0, 1]: |mean probability - observed frequency| of a bin, averaged over rows. Guo et al. 2017, arXiv
    1706.04599, equation 3, but with bins of equal mass (Nguyen and O'Connor 2015, arXiv 1508.05154).

    `bins`: the reliability plot, a list of {probability, frequency, count}; rows of equal probability share a bin, so
    that there may be fewer. Also `n` and `unscored`. Chance alone puts a calibrated judge above 0, the more the fewer
    rows a bin has: compare judges on the same rows.

    probability: [rows] in [0, 1], that the first answer is better. outcome: [rows] in [0, 1], whether it is, or the
    share of people who say so. Raises ValueError for values outside, a missing outcome and bins < 1.
    """
    probability, outcome = _columns(probability=probability, outcome=outcome)
    scored = ~np.isnan(probability)
    _expect("probability", probability, ~scored | (np.abs(probability - 0.5) <= 0.5), "a number in [0, 1]")
    _expect("outcome", outcome, np.abs(outcome - 0.5) <= 0.5, "a number in [0, 1]")
    if bins < 1:
        raise ValueError(f"bins is {bins}; expected at least 1.")
    probability, outcome, n = probability[scored], outcome[scored], int(scored.sum())
    twice_rank = (2 * stats.rankdata(probability)).astype(int)  # whole: equal values share their mean rank
    index, error, table = (twice_rank - 1) * bins // max(2 * n, 1), 0.0, []
    for rows in (index == i for i in np.unique(index)):
        mean, frequency, count = _mean(probability[rows]), _mean(outcome[rows]), int(rows.sum())
        error += abs(mean - frequency) * count / n
        table.append({"probability": mean, "frequency": frequency, "count": count})
    return {"error": error if n else np.nan, "bins": table, "n": n, "unscored": len(scored) - n}


def single_human_ceiling(votes: ArrayLike) -> Agreement:
    """How often one person votes as most of the others do: what a judge can hope for on these items.

    Each vote is compared with the most frequent vote of everybody else on its item. Where k labels lead together, a
    vote for one of them counts 1 / k (two: one half), as if chance broke the tie. A vote on an item that nobody else
    voted on is left out and counted as `unscored`; `n` counts the others.

    votes: [items, raters], labels as numbers, NaN where a person gave none.
    """
    votes = np.asarray(votes, dtype=float)
    if votes.ndim != 2:
        raise ValueError(f"votes has shape {votes.shape}; expected [items, raters].")
    voted = ~np.isnan(votes)
    cast = votes[:, :, None] == np.unique(votes[voted])  # [items, raters, labels], all False where a vote is missing
    others = cast.sum(axis=1, keepdims=True) - cast
    leads = others == others.max(axis=2, keepdims=True, initial=0)
    counted = voted & (others.sum(axis=2) > 0)
    credit = (cast & leads).sum(axis=2)[counted] / leads.sum(axis=2)[counted]
    return Agreement(_mean(credit), len(credit), int(voted.sum()) - len(credit))


def per_kind(
    kinds: ArrayLike, human: ArrayLike, margins: ArrayLike, groups: ArrayLike | None = None
) -> dict[str, dict]:
    """Kind of pair -> `accuracy` without ties (Interval), `n` rows that count, `ties` of people, `unscored`.

    Without ties there is no threshold by which kinds would depend on each other, and 0.5 is chance for all. The
    interval is drawn by prompt where `groups` are given, else Wilson's (1927), as if rows were independent.

    kinds: [rows], names. human: [rows] of -1, 0, 1. margins, groups: [rows].
    """
    independent, groups = groups is None, kinds if groups is None else groups
    kinds, human, margins, groups = _columns(kinds=kinds, human=human, margins=margins, groups=groups)
    missing, table = np.isnan(margins), {}
    for kind in np.unique(kinds):
        rows = kinds == kind
        counted = rows & (human != 0) & ~missing
        right = _right(human[counted], margins[counted])
        table[str(kind)] = {
            "accuracy": _wilson(right) if independent else bootstrap_by_prompt(_mean, groups[counted], right),
            "n": len(right),
            "ties": int((rows & (human == 0) & ~missing).sum()),
            "unscored": int((rows & missing).sum()),
        }
    return table


def control_gap(human: ArrayLike, margins: ArrayLike, control: ArrayLike, groups: ArrayLike) -> dict[str, object]:
    """What a judge gains over a run from which evidence was withheld: `real` and `control` accuracy without ties on the
    `n` rows that both scored, `difference` (Interval, paired by row, drawn by prompt), `unscored`.

    `control`: margins of the same judge on the same rows without the pictures (text only) or with the prompts of other
    rows (shuffled). A difference whose interval holds 0 shows no use of what was withheld.

    human: [rows] of -1, 0, 1. margins, control, groups: [rows].
    """
    human, margins, control, groups = _columns(human=human, margins=margins, control=control, groups=groups)
    scored = ~np.isnan(margins) & ~np.isnan(control)
    counted = scored & (human != 0)
    real, withheld = _right(human, margins)[counted], _right(human, control)[counted]
    return {
        "real": _mean(real),
        "control": _mean(withheld),
        "difference": bootstrap_by_prompt(_mean, groups[counted], real - withheld),
        "n": int(counted.sum()),
        "unscored": int((~scored).sum()),
    }


def bootstrap_by_prompt(
    statistic: Callable[..., SupportsFloat],
    groups: ArrayLike,
    *arrays: ArrayLike,
    resamples: int = 1_000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of statistic(*arrays), drawing whole prompts (Efron and Tibshirani 1993, chapter 13).

    Too narrow for few prompts (below about 20), of width 0 where all agree, NaN for fewer than two.
    groups: [rows]. arrays: [rows, ...] each. Raises ValueError for resamples < 1.
    """
    (groups,), arrays = _columns(groups=groups), [np.asarray(array) for array in arrays]
    if resamples < 1 or any(array.shape[:1] != groups.shape for array in arrays):
        found = f"{resamples} resamples and arrays of shape {[array.shape for array in arrays]}"
        raise ValueError(f"found {found}; expected at least 1, and {len(groups)} rows as in groups.")
    prompts, prompt = np.unique(groups, return_inverse=True)
    value = float(statistic(*arrays)) if len(groups) else np.nan
    if len(prompts) < 2:
        return Interval(value, np.nan, np.nan)
    rng, found = np.random.default_rng(seed), np.empty(resamples)
    for number in range(resamples):
        times_drawn = np.bincount(rng.integers(len(prompts), size=len(prompts)), minlength=len(prompts))
        rows = np.repeat(np.arange(len(groups)), times_drawn[prompt])
        found[number] = float(statistic(*(array[rows] for array in arrays)))
    defined = found[~np.isnan(found)]
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(defined) else (np.nan, np.nan)
    return Interval(value, float(low), float(high), resamples - len(defined))


def _wilson(right: np.ndarray) -> Interval:
    n, share, z = len(right), _mean(right), stats.norm.ppf((1 + LEVEL) / 2)
    if not n:
        return Interval(share, np.nan, np.nan)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return Interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def _right(human: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """1 where the judge takes people's side, one half where its margin is 0, 0 where it takes the other."""
    return (1 + human * np.sign(margins)) / 2


def _tau(ratings: ArrayLike, scores: ArrayLike, variant: str) -> Agreement:
    ratings, scores = _columns(ratings=ratings, scores=scores)
    _expect("ratings", ratings, ~np.isnan(ratings), "a number")
    scored = ~np.isnan(scores)
    n = int(scored.sum())
    tau = stats.kendalltau(ratings[scored], scores[scored], variant=variant).statistic if n > 1 else np.nan
    return Agreement(float(tau), n, len(scores) - n)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def _columns(**columns: ArrayLike) -> list[np.ndarray]:
    """The columns as arrays of one length, [rows]; all but `groups` and `kinds` are numbers, with NaN for None."""
    named = {k: np.asarray(v, dtype=None if k in ("groups", "kinds") else float) for k, v in columns.items()}
    if {array.ndim for array in named.values()} != {1} or len({len(array) for array in named.values()}) > 1:
        found = ", ".join(f"{name} {array.shape}" for name, array in named.items())
        raise ValueError(f"found the shapes {found}; expected [rows], the same for all.")
    if "human" in named:
        _expect("human", named["human"], np.isin(named["human"], (-1, 0, 1)), "-1 (worse), 0 (tie) or 1 (better)")
    return list(named.values())


def _expect(name: str, values: np.ndarray, good: np.ndarray, expected: str) -> None:
    if not good.all():
        place = int(np.argmin(good))
        raise ValueError(f"{name}[{place}] is {values[place]:g}; expected {expected}.")
