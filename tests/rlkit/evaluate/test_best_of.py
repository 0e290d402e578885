"""Best of n: the estimator against brute force over all subsets, the KL against what samples show."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import ndtr

from rlkit.evaluate import best_of


def brute_force(order, values, n):
    """The mean over all subsets; among equals, the mean of those on top."""
    found = []
    for subset in itertools.combinations(range(len(order)), n):
        top = max(order[at] for at in subset)
        found.append(np.mean([values[at] for at in subset if order[at] == top]))
    return np.mean(found)


@pytest.mark.parametrize("levels", [1000, 3])  # without ties, and with many
@pytest.mark.parametrize("n", range(1, 10))
def test_the_estimator_is_the_mean_over_all_subsets(levels, n):
    rng = np.random.default_rng(n)
    order, values = rng.integers(levels, size=9).astype(float), rng.normal(size=9)
    assert best_of.expected(order, values, n) == pytest.approx(brute_force(order, values, n), rel=1e-12)
    assert best_of.expected(order, order, n) == pytest.approx(brute_force(order, order, n), rel=1e-12)


def test_it_is_unbiased_where_taking_the_first_n_is_only_noisier():
    """E[max of n] of Gaussians from 16 samples each: n = 4 gives 1.0294 (tables of order statistics)."""
    draws = np.random.default_rng(0).normal(size=(4000, 16))
    ours = np.array([best_of.expected(row, row, 4) for row in draws])
    first = draws[:, :4].max(1)
    assert abs(ours.mean() - 1.0294) < 4 * ours.std() / math.sqrt(len(ours))
    assert ours.std() < 0.7 * first.std()


def test_what_is_not_known_takes_no_part():
    order, values = [1.0, math.nan, 3.0, 2.0], [10.0, 99.0, 30.0, math.nan]
    assert best_of.expected(order, values, 2) == 30.0
    assert best_of.expected(order, values, 1) == 20.0
    assert best_of.expected(order, values, 3) is None


def test_chances_add_up_to_one_and_the_worst_has_none():
    for n in (1, 2, 5, 64):
        chances = best_of.chances(64, n)
        assert chances.sum() == pytest.approx(1) and (n == 1 or chances[0] == 0)
    assert best_of.chances(2000, 1000)[-1] == pytest.approx(0.5)  # n / N; no overflow


def measured_kl(samples, density):
    """Nats from a histogram's shares over bins of equal probability under the base."""
    shares = np.histogram(density(samples), bins=60, range=(0, 1))[0] / len(samples)
    shares = shares[shares > 0]
    return float((shares * np.log(shares * 60)).sum())


@pytest.mark.parametrize(("n", "keep"), [(2, 1), (4, 1), (8, 1), (8, 3), (10, 4), (5, 5)])
def test_the_kl_of_the_best_of_gaussians_is_the_formulas(n, keep):
    rng = np.random.default_rng(7)
    draws = np.sort(rng.normal(size=(100_000, n)), 1)[:, n - keep :]
    kept = draws[np.arange(len(draws)), rng.integers(keep, size=len(draws))]
    formula = best_of.kl(n, keep)
    assert keep > 1 or formula == math.log(n) - (n - 1) / n
    assert measured_kl(kept, ndtr) == pytest.approx(formula, abs=0.012)


def test_with_ties_the_kl_lies_below_the_formula():
    """A reward of three values: the exact KL of the best of n over them, against the bound."""
    share = np.array([0.2, 0.5, 0.3])
    for n in (2, 4, 16, 64):
        best = np.diff(np.concatenate([[0], np.cumsum(share)]) ** n)
        exact = float((best * np.log(np.maximum(best, 1e-300) / share)).sum())
        assert exact < best_of.kl(n) - 0.03
    assert best_of.kl(3, 3) == pytest.approx(0, abs=1e-12) and best_of.kl(1) == 0
    with pytest.raises(ValueError, match="5 kept of 4"):
        best_of.kl(4, 5)


def test_a_judge_that_falls_after_a_while_is_told():
    ns = best_of.sizes(64)
    assert ns == [1, 2, 4, 8, 16, 32, 64] and best_of.sizes(10) == [1, 2, 4, 8, 10]
    distance = [math.sqrt(best_of.kl(n)) for n in ns]
    found = best_of.overoptimisation([(n, d * (0.5 - 0.2 * d)) for n, d in zip(ns, distance, strict=True)])
    assert found["alpha"] == pytest.approx(0.5) and found["beta"] == pytest.approx(0.2)
    assert found["best_n"] == min(ns, key=lambda n: abs(math.sqrt(best_of.kl(n)) - 1.25))
    rising = best_of.overoptimisation([(n, d) for n, d in zip(ns, distance, strict=True)])
    assert rising["best_n"] is None
    assert best_of.overoptimisation([(1, 0.0), (2, 0.1)])["alpha"] is None
