"""A bad row costs that row, and no score is not a score of 0."""

import math

import numpy as np
import pytest

from reward_models.serving.calling import Outcome, RewardUnusable, Row, as_outcome, mean, outcomes


def rows(*completions):
    return [Row("", one) for one in completions]


def test_scores_come_back_in_order_from_one_call():
    calls = []

    def score(*, prompts, completions, n):
        calls.append((prompts, completions))
        return [len(one) + k for one, k in zip(completions, n, strict=True)]

    found = outcomes(score, [Row("p", "a", {"n": 1}), Row("q", "bb", {"n": 5})])
    assert found == [Outcome(2.0), Outcome(7.0)]
    assert calls == [(["p", "q"], ["a", "bb"])]


def test_one_bad_row_fails_alone():
    def score(*, prompts, completions):
        return [1 / len(one) for one in completions]

    assert outcomes(score, rows("ab", "", "abcd")) == [
        Outcome(0.5),
        Outcome(error="ZeroDivisionError: division by zero"),
        Outcome(0.25),
    ]


@pytest.mark.parametrize("many", [0, 1, 5])
def test_another_number_of_scores_than_rows_is_never_shifted_onto_them(many):
    found = outcomes(lambda *, prompts, completions: [1.0] * many if len(prompts) > 1 else [2.0], rows("a", "b", "c"))
    assert found == [Outcome(2.0)] * 3
    (found,) = outcomes(lambda **_: [1.0] * 2, rows("a"))
    assert found.score is None and "2 scores for 1 rows" in found.error


def test_rows_with_other_columns_go_into_other_calls():
    seen = []

    def score(*, prompts, completions, **columns):
        seen.append(sorted(columns))
        return [float(one) for one in completions]

    given = [Row("", "1", {"a": 1}), Row("", "2"), Row("", "3", {"a": 3})]
    assert [one.score for one in outcomes(score, given)] == [1.0, 2.0, 3.0]
    assert seen == [["a"], []]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1.0", [1.0], object(), b"1", 10**400])
def test_what_is_no_finite_number_is_an_error(value):
    found = as_outcome(value)
    assert found.score is None and found.error.startswith("the reward returned")


def test_numbers_of_other_libraries_are_numbers():
    import torch

    values = [np.float32(0.5), torch.tensor(0.5), np.array(0.5), 0.5]
    assert [as_outcome(value).score for value in values] == [0.5] * 4
    assert as_outcome(torch.zeros(2)).error
    assert as_outcome(None) == Outcome()


def test_a_reward_that_exits_does_not_end_its_caller():
    def score(*, prompts, completions):
        raise SystemExit(3)

    assert outcomes(score, rows("a"))[0].error == "SystemExit: 3"


def test_a_reward_that_can_score_nothing_is_heard():
    def score(*, prompts, completions):
        raise RewardUnusable("no head")

    with pytest.raises(RewardUnusable, match="no head"):
        outcomes(score, rows("a", "b"))


def test_none_is_not_zero_in_a_mean():
    found = [Outcome(1.0), Outcome(), Outcome(3.0), Outcome(error="broken")]
    assert mean(found) == 2.0  # with zeros it would be 1.0
    assert math.isnan(mean([Outcome(), Outcome()]))
