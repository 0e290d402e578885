"""Which samples of a round are kept, and why the others are not.

A sample is accepted that reaches the bar, is no copy of an original, and is not refused beside better accepted ones.
`by_cluster` keeps the best accepted ones of every cluster, up to a quota each: the best of all together would be of few
kinds, and a loop that learns from them forgets the rest. `naive` takes these, whatever they are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class Decision:
    """What became of one sample."""

    cluster: int
    original: int
    """The nearest one."""
    distance: float
    """To it."""
    copy: bool
    accepted: bool = False
    kept: bool = False
    reason: str = ""


def accept(
    totals: np.ndarray, decisions: Sequence[Decision], bar: float, refused: Callable[[int, Sequence[int]], str | None]
) -> None:
    """Mark what is accepted, the best first, and say why the others are not. `totals` [samples] are NaN where a reward
    gave no score; `refused(at, accepted)` says what speaks against a sample beside those accepted so far."""
    accepted: list[int] = []
    for at in best_first(totals):
        one = decisions[at]
        if not totals[at] >= bar:  # NaN too
            one.reason = "no score" if math.isnan(totals[at]) else "below the bar"
        elif one.copy:
            one.reason = "a copy of an original"
        elif (reason := refused(at, accepted)) is not None:
            one.reason = reason
        else:
            one.accepted, one.reason = True, "accepted"
            accepted.append(at)


def by_cluster(totals: np.ndarray, decisions: Sequence[Decision], keep: int, shares: Mapping[int, float]) -> None:
    """Mark as kept the best `keep` accepted samples, of no cluster more than its share, which is rounded up."""
    quota = {one.cluster: math.ceil(keep * shares.get(one.cluster, 0.0) - 1e-9) for one in decisions}
    taken = dict.fromkeys(quota, 0)
    for at in best_first(totals):
        one = decisions[at]
        if not one.accepted:
            continue
        if taken[one.cluster] == quota[one.cluster]:
            one.reason = f"over the quota of {quota[one.cluster]} of its cluster"
        elif sum(taken.values()) == keep:
            one.reason = f"not among the best {keep}"
        else:
            one.kept, one.reason = True, "kept"
            taken[one.cluster] += 1


def naive(totals: np.ndarray, decisions: Sequence[Decision], keep: int) -> None:
    """Mark the best `keep` of all as kept, copies and duplicates too."""
    order = [at for at in best_first(totals) if not math.isnan(totals[at])]
    for place, at in enumerate(order):
        decisions[at].kept = place < keep
        decisions[at].reason = "kept" if place < keep else f"not among the best {keep}"


def best_first(totals: np.ndarray) -> list[int]:
    """Numbers of samples, the highest first, those without a score last; of equal ones the earlier first."""
    return np.argsort(-np.nan_to_num(totals, nan=-np.inf), kind="stable").tolist()
