"""Conversions that come late: how many of them can have been seen by now, and rewards that make up for the others.

`exponential`: Chapelle 2014, Modeling Delayed Feedback in Display Advertising (KDD), fitted by EM, without
features: a click converts with a probability of its group, after an exponential delay of one rate for all.
    E  w = p S(e) / (1 - p + p S(e)) where nothing has come by age e, S(e) = exp(-rate e); w = 1 where it has
    M  p = mean of w in each group;  rate = conversions / (sum of delays + sum of w e over the others)
`free`: no shape assumed. Delays seen by now are cut off at the age of their click (right-truncated), so the share that
comes within t of what comes within `window` is the product, over delays u > t, of 1 - (delays equal to u) / (delays of
at most u, of clicks of age at least u): Lagakos, Barraj and De Gruttola 1988, Nonparametric Analysis of Truncated
Survival Data (Biometrika), the product-limit estimator in reversed time. It counts conversions within `window`
seconds, by default the age that a fifth of the conversions' clicks have passed; what comes later than that counts as
none. Both assume that a conversion's delay depends neither on the item nor on when the click was.

The reward of a click of age e is conversion / share(e): inverse weighting by the chance of having been seen (Horvitz
and Thompson 1952). Its mean is the conversion rate, so it goes into IPS, SNIPS and DR as it is. Clicks so young that
less than MIN_SHARE of conversions can have come are left out, never counted as "no".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from data_synth.errors import DataError

ROUNDS, TOLERANCE = 10_000, 1e-9
MIN_SHARE = 0.1
MIN_CONVERSIONS = 30


@dataclass(frozen=True)
class Delay:
    """`share(age in seconds)`: which part of all conversions has come by then."""

    share: Callable[[np.ndarray], np.ndarray]
    mean: float
    """Mean delay in seconds; of `free`, of the conversions within its window."""
    window: float = np.inf
    """Conversions later than this, in seconds, count as none."""
    rates: np.ndarray | None = None
    """Of `exponential`: conversion probability of each group."""


def exponential(converted: np.ndarray, delay: np.ndarray, age: np.ndarray, group: np.ndarray | None = None) -> Delay:
    """Chapelle's model, of clicks [rows]: converted 0 or 1, delay (NaN: none) and age in seconds, number of the group.

    Raises DataError for fewer than MIN_CONVERSIONS conversions.
    """
    group = np.zeros(len(converted), np.int64) if group is None else group
    seen = converted == 1
    _expect_enough(seen)
    clicks = np.maximum(np.bincount(group), 1)
    rates, rate = np.bincount(group, seen) / clicks, 1 / max(float(delay[seen].mean()), 1e-9)
    waited, unseen = delay[seen].sum(), ~seen
    for _ in range(ROUNDS):
        later = rates[group[unseen]] * np.exp(-rate * age[unseen])
        likely = later / (1 - rates[group[unseen]] + later)
        new_rates = (np.bincount(group, seen) + np.bincount(group[unseen], likely, len(rates))) / clicks
        new_rate = seen.sum() / (waited + (likely * age[unseen]).sum())
        still = abs(np.log(new_rate / rate)) < TOLERANCE and np.abs(new_rates - rates).max() < TOLERANCE
        rates, rate = new_rates, float(new_rate)
        if still:
            return Delay(partial(_exponential_share, 1 / rate), 1 / rate, rates=rates)
    raise DataError(f"the delay model did not settle in {ROUNDS:,} rounds; the log is too short for its delays.")


def _exponential_share(mean: float, age: np.ndarray) -> np.ndarray:
    return -np.expm1(-age / mean)


def free(converted: np.ndarray, delay: np.ndarray, age: np.ndarray, window: float | None = None) -> Delay:
    """The shape as it is, of conversions within `window` seconds; arguments as above.

    Raises DataError for fewer than MIN_CONVERSIONS conversions, and a window about whose end nothing is known.
    """
    seen = converted == 1
    _expect_enough(seen)
    window = float(np.quantile(age[seen], 0.8)) if window is None else window
    seen &= np.where(seen, delay, np.inf) <= window
    own_age, own_delay = age[seen], delay[seen]
    times, equal = np.unique(own_delay, return_counts=True)
    # at risk at u: conversions with a delay of at most u, of clicks at least u old (younger ones cannot show one of u)
    at_risk = np.searchsorted(np.sort(own_delay), times, "right") - np.searchsorted(np.sort(own_age), times, "left")
    if not len(times) or (equal[1:] == at_risk[1:]).any():
        raise DataError(
            f"no click old enough tells how many conversions come within {window:g} s; give a smaller window."
        )
    share_before = np.cumprod((1 - equal / at_risk)[::-1])[::-1]  # before each time
    by_then = np.append(share_before[1:], 1.0)

    def share(age: np.ndarray) -> np.ndarray:
        place = np.searchsorted(times, age, "right") - 1
        return np.where(age >= window, 1.0, np.where(place < 0, 0.0, by_then[np.maximum(place, 0)]))

    return Delay(share, float((np.diff(by_then, prepend=0.0) * times).sum()), window)


def rewards(converted: np.ndarray, delay: np.ndarray, age: np.ndarray, model: Delay) -> tuple[np.ndarray, np.ndarray]:
    """(reward [rows], largest [rows]): conversion / share seen by now, 1 / that share; NaN where too young to say."""
    share = model.share(age)
    old = share >= MIN_SHARE
    largest = np.where(old, 1 / np.where(old, share, 1.0), np.nan)
    counted = (converted == 1) & (np.where(converted == 1, delay, np.inf) <= model.window)
    return np.where(old, counted * largest, np.nan), largest


def _expect_enough(seen: np.ndarray) -> None:
    if seen.sum() < MIN_CONVERSIONS:
        raise DataError(
            f"{int(seen.sum())} conversions say too little about their delay; at least {MIN_CONVERSIONS} are needed."
        )
