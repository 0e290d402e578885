"""Which samples are kept: quotas, copies, what is refused, the bar, missing scores; and what naive keeps of them."""

import numpy as np

from rlkit.bootstrap import choose
from rlkit.bootstrap.choose import Decision


def decided(clusters, totals, *, copies=(), twins=None, bar=0.0):
    """`twins` maps a sample to the one it repeats, which speaks against it where that one was accepted."""
    decisions = [Decision(cluster, 0, 1.0, at in copies) for at, cluster in enumerate(clusters)]
    totals = np.array(totals, float)

    def refused(at, accepted):
        return "a twin" if (twins or {}).get(at) in accepted else None

    choose.accept(totals, decisions, bar, refused)
    return decisions, totals


def test_every_reason():
    decisions, _ = decided([0] * 6, [9, 3, 4, -1, np.nan, np.nan], copies=(0, 5), twins={1: 2})
    assert [one.reason for one in decisions] == [
        "a copy of an original",
        "a twin",
        "accepted",
        "below the bar",
        "no score",
        "no score",
    ]
    assert [one.accepted for one in decisions] == [False, False, True, False, False, False]


def test_a_twin_of_what_was_rejected_is_none():
    decisions, _ = decided([0, 0], [9, 8], copies=(0,), twins={1: 0})
    assert [one.accepted for one in decisions] == [False, True]


def test_each_cluster_keeps_its_share_where_the_best_of_all_are_of_one():
    clusters, totals = [0] * 6 + [1] * 3, [9, 8, 7, 6, 5, 4, 3, 2, 1]
    decisions, values = decided(clusters, totals)
    choose.by_cluster(values, decisions, 4, {0: 0.5, 1: 0.5})
    assert [at for at, one in enumerate(decisions) if one.kept] == [0, 1, 6, 7]
    assert decisions[2].reason == "over the quota of 2 of its cluster"
    greedy, values = decided(clusters, totals)
    choose.naive(values, greedy, 4)
    assert [at for at, one in enumerate(greedy) if one.kept] == [0, 1, 2, 3]


def test_shares_need_not_be_even_and_a_cluster_without_one_keeps_nothing():
    decisions, values = decided([0, 0, 0, 0, 1, 1, 2], [7, 6, 5, 4, 3, 2, 9])
    choose.by_cluster(values, decisions, 4, {0: 0.75, 1: 0.25})
    assert [at for at, one in enumerate(decisions) if one.kept] == [0, 1, 2, 4]
    assert decisions[6].reason == "over the quota of 0 of its cluster"


def test_no_more_than_asked_for_are_kept():
    decisions, values = decided([0, 1, 2], [3, 2, 1])
    choose.by_cluster(values, decisions, 2, dict.fromkeys(range(3), 1 / 3))
    assert [one.kept for one in decisions] == [True, True, False]
    assert decisions[2].reason == "not among the best 2"


def test_naive_keeps_copies_and_twins_but_nothing_without_a_score():
    decisions, values = decided([0] * 4, [9, 8, np.nan, np.nan], copies=(0, 1), bar=10)
    choose.naive(values, decisions, 3)
    assert [one.kept for one in decisions] == [True, True, False, False] and all(one.copy for one in decisions[:2])
    assert not any(one.accepted for one in decisions)
