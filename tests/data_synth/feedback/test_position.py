"""Examination of places: recovered, equal to a reference fit, with honest intervals, and refused where unknowable."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import PoissonRegressor

from data_synth.errors import DataError
from data_synth.feedback import position
from data_synth.feedback.schema import Log
from data_synth.feedback.simulate import World, simulate

SMALL = World(prompts=6, items=4, sessions=2_500, rounds=2, stay=1.0)


def log_of(item, place, click, **columns) -> Log:
    item, rows = np.asarray(item), len(item)
    zeros = np.zeros(rows, np.int64)
    names = [str(i) for i in range(int(item.max()) + 1)]
    columns = {"prompt": zeros, "context": zeros, "session": np.arange(rows)} | columns
    return Log(["p"], names, names, item=item, position=np.asarray(place), click=np.asarray(click, float), **columns)


@pytest.mark.parametrize("fit", [position.fitted, position.randomised])
def test_planted_examination_is_recovered_where_raw_click_rates_are_far_off(fit):
    """A good policy puts the better items on top, which makes the lower places look worse than they are."""
    log = simulate(replace(SMALL, sessions=8_000, inverted=0.0), seed=0).log()
    planted = np.log(SMALL.examination)
    found = fit(log)
    told = np.sqrt(np.diag(found.covariance))
    assert (np.abs(np.log(found.values) - planted)[1:] < 4 * told[1:]).all() and told.max() < 0.2
    raw = np.array([log.click[log.position == k].mean() for k in (1, 2, 3, 4)])
    assert (np.log(raw / raw[0]) - planted)[3] < -0.3


def test_fit_is_that_of_a_poisson_regression_with_items_and_places():
    log = simulate(SMALL, seed=1).log()
    found = position.fitted(log).values
    _, cell = np.unique(np.stack([log.prompt, log.item, log.context]), axis=1, return_inverse=True)
    cell = cell.reshape(-1)
    place = log.position - 1
    key = cell * 4 + place
    shown, clicks = np.bincount(key), np.bincount(key, log.click)
    kept = shown > 0
    number = np.flatnonzero(kept)
    columns = np.zeros((len(number), cell.max() + 1 + 3))
    columns[np.arange(len(number)), number // 4] = 1
    later = number % 4 > 0
    columns[np.flatnonzero(later), cell.max() + number[later] % 4] = 1
    model = PoissonRegressor(alpha=0.0, fit_intercept=False, max_iter=5_000, tol=1e-10, solver="newton-cholesky")
    model.fit(columns, clicks[kept] / shown[kept], sample_weight=shown[kept])
    assert found == pytest.approx(np.exp([0.0, *model.coef_[-3:]]), rel=1e-4)


@pytest.mark.parametrize("fit", [position.fitted, position.randomised])
def test_standard_errors_are_the_spread_between_logs(fit):
    world = replace(SMALL, prompts=3, sessions=1_000, mood=0.8)
    found = [fit(simulate(world, seed).log()) for seed in range(80)]
    spread = np.std([np.log(one.values[1:]) for one in found], axis=0)
    told = np.sqrt(np.mean([np.diag(one.covariance)[1:] for one in found], axis=0))
    assert (np.abs(told / spread - 1) < 0.3).all()  # 80 logs know a standard deviation within 8 %, 3 of them 24 %


def test_misfit_tells_a_log_that_breaks_the_model():
    rng = np.random.default_rng(0)
    item, place = rng.integers(6, size=60_000), rng.integers(1, 3, size=60_000)
    relevance = np.linspace(0.1, 0.4, 6)[item]
    fits = log_of(item, place, rng.random(60_000) < relevance * np.where(place == 1, 1, 0.5))
    assert position.fitted(fits).misfit < 2.5  # chi-squared of 5 degrees: above 2.5 in 3 % of logs
    unlike = np.where(item % 2 == 0, 0.9, 0.3)  # half of the items are looked at below, the others are not
    breaks = log_of(item, place, rng.random(60_000) < relevance * np.where(place == 1, 1, unlike))
    assert position.fitted(breaks).misfit > 10


def test_a_place_that_nothing_ties_to_the_first_is_unknown():
    item = np.repeat([0, 0, 1, 1], 50)
    place = np.repeat([1, 2, 3, 4], 50)  # item 0 at places 1 and 2, item 1 at 3 and 4
    click = np.tile([1.0, 0.0], 100)
    found = position.fitted(log_of(item, place, click))
    assert found.values[:2] == pytest.approx([1, 1])
    assert np.isnan(found.values[2:]).all()


def test_a_place_without_clicks_is_unknown_not_zero():
    item, place = np.repeat([0, 0], 50), np.repeat([1, 2], 50)
    click = np.where(place == 1, np.tile([1.0, 0.0], 50), 0.0)
    log = log_of(item, place, click, propensity=np.full(100, 0.5))
    for fit in (position.fitted, position.randomised):
        assert np.isnan(fit(log).values).tolist() == [False, True]


def test_errors_name_what_is_missing():
    with pytest.raises(DataError, match="no `propensity`"):
        position.randomised(log_of([0, 0], [1, 2], [1, 1]))
    with pytest.raises(DataError, match="nobody clicked at the first place"):
        position.fitted(log_of([0, 0], [1, 2], [0, 1]))
