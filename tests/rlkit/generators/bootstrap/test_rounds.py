"""Scale and bar of the first round, when the loop ends, and which round is the best."""

from types import SimpleNamespace

import numpy as np
import pytest

from rlkit.generators.bootstrap.rounds import Scale, best, ended


def rounds(*seen):
    """(held-out judge, diversity) of each round on the guard's prompts."""
    return [
        SimpleNamespace(number=at + 1, kept=[0], looked={"guard": {"held_out": held_out, "diversity": diversity}})
        for at, (held_out, diversity) in enumerate(seen)
    ]


def test_rewards_are_divided_by_their_spread_in_the_first_round_before_they_are_weighed():
    first = np.array([[0.0, 100.0], [1.0, 300.0], [2.0, 200.0]])
    scale = Scale.of(first, [1.0, 3.0], 0.5)
    normal = (first - first.mean(0)) / first.std(0)
    assert scale.totals(first, [1.0, 3.0]) == pytest.approx((normal @ [1.0, 3.0]) / 4)
    assert scale.bar == pytest.approx(np.median(normal @ [1.0, 3.0]) / 4)
    later = np.array([[1.0, 400.0]])  # judged by the first round's scale, not by its own
    assert scale.totals(later, [1.0, 3.0]) == pytest.approx(((later - first.mean(0)) / first.std(0) @ [1.0, 3.0]) / 4)


def test_a_missing_score_makes_no_total_and_an_even_reward_no_difference():
    scale = Scale.of(np.array([[1.0, 5.0], [np.nan, 5.0], [3.0, 5.0]]), [1.0, 1.0], 0.5)
    totals = scale.totals(np.array([[1.0, 5.0], [np.nan, 5.0], [3.0, 5.0]]), [1.0, 1.0])
    assert np.isnan(totals[1]) and totals[[0, 2]].tolist() == [-0.5, 0.5]


def test_the_best_round_is_the_judges_among_those_that_kept_the_diversity():
    assert best(rounds((0.1, 10), (0.4, 9), (0.3, 9)), 0.3) == 1
    assert best(rounds((0.1, 10), (0.4, 6), (0.3, 9)), 0.3) == 2
    assert best(rounds((0.3, 10), (0.3, 10)), 0.3) == 0  # the earlier of equal ones


def test_it_ends_when_the_judge_no_longer_rises_or_diversity_is_lost_or_nothing_is_kept():
    limits = {"patience": 1, "max_diversity_drop": 0.3}
    assert ended(rounds((0.1, 10), (0.2, 8)), **limits) is None
    assert "not risen for 1 round" in ended(rounds((0.1, 10), (0.1, 10)), **limits)
    assert ended(rounds((0.1, 10), (0.1, 10)), patience=2, max_diversity_drop=0.3) is None
    assert "diversity" in ended(rounds((0.1, 10), (0.9, 6.9)), **limits)
    found = rounds((0.1, 10), (0.2, 8))
    found[-1].kept = []
    assert "kept no sample" in ended(found, **limits)
