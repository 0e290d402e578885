"""The simulator does what it says: its propensities, click rates, delays and inversions are those of its rows."""

from dataclasses import replace

import numpy as np
import pytest

from data_synth.feedback.simulate import World, simulate

SMALL = World(prompts=1, items=4, sessions=30_000, rounds=2, stay=1.0, bait=0.0, mood=0.5)


@pytest.fixture(scope="module")
def made():
    return simulate(SMALL, seed=0)


def test_propensities_are_how_often_items_are_shown(made):
    for viewer in (0, 1):
        for place in (1, 2, 3, 4):
            at = (made.context == viewer) & (made.position == place)
            told = np.array([made.propensity[at & (made.item == i)][0] for i in range(4)])
            found = np.bincount(made.item[at], minlength=4) / at.sum()
            assert told.sum() == pytest.approx(1.0)
            assert np.abs(found - told).max() < 4 * np.sqrt(0.25 / at.sum())


def test_click_rates_are_examination_times_quality_times_eagerness(made):
    for place, look in enumerate(SMALL.examination, start=1):
        for viewer, eager in enumerate(SMALL.eager):
            at = (made.position == place) & (made.context == viewer) & (made.item == 0)
            expected = look * eager * made.value[0, 0]  # value: over viewers of both kinds, equally frequent
            assert made.click[at].mean() == pytest.approx(expected, abs=5 * np.sqrt(expected / at.sum()) + 1e-3)


def test_what_has_not_happened_yet_is_not_in_the_log(made):
    came = made.conversion == 1
    assert (made.click[came] == 1).all() and np.isnan(made.conversion_delay[~came]).all()
    assert (made.time[came] + made.conversion_delay[came] <= SMALL.duration).all()
    assert (made.time <= SMALL.duration).all()
    old = (made.click == 1) & (made.time < SMALL.duration - 6 * SMALL.mean_delay)  # 99.8 % have come
    rate, expected = made.conversion[old].mean(), made.conversion_rate[0, made.item[old]].mean()
    assert rate == pytest.approx(expected, abs=5 * np.sqrt(expected / old.sum()))


def test_inversions_look_the_wrong_way_round():
    made = simulate(replace(SMALL, prompts=4, inverted=1.0), seed=1)
    assert len(made.inversions()) == 8
    for prompt, better, worse in made.inversions():
        shown = {i: (made.prompt == prompt) & (made.item == i) for i in (better, worse)}
        assert made.value[prompt, better] > 1.35 * made.value[prompt, worse]
        assert made.position[shown[better]].mean() > made.position[shown[worse]].mean()
    raw = [
        made.click[shown[0]].mean() < made.click[shown[1]].mean()
        for shown in ([(made.prompt == p) & (made.item == i) for i in pair] for p, *pair in made.inversions())
    ]
    assert np.mean(raw) > 0.3


def test_the_same_seed_gives_the_same_log():
    small = replace(SMALL, sessions=50)
    one, again, other = simulate(small, 3), simulate(small, 3), simulate(small, 4)
    assert one.table().equals(again.table()) and not one.table().equals(other.table())
