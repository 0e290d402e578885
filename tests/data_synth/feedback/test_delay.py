"""Late conversions: Chapelle's model against its likelihood, the free shape against its definition, planted truth."""

import numpy as np
import pytest
from scipy import optimize

from data_synth.errors import DataError
from data_synth.feedback import delay

DAY = 86_400.0


def clicks(seed: int, count: int = 20_000, shape: float = 1.0, rates=(0.1, 0.3)):
    """(converted, delay, age, group) of clicks over a week; conversions come after a day on average."""
    rng = np.random.default_rng(seed)
    group = rng.integers(len(rates), size=count)
    age = rng.uniform(0, 7 * DAY, count)
    age[group == 1] /= 7  # the second group is new: its clicks are a day old at most
    late = DAY * rng.weibull(shape, count)
    converted = (rng.random(count) < np.array(rates)[group]) & (late <= age)
    return converted.astype(float), np.where(converted, late, np.nan), age, group


def test_planted_rates_are_recovered_and_counting_is_far_off():
    converted, late, age, group = clicks(0)
    found = delay.exponential(converted, late, age, group)
    assert found.rates == pytest.approx([0.1, 0.3], rel=0.06)
    assert found.mean == pytest.approx(DAY, rel=0.06)
    assert converted[group == 1].mean() < 0.4 * 0.3  # what counting says of the new group


def test_em_ends_at_the_top_of_the_likelihood():
    converted, late, age, group = clicks(1, count=1_500)
    found = delay.exponential(converted, late, age, group)
    seen = converted == 1

    def loss(x):
        p, rate = 1 / (1 + np.exp(-x[:2])), np.exp(x[2]) / DAY
        yes = np.log(p[group[seen]]) + np.log(rate) - rate * late[seen]
        no = np.log1p(-p[group[~seen]] + p[group[~seen]] * np.exp(-rate * age[~seen]))
        return -yes.sum() - np.log1p(np.expm1(no)).sum()

    best = optimize.minimize(loss, [-2.0, -1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-9})
    assert found.rates == pytest.approx(1 / (1 + np.exp(-best.x[:2])), rel=1e-3)
    assert found.mean == pytest.approx(DAY / np.exp(best.x[2]), rel=1e-3)


def test_free_shape_by_its_definition():
    late = np.array([1.0, 2.0, 2.0, 3.0, 5.0])
    age = np.array([9.0, 8.0, 2.5, 9.0, 7.0])
    found = delay_free(late, age, window=5.0)
    expected = {}
    for t in (1.0, 2.0, 3.0, 5.0):  # product over later delays, pair by pair
        product = 1.0
        for u in sorted({x for x in late if x > t}):
            at_risk = sum(1 for x, a in zip(late, age, strict=True) if x <= u <= a)
            product *= 1 - (late == u).sum() / at_risk
        expected[t] = product
    assert found.share(np.array(list(expected))) == pytest.approx(list(expected.values()))
    assert found.share(np.array([0.5, 4.0, 99.0])) == pytest.approx([0.0, expected[3.0], 1.0])


def delay_free(late, age, window):
    """Without the floor on the number of conversions."""
    floor, delay.MIN_CONVERSIONS = delay.MIN_CONVERSIONS, 1
    try:
        return delay.free(np.ones(len(late)), late, age, window)
    finally:
        delay.MIN_CONVERSIONS = floor


@pytest.mark.parametrize("shape", [0.5, 2.0])
def test_free_shape_is_right_where_the_exponential_is_not(shape):
    """Weibull delays: the share by each age is known, and so is the conversion rate within the window."""
    converted, late, age, _ = clicks(2, count=60_000, shape=shape, rates=(0.3,))
    free, exponential = delay.free(converted, late, age), delay.exponential(converted, late, age)
    ages = np.array([0.2, 0.5, 1.0, 2.0]) * DAY
    true = 1 - np.exp(-((ages / DAY) ** shape))
    true_in_window = true / (1 - np.exp(-((free.window / DAY) ** shape)))
    assert free.share(ages) == pytest.approx(true_in_window, abs=0.02)
    assert np.abs(exponential.share(ages) - true).max() > 0.05


@pytest.mark.parametrize("model", ["exponential", "free"])
def test_rewards_have_the_conversion_rate_as_their_mean(model):
    converted, late, age, group = clicks(3, count=60_000)
    fitted = (
        delay.exponential(converted, late, age, group) if model == "exponential" else delay.free(converted, late, age)
    )
    reward, largest = delay.rewards(converted, late, age, fitted)
    within = 1 - np.exp(-fitted.window / DAY)
    for number, rate in ((0, 0.1), (1, 0.3)):
        mine = (group == number) & ~np.isnan(reward)
        error = reward[mine].std() / np.sqrt(mine.sum())
        assert abs(reward[mine].mean() - rate * within) < 4 * error + 0.02 * rate
    young = np.isnan(reward)
    assert young.any() and (age[young] < 0.3 * DAY).all()  # too young to say is not "no"
    assert (largest[~young] <= 1 / delay.MIN_SHARE).all()


def test_too_little_to_know_is_an_error():
    with pytest.raises(DataError, match="29 conversions say too little"):
        delay.exponential(np.ones(29), np.ones(29), np.full(29, 2.0))
    late = np.linspace(1, 2, 50)
    with pytest.raises(DataError, match="give a smaller window"):
        delay.free(np.ones(50), late, late + 0.001, window=2.0)  # every click was watched just until it converted
