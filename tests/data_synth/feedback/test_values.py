"""What items are worth: planted truth inside the intervals for every method and metric, and the traps on the way."""

from dataclasses import replace

import numpy as np
import pytest

from data_synth.errors import DataError
from data_synth.feedback.position import Examination
from data_synth.feedback.schema import Log
from data_synth.feedback.simulate import World, simulate
from data_synth.feedback.values import Options, measure, value_items, values

SMALL = World(prompts=2, items=4, sessions=3_000, rounds=2, stay=1.0, bait=0.0)


def log_of(item, click, propensity=None, **columns) -> Log:
    item, rows = np.asarray(item), len(item)
    zeros = np.zeros(rows, np.int64)
    names = [str(i) for i in range(int(item.max()) + 1)]
    defaults = {"prompt": zeros, "context": zeros, "position": zeros + 1, "session": np.arange(rows)}
    return Log(
        ["p"], names, names, item=item, click=np.asarray(click, float), propensity=propensity, **defaults | columns
    )


def test_snips_and_ips_by_hand():
    log = log_of([0, 0, 1, 1], [1, 0, 1, 1], propensity=np.array([0.25, 0.5, 0.5, 0.75]))
    options = Options(min_ess=0, position="off")
    assert values(log, options).value == pytest.approx([4 / 6, 1.0])
    assert values(log, replace(options, method="ips")).value == pytest.approx([4 / 4, (2 + 4 / 3) / 4])
    assert values(log, options).raw.tolist() == [0.5, 1.0]
    assert values(log, options).ess == pytest.approx([36 / 20, (2 + 4 / 3) ** 2 / (4 + 16 / 9)])


def test_a_place_looked_at_half_as_often_counts_double():
    look = Examination(np.array([1, 2]), np.array([1.0, 0.5]), np.zeros((2, 2)), np.nan)
    log = log_of([0, 0], [0, 1], position=np.array([1, 2]))
    found = values(log, Options(min_ess=0), look)
    assert found.value == pytest.approx([1.0])  # (0 / 1 + 1 / 0.5) / 2
    assert found.ess == pytest.approx([4 / (1 + 2)])


def test_intervals_of_every_method_cover_the_planted_values():
    covered = {method: [] for method in ("snips", "ips", "clipped", "dr")}
    for seed in range(25):
        made = simulate(SMALL, seed)
        measured = measure(made.log(), Options())
        for method, told in covered.items():
            found = value_items(measured, Options(method=method))
            truth = made.value[found.prompt, found.item % SMALL.items]
            told.append(((found.low <= truth) & (truth <= found.high))[~np.isnan(found.value)])
    for told in covered.values():
        told = np.concatenate(told)
        assert 0.91 <= told.mean() <= 0.995 and len(told) > 150  # tests/bench/feedback.py measures it closely


def test_moods_of_viewers_are_in_the_interval():
    """A session's rows rise and fall together: taken for independent, their intervals are too short."""
    world = World(prompts=1, items=2, sessions=300, rounds=12, stay=1.0, bait=0.0, mood=0.9, push=0.0, eager=(1.0,))
    world = replace(world, examination=(1.0,), quality=(0.3, 0.5))
    covered, careless = [], []
    for seed in range(150):
        made = simulate(world, seed)
        log = made.log()
        for session, told in ((log.session, covered), (np.arange(len(log)), careless)):
            found = values(replace(log, session=session), Options(interval="normal"))
            truth = made.value[0, found.item]
            told.append((found.low <= truth) & (truth <= found.high))
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(careless) <= 0.85


def test_what_the_place_is_worth_is_uncertain_too():
    """Few items, many showings: the examination of the places is what is least known. Left out, intervals are short."""
    world = replace(SMALL, prompts=1, sessions=2_500, push=3.0, eager=(1.0,), mood=0.0)
    covered, careless = [], []
    for seed in range(40):
        made = simulate(world, seed)
        log, truth = made.log(), made.value[0]
        measured = measure(log, Options())
        known = replace(measured.examination, covariance=np.zeros((4, 4)))
        for one, told in ((measured, covered), (replace(measured, examination=known), careless)):
            found = value_items(one, Options(interval="normal"))
            told.append((found.low <= truth[found.item]) & (truth[found.item] <= found.high))
    assert np.mean(covered) > np.mean(careless) + 0.02
    assert np.mean(covered) >= 0.88  # normal intervals of heavy weights; Wilson's are the default for that reason


