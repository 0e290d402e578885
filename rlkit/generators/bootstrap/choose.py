"""Which samples of a round are kept, and why the others are not.

A sample is accepted that reaches the bar, is no copy of an original and no near-duplicate of a better accepted one.
`by_cluster` keeps the best accepted ones of every cluster, up to a quota each: the best of all together would be of few
kinds, and a loop that learns from them forgets the rest. `naive` takes these, whatever they are.
"""

import math
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from rlkit.generators.bootstrap.space import Points, Space, distances


@dataclass
class Decision:
    """What became of one sample."""

    accepted: bool
    kept: bool
    reason: str
    cluster: int
    original: int
    """The nearest one."""
    distance: float
    """To it."""
    copy: bool


def accept(
    totals: np.ndarray, points: Points, space: Space, *, bar: float, near: float, clusters: int, seed: int
) -> list[Decision]:
    """A Decision for each sample, none of them kept yet. `totals` [samples] are NaN where a reward gave no score;
    `near` is the distance below which two pictures are one."""
    with threadpool_limits(1):  # several threads add in any order, and a resumed run might decide otherwise
        groups = KMeans(min(clusters, len(points)), random_state=seed % 2**32, n_init=4).fit_predict(points)
    originals, apart = space.nearest(points)
    found = [
        Decision(False, False, "", int(group), int(original), float(distance), bool(distance < near))
        for group, original, distance in zip(groups, originals, apart, strict=True)
    ]
    accepted: list[int] = []
    for at in best_first(totals):
        one = found[at]
        twin = _nearer(points[at], points[accepted], near)
        if not totals[at] >= bar:  # NaN too
            one.reason = "no score" if math.isnan(totals[at]) else "below the bar"
        elif one.copy:
            one.reason = "a copy of an original"
        elif twin is not None:
            one.reason = f"a near-duplicate of sample {accepted[twin]}"
        else:
            one.accepted, one.reason = True, "accepted"
            accepted.append(at)
    return found


def by_cluster(totals: np.ndarray, decisions: list[Decision], keep: int) -> None:
    """Mark as kept the best accepted samples, of no cluster more than its share of `keep`."""
    clusters = {one.cluster for one in decisions}
    quota = math.ceil(keep / len(clusters))
    taken = dict.fromkeys(clusters, 0)
    for at in best_first(totals):
        one = decisions[at]
        if not one.accepted:
            continue
        if taken[one.cluster] == quota:
            one.reason = f"over the quota of {quota} of its cluster"
        elif sum(taken.values()) == keep:
            one.reason = f"not among the best {keep}"
        else:
            one.kept, one.reason = True, "kept"
            taken[one.cluster] += 1


def naive(totals: np.ndarray, decisions: list[Decision], keep: int) -> None:
    """Mark the best `keep` of all as kept, copies and duplicates too."""
    order = [at for at in best_first(totals) if not math.isnan(totals[at])]
    for place, at in enumerate(order):
        decisions[at].kept = place < keep
        decisions[at].reason = "kept" if place < keep else f"not among the best {keep}"


def best_first(totals: np.ndarray) -> list[int]:
    """Numbers of samples, the highest first, those without a score last; of equal ones the earlier first."""
    return np.argsort(-np.nan_to_num(totals, nan=-np.inf), kind="stable").tolist()


def _nearer(point: np.ndarray, others: Points, near: float) -> int | None:
    """The number of the nearest of `others` that lies nearer than `near`."""
    if not len(others):
        return None
    apart = distances(point[None], others)[0]
    return int(apart.argmin()) if apart.min() < near else None
