"""Which samples are kept: quotas, copies, near-duplicates, the bar, missing scores; and what naive keeps of them."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from rlkit.generators.bootstrap import choose
from rlkit.generators.bootstrap.space import distances


@dataclass
class Line:
    """A space of one dimension, with originals at two places."""

    originals: np.ndarray = field(default_factory=lambda: np.array([[0.0], [100.0]]))

    def nearest(self, points):
        apart = distances(points, self.originals)
        return apart.argmin(1), apart.min(1)


def decided(places, totals, *, bar=0.0, near=1.0, clusters=1):
    points, totals = np.array(places, float)[:, None], np.array(totals, float)
    return choose.accept(totals, points, Line(), bar=bar, near=near, clusters=clusters, seed=0), totals


def test_every_reason():
    decisions, _ = decided([0.5, 20, 20.5, 40, 60, 99.5], [9, 3, 4, -1, np.nan, np.nan])
    assert [one.reason for one in decisions] == [
        "a copy of an original",
        "a near-duplicate of sample 2",
        "accepted",
        "below the bar",
        "no score",
        "no score",
    ]
    assert [one.copy for one in decisions] == [True, False, False, False, False, True]
    assert [one.original for one in decisions] == [0, 0, 0, 0, 1, 1]
    assert decisions[1].distance == pytest.approx(20.0)


def test_a_duplicate_of_what_was_rejected_is_no_duplicate():
    """Sample 0 is a copy, sample 1 lies near it but is none itself."""
    decisions, _ = decided([0.9, 1.5], [9, 8])
    assert [one.accepted for one in decisions] == [False, True]


def test_each_cluster_keeps_its_share_where_the_best_of_all_are_of_one():
    """Six at about 20 have the best rewards, three at about 60 the others."""
    places = [20, 22, 24, 26, 28, 30, 60, 62, 64]
    totals = [9, 8, 7, 6, 5, 4, 3, 2, 1]
    decisions, values = decided(places, totals, clusters=2)
    choose.by_cluster(values, decisions, 4)
    assert [at for at, one in enumerate(decisions) if one.kept] == [0, 1, 6, 7]
    assert decisions[2].reason == "over the quota of 2 of its cluster"
    greedy, values = decided(places, totals, clusters=2)
    choose.naive(values, greedy, 4)
    assert [at for at, one in enumerate(greedy) if one.kept] == [0, 1, 2, 3]


def test_no_more_than_asked_for_are_kept():
    decisions, values = decided([20, 40, 60], [3, 2, 1], clusters=3)
    choose.by_cluster(values, decisions, 2)
    assert [one.kept for one in decisions] == [True, True, False]
    assert decisions[2].reason == "not among the best 2"


def test_naive_keeps_copies_and_duplicates_but_nothing_without_a_score():
    decisions, values = decided([0.1, 0.2, 50, 70], [9, 8, np.nan, np.nan])
    choose.naive(values, decisions, 3)
    assert [one.kept for one in decisions] == [True, True, False, False] and all(one.copy for one in decisions[:2])
    assert not any(one.accepted for one in decisions)
