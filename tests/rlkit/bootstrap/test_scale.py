"""Rewards on the scale of the first round."""

import numpy as np
import pytest

from rlkit.bootstrap.scale import Scale


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
