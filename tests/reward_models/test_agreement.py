"""Agreement of a judge with people: against brute force, formulas and cases computed by hand."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from reward_models import agreement
from reward_models.agreement import (
    accuracy_with_ties,
    accuracy_without_ties,
    bootstrap_by_prompt,
    both_orders,
    control_gap,
    expected_calibration_error,
    per_kind,
    single_human_ceiling,
    tau_b,
    tau_c,
)

NAN = float("nan")


def brute_force(human, margins):
    """Best share over every threshold that can matter: 0 and each |margin|."""
    shares = []
    for threshold in sorted({0.0, *(abs(m) for m in margins)}):
        verdicts = [0 if abs(m) <= threshold else (1 if m > 0 else -1) for m in margins]
        shares.append((sum(v == h for v, h in zip(verdicts, human, strict=True)) / len(human), threshold))
    best = max(share for share, _ in shares)
    return best, min(threshold for share, threshold in shares if share == best)


def mean(values):
    return values.mean()


def test_with_ties_is_the_brute_force_optimum():
    rng = np.random.default_rng(0)
    for _ in range(2_000):
        n = rng.integers(1, 9)
        human = rng.integers(-1, 2, n).tolist()
        margins = (rng.integers(-2, 3, n) / 2 + rng.choice([0.0, 0.25])).tolist()
        found = accuracy_with_ties(human, margins)
        assert (found.value, found.threshold) == brute_force(human, margins), (human, margins)


@pytest.mark.parametrize(
    ("human", "margins", "value", "threshold"),
    [
        ([0, 1], [0.5, 0.5], 0.5, 0.0),  # no threshold parts them, in either order of the rows
        ([1, 0], [0.5, 0.5], 0.5, 0.0),
        ([1, 0, -1], [2.0, 0.1, -0.7], 1.0, 0.1),  # the example of the module
        ([1, -1, 1], [0.1, -0.2, 3.0], 1.0, 0.0),  # no tie need be predicted
        ([0, 0, 1], [-2.0, 1.0, 3.0], 1.0, 2.0),
        ([0, 0], [5.0, -7.0], 1.0, 7.0),  # all ties
        ([1, -1], [0.0, 0.0], 0.0, 0.0),  # a margin of 0 takes no side
    ],
)
def test_with_ties_by_hand(human, margins, value, threshold):
    found = accuracy_with_ties(human, margins)
    assert (found.value, found.threshold, found.n) == (value, threshold, len(human))


def test_with_ties_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(1)
    human, margins = rng.integers(-1, 2, 300), rng.integers(-1, 2, 300)
    expected = accuracy_with_ties(human, margins)
    for order in [np.argsort(human != 0), np.argsort(human == 0), *(rng.permutation(300) for _ in range(20))]:
        assert accuracy_with_ties(human[order], margins[order]) == expected


def test_without_ties_drops_peoples_ties_and_halves_the_judges():
    found = accuracy_without_ties([1, 1, -1, -1, 0], [2.0, 0.0, -1.0, 3.0, 9.0])
    assert (found.value, found.n) == ((1 + 0.5 + 1 + 0) / 4, 4)


@pytest.mark.parametrize(("ours", "variant"), [(tau_b, "b"), (tau_c, "c")])
def test_tau_is_scipys(ours, variant):
    rng = np.random.default_rng(2)
    ratings, scores = rng.integers(1, 6, 60), rng.integers(0, 9, 60) / 3
    assert float(ours(ratings, scores)) == stats.kendalltau(ratings, scores, variant=variant).statistic


def test_tau_by_the_formulas():
    ratings, scores = [1, 1, 2, 3], [1, 2, 2, 3]  # 6 pairs: 4 agree, 0 turned, 1 tied in the ratings, 1 in the scores
    assert float(tau_b(ratings, scores)) == pytest.approx(4 / np.sqrt(5 * 5))
    assert float(tau_c(ratings, scores)) == pytest.approx(2 * 4 / (4**2 * (3 - 1) / 3))


@pytest.mark.parametrize("ours", [tau_b, tau_c])
@pytest.mark.parametrize(("ratings", "scores"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1], [1]), ([], [])])
def test_tau_of_a_constant_is_nan(ours, ratings, scores):
    assert np.isnan(float(ours(ratings, scores)))


def test_both_orders_by_hand():
    #        same, same tie, first, first, second, a tie once, unread
    first = [+1.0, 0.0, +1.0, +0.2, -1.0, +1.0, None]
    second = [-0.1, 0.0, +1.0, +3.0, -1.0, 0.0, -1.0]
    found = both_orders(first, second)
    assert [found[key] for key in ("same", "first_slot", "second_slot", "one_tie")] == [2 / 6, 2 / 6, 1 / 6, 1 / 6]
    assert found["bias"].value == pytest.approx((2 * 2 - 1 * 2 + 1) / 12)  # the sum of all twelve verdicts
    assert (found["n"], found["unscored"]) == (6, 1)


def test_position_bias_of_judges_that_always_and_never_look_at_the_slot():
    ones = np.ones(40)
    assert both_orders(ones, ones)["bias"] == agreement.Interval(1.0, 1.0, 1.0)
    verdicts = np.random.default_rng(3).choice([-1, 0, 1], 40)
    never = both_orders(verdicts, -verdicts)
    assert never["bias"] == agreement.Interval(0.0, 0.0, 0.0) and never["same"] == 1.0


def test_position_bias_interval_draws_whole_prompts():
    verdicts = np.random.default_rng(4).choice([-1, 1], 100, p=[0.3, 0.7])
    pairs, prompts = np.repeat(verdicts, 4), np.repeat(np.arange(100), 4)
    bias = both_orders(pairs, pairs, groups=prompts)["bias"]
    assert bias.high - bias.low == pytest.approx(2 * 1.96 * verdicts.std() / np.sqrt(100), rel=0.15)


def test_calibration_by_hand():
    found = expected_calibration_error([0.9, 0.1, 0.8, 0.3], [1, 0, 0, 1], bins=2)
    low, high = {"probability": 0.2, "frequency": 0.5, "count": 2}, {"probability": 0.85, "frequency": 0.5, "count": 2}
    assert found["bins"] == [pytest.approx(low), pytest.approx(high)]
    assert found["error"] == pytest.approx(0.5 * 0.3 + 0.5 * 0.35)


def test_bins_have_equal_mass_and_are_one_for_one_probability():
    rng = np.random.default_rng(4)
    counts = [one["count"] for one in expected_calibration_error(rng.random(1_000) ** 4, np.ones(1_000))["bins"]]
    assert counts == [100] * 10
    found = expected_calibration_error([0.7] * 9, [1, 0, 1, 1, 1, 0, 1, 0, 1])
    assert found["bins"] == [{"probability": pytest.approx(0.7), "frequency": 6 / 9, "count": 9}]
    assert found["error"] == pytest.approx(0.7 - 6 / 9)


def test_calibration_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(5)
    probability, outcome = rng.integers(0, 5, 200) / 4, rng.integers(0, 2, 200)
    expected = expected_calibration_error(probability, outcome)["error"]
    for order in (rng.permutation(200) for _ in range(20)):
        assert expected_calibration_error(probability[order], outcome[order])["error"] == pytest.approx(expected)


def test_calibrated_and_overconfident_judges():
    rng = np.random.default_rng(6)
    truth = rng.random(20_000)
    outcome = rng.random(20_000) < truth
    assert expected_calibration_error(truth, outcome)["error"] < 0.02
    # Said p = 1 or 0 by the side of one half, right with max(truth, 1 - truth): the gap is 1 - 3/4.
    assert expected_calibration_error(truth > 0.5, outcome)["error"] == pytest.approx(0.25, abs=0.01)


def test_ceiling_by_hand():
    votes = [
        [1, 1, 1],  # everybody agrees with the two others: 3 of 3
        [1, 1, -1],  # the first two see a split (one half each), the third is alone (0)
        [1, -1, NAN],  # each against the one other: 0 of 2
        [0, NAN, NAN],  # nobody to compare with
    ]
    found = single_human_ceiling(votes)
    assert (found.value, found.n, found.unscored) == ((3 + 1) / 8, 8, 1)


def test_a_three_way_split_counts_one_third():
    # Against the three others, split three ways, the votes 1 and 1 of [1, 1, 2, 3] each meet {1, 2, 3}; 2 and 3 lose.
    assert single_human_ceiling([[1, 1, 2, 3]]).value == pytest.approx((1 / 3 + 1 / 3 + 0 + 0) / 4)


def test_per_kind_counts_and_wilson():
    kinds = ["order", "order", "order", "order", "colour", "colour", "colour", "colour"]
    table = per_kind(kinds, [1, 1, -1, 0, 1, 1, -1, 0], [1.0, -1.0, -2.0, 0.5, NAN, 0.0, 0.0, NAN])
    order, colour = table["order"], table["colour"]
    assert list(table) == ["colour", "order"]
    assert (order["n"], order["ties"], order["unscored"]) == (3, 1, 0)
    assert (colour["accuracy"].value, colour["n"], colour["ties"], colour["unscored"]) == (0.5, 2, 0, 2)
    expected = stats.binomtest(2, 3).proportion_ci(method="wilson")
    assert (order["accuracy"].low, order["accuracy"].high) == pytest.approx((expected.low, expected.high))


def test_per_kind_by_prompt_is_wider_where_the_rows_of_a_prompt_are_equal():
    rng = np.random.default_rng(7)
    margins, groups = np.repeat(rng.choice([1.0, -1.0], 40), 10), np.repeat(np.arange(40), 10)
    ones, kinds = np.ones(400), ["k"] * 400
    narrow, wide = (per_kind(kinds, ones, margins, by)["k"]["accuracy"] for by in (None, groups))
    assert wide.value == narrow.value
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)  # sqrt(10) in theory


def test_a_kind_that_nobody_could_score():
    for groups in (None, ["p", "q"]):
        found = per_kind(["k", "k"], [1, 0], [None, 1.0], groups)["k"]
        assert np.isnan([found["accuracy"].value, found["accuracy"].low, found["accuracy"].high]).all()
        assert (found["n"], found["ties"], found["unscored"]) == (0, 1, 1)


def test_control_gap_by_hand():
    human, margins, control = [1, -1, 1, 0, 1], [2.0, -1.0, -1.0, 1.0, NAN], [0.0, 0.0, 1.0, 0.0, 1.0]
    found = control_gap(human, margins, control, ["a", "a", "b", "b", "c"])
    assert (found["real"], found["control"]) == (2 / 3, (0.5 + 0.5 + 1) / 3)
    assert found["difference"].value == pytest.approx(0.0)
    assert (found["n"], found["unscored"]) == (3, 1)


def test_control_gap_finds_a_judge_that_looks_and_none_in_one_that_does_not():
    rng = np.random.default_rng(8)
    human, groups = rng.choice([-1, 1], 600), np.arange(600) // 3
    guess = rng.normal(size=600)
    looks = control_gap(human, human + rng.normal(size=600), guess, groups)["difference"]
    blind = control_gap(human, guess + 0.1 * rng.normal(size=600), guess, groups)["difference"]
    assert looks.low > 0.2
    assert blind.low <= 0 <= blind.high


def test_bootstrap_covers_the_truth_where_rows_of_a_prompt_go_together():
    rng, covered = np.random.default_rng(9), 0
    groups = np.repeat(np.arange(40), 5)
    for trial in range(100):
        values = np.repeat(rng.normal(size=40), 5) + rng.normal(size=200)  # the true mean is 0
        found = bootstrap_by_prompt(mean, groups, values, resamples=100, seed=trial)
        covered += found.low <= 0 <= found.high
    assert 0.84 <= covered / 100 <= 0.99  # drawing rows, 0.74 in theory


def test_bootstrap_has_the_width_of_the_formula_and_keeps_rows_together():
    rng = np.random.default_rng(10)
    values, groups = rng.normal(size=(500, 2)), np.repeat(np.arange(250), 2)
    found = bootstrap_by_prompt(lambda x: x[:, 0].mean(), groups, values)
    prompts = values[:, 0].reshape(250, 2).mean(axis=1)
    assert found.high - found.low == pytest.approx(2 * 1.96 * prompts.std() / np.sqrt(250), rel=0.15)
    same = bootstrap_by_prompt(lambda x, y: abs(x - y).max(), groups, values, values.copy(), resamples=50)
    assert (same.low, same.high) == (0, 0)


def test_bootstrap_repeats_itself_and_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(11)
    human, margins = rng.integers(-1, 2, 90), rng.normal(size=90)
    prompts = np.array([f"prompt {i % 30}" for i in range(90)])
    order = rng.permutation(90)
    found = bootstrap_by_prompt(accuracy_with_ties, prompts, human, margins, resamples=100)
    assert found == bootstrap_by_prompt(accuracy_with_ties, prompts[order], human[order], margins[order], resamples=100)
    assert found.value == accuracy_with_ties(human, margins).value
    assert found != bootstrap_by_prompt(accuracy_with_ties, prompts, human, margins, resamples=100, seed=1)


def test_bootstrap_of_one_prompt_or_none_has_no_interval_and_undefined_draws_are_counted():
    one = bootstrap_by_prompt(mean, ["p", "p"], [1.0, 2.0])
    assert one.value == 1.5 and np.isnan([one.low, one.high]).all()
    assert np.isnan(bootstrap_by_prompt(mean, [], []).value)
    # Of two prompts one holds ties only: a quarter of the draws are that prompt twice, without a value.
    found = bootstrap_by_prompt(accuracy_without_ties, [0, 1], [1, 0], [1.0, 1.0])
    assert (found.low, found.high) == (1.0, 1.0)
    assert found.undefined == pytest.approx(250, abs=60)


@pytest.mark.parametrize("missing", [None, NAN])
def test_a_missing_score_is_left_out_and_counted_never_a_zero(missing):
    human, margins = [1, -1, 0, -1, 1], [1.0, -1.0, 0.0, missing, missing]
    for found in (accuracy_with_ties(human, margins), tau_b(human, margins), tau_c(human, margins)):
        assert (found.value, found.n, found.unscored) == (pytest.approx(1.0), 3, 2)
    without = accuracy_without_ties(human, margins)
    assert (without.value, without.n, without.unscored) == (1.0, 2, 2)
    calibration = expected_calibration_error([0.5, missing], [1, 0])
    assert (calibration["error"], calibration["n"], calibration["unscored"]) == (0.5, 1, 1)


def test_nothing_scored_is_nan():
    nothing = [None, None]
    for found in (accuracy_with_ties([1, 0], nothing), accuracy_without_ties([1, 0], nothing)):
        assert np.isnan(found.value) and (found.n, found.unscored) == (0, 2)
    assert np.isnan(expected_calibration_error(nothing, [1, 0])["error"])
    assert np.isnan(single_human_ceiling(np.full((2, 3), NAN)).value)
    assert np.isnan(both_orders(nothing, nothing)["same"])
    assert np.isnan(control_gap([1, 0], nothing, [1, 1], ["p", "q"])["real"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy_with_ties([1, 2], [0.1, 0.2]), r"human\[1\] is 2; expected -1"),
        (lambda: accuracy_without_ties([1, None], [0.1, 0.2]), r"human\[1\] is nan"),
        (lambda: accuracy_with_ties([1, 0], [0.1]), r"human \(2,\), margins \(1,\); expected \[rows\]"),
        (lambda: tau_b([[1, 2]], [[1, 2]]), r"ratings \(1, 2\)"),
        (lambda: tau_c([1, None], [1, 2]), r"ratings\[1\] is nan"),
        (lambda: both_orders([1], [1, 0]), r"first \(1,\), second \(2,\)"),
        (lambda: expected_calibration_error([0.2, 1.2], [0, 1]), r"probability\[1\] is 1.2; expected a number in"),
        (lambda: expected_calibration_error([0.2, 0.3], [0, NAN]), r"outcome\[1\] is nan"),
        (lambda: expected_calibration_error([0.2], [0], bins=0), "bins is 0"),
        (lambda: single_human_ceiling([1, 1]), r"votes has shape \(2,\); expected \[items, raters\]"),
        (lambda: per_kind(["a"], [1, 1], [1, 1]), r"kinds \(1,\)"),
        (lambda: control_gap([1], [1], [1], None), r"groups \(\)"),
        (lambda: bootstrap_by_prompt(mean, [1, 2], [1.0]), r"shape \[\(1,\)\]; expected at least 1, and 2 rows"),
        (lambda: bootstrap_by_prompt(mean, [1], [1.0], resamples=0), "0 resamples"),
    ],
)
def test_errors_say_what_was_found_and_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_inputs_are_not_changed():
    human, margins = np.array([1, 0, -1]), np.array([1.0, NAN, -1.0])
    accuracy_with_ties(human, margins)
    control_gap(human, margins, margins, [1, 2, 3])
    assert human.tolist() == [1, 0, -1] and margins[0] == 1.0 and np.isnan(margins[1])


def test_it_needs_numpy_and_scipy_alone():
    tree = ast.parse(Path(agreement.__file__).read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"numpy", "scipy"}
