"""What a policy would earn, from the log of another one: IPS, SNIPS, clipped IPS, doubly robust, with intervals.

    evaluate(reward, weight, method="snips")     # Estimate(value=.., low=.., high=.., ess=.., refused=None, ...)

A row is one decision of the logging policy. `weight`: probability of the logged choice under the policy asked about,
over its propensity; 0 where that policy would choose something else. `reward`: what came of it.

    ips      mean(w r)                         Horvitz and Thompson 1952
    snips    sum(w r) / sum(w)                 Swaminathan and Joachims 2015, The Self-Normalized Estimator
    clipped  mean(min(w, M) r)                 Ionides 2008, Truncated Importance Sampling: M = mean(w) sqrt(n); too low
    dr       mean(v + w (r - q))               Dudik et al. 2011, Doubly Robust Policy Evaluation and Learning:
                                               q predicts the reward of the logged choice, v the policy's

Intervals (95 % unless said otherwise):
    normal     value +- z se; se from influence values summed by group (a session), so that rows of one are not taken
               for independent
    wilson     for rewards in [0, 1]: Wilson's with the number of independent yes/no answers that have this value and se
               (Kott and Carr 1997, Developing an Estimation Strategy for a Pesticide Data Program), at most the
               effective sample size. Never below 0, and of the right width for few clicks or none
    bootstrap  percentiles of groups drawn anew (Efron and Tibshirani 1993)
    bernstein  empirical Bernstein (Maurer and Pontil 2009, theorem 4) for ips and clipped: holds for every sample size,
               and is several times wider than needed

An estimate whose effective sample size (Kish 1965), (sum w)^2 / sum w^2, lies below a floor is refused: then a handful
of rows decides, the standard error is as much a matter of luck as the value, and no interval can be trusted.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from data_synth.errors import DataError

Method = Literal["ips", "snips", "clipped", "dr"]
Kind = Literal["wilson", "normal", "bootstrap", "bernstein"]
MIN_ESS = 100.0
RESAMPLES = 1_000


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. Where `refused` gives a reason, value and interval are NaN; the sizes tell why."""

    value: float
    low: float
    high: float
    se: float
    ess: float
    """Effective sample size: as many equally weighted rows would know as much."""
    n: int
    """Rows with a weight above 0."""
    largest_weight: float
    clipped: float
    """Share of the weight that clipping took away: the largest share of the value that can be missing."""
    refused: str | None = None


