"""Bootstrap intervals against scipy's, plain loops and known coverage."""

import json

import numpy as np
import pytest

from rlkit.evaluate.intervals import (
    paired_difference,
    paired_difference_over_seeds,
    pool_seeds,
    summarise,
)


def rows(values, clips=None):
    return [{"clip": f"{i}" if clips is None else clips[i], "x": float(v)} for i, v in enumerate(values)]


def test_value_is_the_mean_and_interval_is_scipys_percentile_bootstrap():
    bootstrap = pytest.importorskip("scipy.stats").bootstrap
    values = np.random.default_rng(1).exponential(size=200)
    ours = summarise(rows(values), resamples=20_000)["x"]
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2).confidence_interval
    assert ours["value"] == pytest.approx(values.mean())
    spread = theirs.high - theirs.low
    assert ours["low"] == pytest.approx(theirs.low, abs=0.05 * spread)
    assert ours["high"] == pytest.approx(theirs.high, abs=0.05 * spread)


def test_same_seed_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).random(50)
    assert summarise(rows(values)) == summarise(rows(values))
    assert summarise(rows(values)) != summarise(rows(values), seed=1)


def test_95_percent_intervals_cover_the_truth_about_95_percent_of_the_time():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        interval = summarise(rows(generator.random(100) < 0.7), resamples=400, seed=trial)["x"]
        covered += interval["low"] <= 0.7 <= interval["high"]
    assert 0.90 <= covered / 300 <= 0.98


def test_blocks_of_draws_give_as_many_resamples_as_asked(monkeypatch):
    values = np.random.default_rng(0).random(50)
    whole = summarise(rows(values), resamples=4_000)["x"]
    monkeypatch.setattr("rlkit.evaluate.intervals.BLOCK", 1_000)
    in_blocks = summarise(rows(values), resamples=4_000)["x"]
    assert in_blocks["low"] == pytest.approx(whole["low"], abs=0.01)


def test_results_are_plain_json_and_nothing_measured_is_null():
    summary = summarise([{"x": float("nan"), "y": 1}, {"x": None}])
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["x"] == {"value": None, "low": None, "high": None, "n": 0, "excluded": 2}
    assert summary["y"]["value"] == 1 and summary["y"]["n"] == 1
    assert summarise([]) == {}


def test_paired_difference_is_tighter_than_the_two_intervals_apart():
    generator = np.random.default_rng(0)
    hard = generator.random(300)
    base, better = rows(hard), rows(hard + 0.02 + 0.01 * generator.standard_normal(300))
    difference = paired_difference(better, base)["x"]
    assert difference["low"] > 0.015
    assert summarise(better)["x"]["low"] < summarise(base)["x"]["high"]


def test_paired_difference_of_a_system_with_itself_is_zero():
    same = rows([1, 0, 1])
    assert paired_difference(same, same)["x"]["low"] == paired_difference(same, same)["x"]["high"] == 0


def test_paired_difference_refuses_other_clips():
    with pytest.raises(ValueError, match="row 1 compares clip 'b' with clip 'c'"):
        paired_difference(rows([1, 2], ["a", "b"]), rows([1, 2], ["a", "c"]))
    with pytest.raises(ValueError, match="2 clips cannot be paired with 1"):
        paired_difference(rows([1, 2]), rows([1]))


def test_paired_difference_excludes_a_clip_undefined_in_either_system():
    difference = paired_difference(rows([1, np.nan, 3]), rows([0, 0, np.nan]))["x"]
    assert (difference["value"], difference["n"], difference["excluded"]) == (1, 1, 2)


def test_pooling_one_seed_is_summarise():
    values = np.random.default_rng(0).random(40)
    assert pool_seeds([rows(values)]) == summarise(rows(values))


def test_pooling_includes_the_spread_between_seeds():
    generator = np.random.default_rng(0)
    seeds = [rows(generator.random(500) < rate) for rate in (0.5, 0.7, 0.9)]
    pooled = pool_seeds(seeds)["x"]
    assert pooled["value"] == pytest.approx(np.mean([summarise(s)["x"]["value"] for s in seeds]))
    # Drawing 3 of 3 seeds with replacement gives the worst three times with chance 1/27 = 3.7 % > 2.5 %.
    assert pooled["low"] < 0.55 and pooled["high"] > 0.85


@pytest.mark.parametrize("shared", [True, False])
def test_two_level_draws_equal_a_plain_loop(shared):
    generator = np.random.default_rng(3)
    hard = generator.random(60)
    values = [hard + 0.1 * s + 0.1 * generator.standard_normal(60) for s in range(3)]
    ids = [[f"{i}" if shared else f"{s}-{i}" for i in range(60)] for s in range(3)]
    ours = pool_seeds([rows(v, i) for v, i in zip(values, ids, strict=True)], resamples=8_000)["x"]
    means = []
    for _ in range(8_000):
        common = generator.integers(60, size=60)
        means.append(
            np.mean(
                [
                    values[s][common if shared else generator.integers(60, size=60)].mean()
                    for s in generator.integers(3, size=3)
                ]
            )
        )
    low, high = np.percentile(means, [2.5, 97.5])
    assert ours["low"] == pytest.approx(low, abs=0.06 * (high - low))
    assert ours["high"] == pytest.approx(high, abs=0.06 * (high - low))


def test_seeds_are_paired_seed_by_seed():
    base = [rows([0, 1, 0, 1]), rows([5, 6, 5, 6])]
    better = [rows([1, 2, 1, 2]), rows([6, 7, 6, 7])]
    difference = paired_difference_over_seeds(better, base)["x"]
    assert (difference["value"], difference["low"], difference["high"], difference["n"]) == (1, 1, 1, 8)
    with pytest.raises(ValueError, match="2 seeds cannot be paired with 1"):
        paired_difference_over_seeds(better, base[:1])