@pytest.mark.parametrize("delay", ["exponential", "free"])
@pytest.mark.parametrize("metric", ["conversion", "conversion_per_click"])
def test_late_conversions_are_made_up_for(metric, delay):
    world = replace(SMALL, sessions=12_000, mean_delay=2 * 86_400.0, conversion=(0.2, 0.5))
    made = simulate(world, seed=5)
    truth = made.conversion_rate * (made.value if metric == "conversion" else 1.0)
    log = made.log()
    found = values(log, Options(metric=metric, delay=delay))
    within = 1.0
    if delay == "free":  # conversions within its window
        clicked = log.conversion == 1
        within = 1 - np.exp(-np.quantile(log.elapsed[clicked], 0.8) / world.mean_delay)
    z = (found.value - within * truth[found.prompt, found.item % 4]) / np.sqrt(found.variance)
    assert np.abs(z).max() < 4
    counted = values(log, Options(metric=metric, delay="off"))
    late = (counted.value - truth[counted.prompt, counted.item % 4]) / np.sqrt(counted.variance)
    assert late.mean() < -2.5  # without the correction every item falls short


def test_young_rows_are_left_out_not_counted_as_no():
    made = simulate(replace(SMALL, sessions=6_000), seed=6)
    measured = measure(made.log(), Options(metric="conversion_per_click"))
    assert 0 < measured.left_out["too young"] < 0.1 * made.click.sum()
    assert len(measured.reward) + measured.left_out["too young"] == made.click.sum()


def test_continuation_is_measured_over_clicks_that_can_be_followed():
    made = simulate(World(prompts=2, items=4, sessions=6_000, bait=0.0, duration=20_000.0), seed=7)
    log = made.log()
    found = values(log, Options(metric="continuation"))
    assert ((found.value > 0.4) & (found.value < 0.9)).all()  # planted between 0.5 and 0.8
    measured = measure(log, Options(metric="continuation"))
    assert measured.left_out["log ends before the session can be seen to end"] > 0


def test_rare_items_are_refused_with_the_reason():
    log = log_of([0] * 300 + [1] * 20, [1, 0] * 160)
    found = values(log, Options())
    assert found.refused == [None, "effective sample size 20, at least 100 needed (too few rows)"]
    assert np.isnan([found.value[1], found.low[1], found.high[1]]).all() and found.views[1] == 20


def test_no_click_at_all_is_not_certainty():
    """A standard error of 0 would make an interval of no width, and the item a sure loser."""
    found = values(log_of([0] * 150 + [1] * 150, [0] * 150 + [1, 0] * 75), Options(position="off"))
    assert found.value[0] == 0 and found.high[0] > 0.02


def test_an_item_under_two_prompts_has_two_values():
    log = log_of([0] * 400, [1] * 200 + [0] * 200, prompt=np.repeat([0, 1], 200))
    found = values(replace(log, prompts=["a", "b"]), Options())
    assert found.prompt.tolist() == [0, 1] and found.value.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(metric="conversion"), "no column `conversion`"),
        (Options(metric="continuation"), "needs the columns `session` and `time`"),
        (Options(metric="reported"), "was read without the column 'reported'"),
        (Options(metric="continuation", method="ips"), "takes snips, not ips"),
        (Options(position="randomised"), "has no `propensity`"),
        (Options(method="ips"), "ips needs the column `propensity`"),  # else it would be share shown x click rate
    ],
)
def test_what_a_log_does_not_hold_is_an_error(options, said):
    with pytest.raises(DataError, match=said):
        values(log_of([0, 0], [1, 0], position=np.array([1, 2])), options)