def evaluate(
    reward: ArrayLike,
    weight: ArrayLike,
    *,
    method: Method = "snips",
    interval: Kind = "normal",
    groups: ArrayLike | None = None,
    predicted: ArrayLike | None = None,
    predicted_policy: ArrayLike | None = None,
    clip: float | None = None,
    largest: ArrayLike = 1.0,
    min_ess: float = MIN_ESS,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """The policy's mean reward. reward, weight, groups: [rows]. `predicted` (q) and `predicted_policy` (v): [rows], for
    dr, made without these rows (cross-fitting). `largest`: the largest reward a row can give, for ess, wilson and
    bernstein: 1 for clicks, 1 / examination for clicks divided by it.

    Raises DataError for negative or non-finite weights, rewards that are no numbers, a method without what it needs.
    """
    reward, weight = np.asarray(reward, float), np.asarray(weight, float)
    _expect(reward, weight, method, predicted, interval)
    rows = len(reward)
    largest = np.broadcast_to(np.asarray(largest, float), rows)
    groups = np.arange(rows) if groups is None else np.asarray(groups)
    q, v = (np.zeros(rows) if x is None else np.asarray(x, float) for x in (predicted, predicted_policy))
    used, clipped = clip_weights(weight, clip) if method == "clipped" else (weight, 0.0)
    ess, counts = effective_sample_size(weight, largest), int((weight > 0).sum())
    top = float(weight.max(initial=0.0))
    reason = refusal(ess, min_ess, top)
    if reason is not None:
        return Estimate(np.nan, np.nan, np.nan, np.nan, ess, counts, top, clipped, reason)
    value, influence = terms(reward, used, method, q, v)
    variance = float(covariance(influence[:, None], groups)[0, 0])
    if interval == "bootstrap":
        low, high = _bootstrap(reward, used, method, q, v, groups, level, seed)
    elif interval == "bernstein":
        low, high = _bernstein(used * reward, float((used * largest).max()), level)
    else:
        low, high = (float(x) for x in between(value, variance, ess, kind=interval, level=level))
    return Estimate(value, low, high, float(np.sqrt(variance)), ess, counts, top, clipped)


def terms(reward, weight, method: Method, predicted=0.0, predicted_policy=0.0) -> tuple[float, np.ndarray]:
    """(value, influence [rows]): the value is that of all rows, and moves by influence / rows with each."""
    if method == "snips":
        total = weight.sum()
        value = float((weight * reward).sum() / total)
        return value, weight * (reward - value) * (len(weight) / total)
    each = predicted_policy + weight * (reward - predicted) if method == "dr" else weight * reward
    value = float(each.mean())
    return value, each - value


def covariance(influence: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Float[k, k] of the k values with influence [rows, k], where whole groups are independent draws."""
    summed = sum_by(groups, influence)
    count = len(summed)
    return summed.T @ summed / len(influence) ** 2 * (count / max(count - 1, 1))


def sum_by(groups: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Float[groups, k]: the columns [rows, k] summed over the rows of each group."""
    names, cluster = np.unique(groups, return_inverse=True)
    return np.stack([np.bincount(cluster, column, len(names)) for column in columns.T], axis=1)


def effective_sample_size(weight: np.ndarray, largest: ArrayLike = 1.0) -> float:
    """(sum w)^2 / sum w^2 (Kish 1965). With `largest` above 1, of full views: a row seen with probability 1 / largest
    counts for that much."""
    squares = float((weight**2 * largest).sum())
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0


def refusal(ess: float, min_ess: float, largest_weight: float) -> str | None:
    """Why a value cannot be estimated; None where it can."""
    if ess >= min_ess and ess > 0:
        return None
    why = f"largest weight {largest_weight:,.0f}" if largest_weight > 1_000 else "too few rows"
    return f"effective sample size {ess:.3g}, at least {min_ess:g} needed ({why})"


def clip_weights(weight: np.ndarray, clip: float | None = None) -> tuple[np.ndarray, float]:
    """(weights of at most `clip`, share of the weight that was cut off); by default mean(w) sqrt(n)."""
    clip = float(weight.mean() * np.sqrt(len(weight))) if clip is None else clip
    cut = np.minimum(weight, clip)
    return cut, float(1 - cut.sum() / weight.sum()) if weight.sum() > 0 else 0.0


def between(value, variance, ess, *, kind: Kind, level: float = 0.95, z=None) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), `normal` or `wilson`, of arrays of one shape; z instead of `level` where each has its own."""
    value, variance, ess = (np.asarray(x, float) for x in (value, variance, ess))
    z = stats.norm.ppf((1 + level) / 2) if z is None else np.asarray(z)
    if kind == "normal":
        half = z * np.sqrt(variance)
        return value - half, value + half
    share = np.clip(value, 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        n = np.where(variance > 0, np.minimum(share * (1 - share) / variance, ess), ess)
        n = np.where(n > 0, n, ess)
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def difference(one, other, correlation) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of value - other value from their intervals, each (value, low, high): MOVER, Zou and Donner 2008,
    Construction of Confidence Limits about Effect Measures. Of normal intervals it is the normal interval; of Wilson's,
    Newcombe's (1998, method 10)."""
    (v1, l1, u1), (v2, l2, u2) = one, other
    below, above = (v1 - l1, u2 - v2), (u1 - v1, v2 - l2)
    down, up = (np.sqrt(np.maximum(a**2 + b**2 - 2 * correlation * a * b, 0)) for a, b in (below, above))
    return v1 - v2 - down, v1 - v2 + up


def _bootstrap(reward, weight, method, q, v, groups, level: float, seed: int) -> tuple[float, float]:
    """Percentiles of the value over draws of whole groups; exact, since every method is a ratio of sums."""
    if method == "snips":
        above, below = weight * reward, weight
    else:
        above, below = (v + weight * (reward - q) if method == "dr" else weight * reward), np.ones(len(reward))
    sums = sum_by(groups, np.stack([above, below], axis=1))
    generator, found = np.random.default_rng(seed), np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = sums[generator.integers(len(sums), size=len(sums))].sum(0)
        found[number] = drawn[0] / drawn[1] if drawn[1] > 0 else np.nan
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _bernstein(each: np.ndarray, bound: float, level: float) -> tuple[float, float]:
    """Theorem 4 of Maurer and Pontil 2009 on both sides, for independent values in [0, bound]."""
    n, tail = len(each), np.log(4 / (1 - level))
    half = np.sqrt(2 * each.var(ddof=1) * tail / n) + 7 * bound * tail / (3 * (n - 1))
    return max(0.0, float(each.mean() - half)), float(each.mean() + half)


def _expect(reward: np.ndarray, weight: np.ndarray, method: str, predicted, interval: str) -> None:
    if reward.ndim != 1 or reward.shape != weight.shape:
        raise DataError(f"reward has shape {reward.shape} and weight {weight.shape}; expected [rows] for both.")
    if not len(reward):
        raise DataError("there are no rows; nothing can be estimated.")
    for name, values, good in (
        ("weight", weight, np.isfinite(weight) & (weight >= 0)),
        ("reward", reward, np.isfinite(reward)),
    ):
        if not good.all():
            place = int(np.argmin(good))
            raise DataError(
                f"{name}[{place}] is {values[place]}; expected a finite number; leave out rows without one."
            )
    if method == "dr" and predicted is None:
        raise DataError("the doubly robust estimate needs `predicted` and `predicted_policy`.")
    if interval == "bernstein" and method not in ("ips", "clipped"):
        raise DataError(f"bernstein intervals are for ips and clipped, whose terms are bounded; not for {method}.")
