"""IPS, SNIPS, clipped and doubly robust by their formulas; intervals against scipy, published examples and coverage;
the Open Bandit logs."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
from scipy import stats

from data_synth.errors import DataError
from data_synth.feedback.estimate import (
    between,
    clip_weights,
    covariance,
    difference,
    effective_sample_size,
    evaluate,
    terms,
)

REWARD = np.array([1.0, 0.0, 1.0, 0.0, 1.0])
WEIGHT = np.array([2.0, 1.0, 0.5, 4.0, 0.0])


def test_values_by_hand():
    assert evaluate(REWARD, WEIGHT, method="ips", min_ess=0).value == pytest.approx(2.5 / 5)
    assert evaluate(REWARD, WEIGHT, method="snips", min_ess=0).value == pytest.approx(2.5 / 7.5)
    clipped = evaluate(REWARD, WEIGHT, method="clipped", clip=1.0, min_ess=0)
    assert clipped.value == pytest.approx(1.5 / 5)
    assert clipped.clipped == pytest.approx(1 - 3.5 / 7.5)
    q, v = np.array([0.5, 0.2, 0.5, 0.1, 0.3]), np.array([0.4, 0.3, 0.4, 0.3, 0.2])
    by_hand = np.mean([0.4 + 2 * 0.5, 0.3 - 0.2, 0.4 + 0.5 * 0.5, 0.3 - 4 * 0.1, 0.2])
    assert evaluate(REWARD, WEIGHT, method="dr", predicted=q, predicted_policy=v, min_ess=0).value == pytest.approx(
        by_hand
    )


def test_effective_sample_size_is_that_of_kish():
    assert effective_sample_size(WEIGHT) == pytest.approx(7.5**2 / (4 + 1 + 0.25 + 16))
    assert effective_sample_size(np.ones(40)) == pytest.approx(40)
    # seen half of the time: forty showings tell as much as twenty views
    assert effective_sample_size(np.ones(40), 2.0) == pytest.approx(20)


def test_the_default_clip_is_that_of_ionides():
    cut, share = clip_weights(np.array([1.0, 1.0, 1.0, 97.0]))
    assert cut.max() == pytest.approx(25 * 2)  # mean(w) sqrt(n)
    assert share == pytest.approx(47 / 100)


@pytest.mark.parametrize("method", ["ips", "snips", "dr"])
def test_influence_is_the_derivative(method):
    """The value moves by influence / n when a row gets a little more weight in the sample."""
    rng = np.random.default_rng(0)
    reward, weight = rng.random(50), rng.exponential(size=50)
    q, v = rng.random(50), rng.random(50)
    value, influence = terms(reward, weight, method, q, v)
    step = 1e-6

    def value_with(more: np.ndarray) -> float:
        each = v + weight * (reward - q) if method == "dr" else weight * reward
        below = (more * weight).sum() if method == "snips" else more.sum()
        return float((more * each).sum() / below)

    assert value == pytest.approx(value_with(np.ones(50)))
    for row in (0, 17, 49):
        more = np.ones(50)
        more[row] += step
        assert (value_with(more) - value) / step * 50 == pytest.approx(influence[row], rel=1e-3, abs=1e-4)


def test_rows_of_one_session_count_once():
    """Every row there ten times over: the value is the same, and so is what is known of it."""
    rng = np.random.default_rng(1)
    reward, weight = (rng.random(300) < 0.3).astype(float), rng.exponential(size=300)
    once = evaluate(reward, weight)
    groups = np.repeat(np.arange(300), 10)
    tenfold = evaluate(np.repeat(reward, 10), np.repeat(weight, 10), groups=groups)
    assert (tenfold.value, tenfold.se) == pytest.approx((once.value, once.se))
    taken_for_independent = evaluate(np.repeat(reward, 10), np.repeat(weight, 10))
    assert taken_for_independent.se == pytest.approx(once.se / np.sqrt(10), rel=1e-2)


def test_covariance_of_independent_rows_is_that_of_means():
    rows = np.random.default_rng(2).normal(size=(400, 3))
    found = covariance(rows - rows.mean(0), np.arange(400))
    assert found == pytest.approx(np.cov(rows, rowvar=False) / 400)


@pytest.mark.parametrize(("clicks", "views"), [(0, 40), (3, 40), (12, 30), (30, 30)])
def test_wilson_is_scipys_where_weights_are_equal(clicks, views):
    share = clicks / views
    found = between(share, share * (1 - share) / views, views, kind="wilson")
    expected = stats.binomtest(clicks, views).proportion_ci(0.95, "wilson")
    assert [float(x) for x in found] == pytest.approx([expected.low, expected.high])


def test_no_click_at_all_is_not_certainty():
    found = evaluate(np.zeros(200), np.ones(200), interval="wilson")
    assert found.low == pytest.approx(0, abs=1e-12)
    assert found.high == pytest.approx(stats.binomtest(0, 200).proportion_ci(0.95, "wilson").high)


def test_difference_as_published():
    # Newcombe 1998, Interval Estimation for the Difference Between Independent Proportions, table II: 56/70 - 48/80
    sides = []
    for clicks, views in ((56, 70), (48, 80)):
        share = clicks / views
        sides.append((share, *between(share, share * (1 - share) / views, views, kind="wilson")))
    assert difference(*sides, 0.0) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_difference_of_correlated_normal_values_is_the_normal_one():
    se, rho = np.array([0.3, 0.4]), 0.6
    sides = [(x, *between(x, s**2, 100, kind="normal")) for x, s in zip((2.0, 1.0), se, strict=True)]
    half = 1.959964 * np.sqrt(0.09 + 0.16 - 2 * rho * 0.12)
    assert difference(*sides, rho) == pytest.approx((1 - half, 1 + half), abs=1e-6)


def test_bootstrap_agrees_with_the_normal_interval_of_a_large_sample():
    rng = np.random.default_rng(3)
    reward, weight = (rng.random(3_000) < 0.3).astype(float), rng.uniform(0.5, 2, 3_000)
    groups = np.arange(3_000) // 3
    for method in ("ips", "snips"):
        normal = evaluate(reward, weight, method=method, groups=groups)
        drawn = evaluate(reward, weight, method=method, groups=groups, interval="bootstrap")
        assert (drawn.low, drawn.high) == pytest.approx((normal.low, normal.high), abs=0.15 * normal.se * 2)


def test_bernstein_by_hand():
    reward, weight = np.tile([1.0, 0.0], 100), np.tile([2.0, 1.0], 100)
    found = evaluate(reward, weight, method="ips", interval="bernstein")
    each, tail = weight * reward, np.log(4 / 0.05)
    half = np.sqrt(2 * each.var(ddof=1) * tail / 200) + 7 * 2 * tail / (3 * 199)
    assert (found.low, found.high) == pytest.approx((max(0, 1 - half), 1 + half))


@pytest.mark.parametrize("method", ["snips", "dr"])
def test_intervals_cover_where_viewers_and_policy_agree(method):
    """Two kinds of viewers, one of whom clicks more and sees more of the item; the plain rate covers nothing."""
    rng = np.random.default_rng(4)
    truth, plain, covered, times = 0.3, 0, 0, 400
    for _ in range(times):
        eager = rng.random(1_500) < 0.5
        propensity = np.where(eager, 0.8, 0.2)
        shown = rng.random(1_500) < propensity
        reward = np.where(shown, rng.random(1_500) < np.where(eager, 0.45, 0.15), 0.0).astype(float)
        guess = np.where(eager, 0.4, 0.2)
        options = {"predicted": guess, "predicted_policy": guess} if method == "dr" else {}
        found = evaluate(reward, shown / propensity, method=method, **options)
        covered += found.low <= truth <= found.high
        raw = evaluate(reward[shown], np.ones(shown.sum()))
        plain += raw.low <= truth <= raw.high
    assert 0.92 <= covered / times <= 0.98
    assert plain / times < 0.01


def test_what_cannot_be_estimated_is_refused_or_an_error():
    found = evaluate(np.ones(50), np.ones(50))
    assert np.isnan(found.value) and found.refused == "effective sample size 50, at least 100 needed (too few rows)"
    with pytest.raises(DataError, match=r"weight\[1\] is nan"):
        evaluate([0.0, 1.0], [1.0, np.nan])
    with pytest.raises(DataError, match=r"reward\[0\] is nan; .* leave out rows without one"):
        evaluate([np.nan, 1.0], [1.0, 1.0])
    with pytest.raises(DataError, match="not for snips"):
        evaluate(REWARD, WEIGHT, interval="bernstein")
    with pytest.raises(DataError, match="needs `predicted`"):
        evaluate(REWARD, WEIGHT, method="dr")


def open_bandit(policy: str, campaign: str) -> dict[str, np.ndarray]:
    """A log of the Open Bandit Dataset from the package obp, which is looked up but not imported."""
    package = find_spec("obp")
    if package is None:
        pytest.skip("the package obp, whose logs these are, is not installed: pip install --no-deps obp==0.4.1")
    path = Path(package.submodule_search_locations[0]) / "dataset" / "obd" / policy / campaign / f"{campaign}.csv"
    columns = ["item_id", "position", "click", "propensity_score"]
    options = pyarrow.csv.ConvertOptions(include_columns=columns)
    table = pyarrow.csv.read_csv(path, convert_options=options)
    return {name: table[name].to_numpy() for name in columns}


def uniform_from(campaign: str, method: str, **options):
    """What the uniform policy would earn, from the log of Bernoulli Thompson sampling."""
    log = open_bandit("bts", campaign)
    items = len(np.unique(open_bandit("random", campaign)["item_id"]))
    return evaluate(log["click"], 1 / items / log["propensity_score"], method=method, **options)


def test_open_bandit_men():
    naive = open_bandit("bts", "men")["click"].mean()
    truth = open_bandit("random", "men")["click"].mean()
    ips, snips = uniform_from("men", "ips"), uniform_from("men", "snips", interval="wilson")
    shares = [round(100 * float(x), 2) for x in (naive, ips.value, snips.value, truth)]
    assert shares == [0.69, 0.30, 0.32, 0.46]
    assert round(ips.ess) == round(snips.ess) == 656
    assert snips.refused is None and snips.low < truth < snips.high


@pytest.mark.parametrize("method", ["ips", "snips", "clipped"])
def test_open_bandit_women_is_refused(method):
    found = uniform_from("women", method)
    assert round(found.ess) == 2 and round(found.largest_weight) == 21_739
    assert np.isnan([found.value, found.low, found.high]).all()
    assert "effective sample size 2.08" in found.refused and "largest weight 21,739" in found.refused
