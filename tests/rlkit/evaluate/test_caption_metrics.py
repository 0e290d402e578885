"""Caption metrics against their formulas, scipy's Kendall tau and scikit-learn's precision and recall."""

import itertools
import math

import numpy as np
import pytest

from rlkit.evaluate import caption_metrics as metrics

A, B, C, D = ("red circle", "moves"), ("blue square", "spins"), ("green star", "grows"), ("red star", "fades")


@pytest.mark.parametrize(
    ("told", "exact"),
    [([A, B, C], 1), ([A, C, B], 0), ([A, B], 0), ([A, B, C, D], 0), ([A, B, C, C], 0), ([], 0)],
)
def test_order_exact_wants_all_events_in_order_and_nothing_else(told, exact):
    assert metrics.order_exact([A, B, C], told) == exact


def test_order_tau_equals_scipy_for_every_permutation_of_four():
    kendalltau = pytest.importorskip("scipy.stats").kendalltau
    for told in itertools.permutations([A, B, C, D]):
        places = [told.index(event) for event in (A, B, C, D)]
        expected = kendalltau(range(4), places, variant="b").statistic
        assert metrics.order_tau([A, B, C, D], list(told)) == pytest.approx(expected)


def test_order_tau_looks_at_matched_events_only():
    assert metrics.order_tau([A, B, C], [C, D, A]) == -1
    assert metrics.order_tau([A, B, C], [A, D, C]) == 1


def test_order_tau_is_nan_below_two_matched_events():
    assert math.isnan(metrics.order_tau([A, B, C], [A, D]))
    assert math.isnan(metrics.order_tau([A, B, C], []))


def test_order_tau_pairs_repeated_events_in_turn():
    assert metrics.order_tau([A, B, A], [A, B, A]) == 1
    assert metrics.order_tau([A, A], [A, A]) == 1


def test_precision_and_recall_are_those_of_multisets():
    true, told = [A, A, B], [A, B, B, D]
    assert metrics.event_precision(true, told) == 2 / 4
    assert metrics.event_recall(true, told) == 2 / 3
    assert metrics.invented_events(true, told) == 2
    assert metrics.score(true, told, 0, "")["event_f1"] == pytest.approx(2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))


def test_precision_and_recall_equal_sklearn_on_sets():
    sklearn = pytest.importorskip("sklearn.metrics")
    events = [A, B, C, D]
    for true, told in itertools.product([[A, B], [A, B, C], [D]], [[A], [C, D], [A, B, C, D], []]):
        y_true, y_pred = [e in true for e in events], [e in told for e in events]
        expected = sklearn.precision_recall_fscore_support(y_true, y_pred, average="binary", zero_division=0)
        scores = metrics.score(true, told, 0, "")
        found = scores["event_precision"], scores["event_recall"], scores["event_f1"]
        assert found == pytest.approx(expected[:3])


def test_silence_is_not_precise_unless_nothing_happened():
    assert metrics.event_precision([A], []) == 0
    assert metrics.event_precision([], []) == metrics.event_recall([], []) == 1
    assert metrics.event_precision([], [A]) == 0


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("A red circle moves left.", 5),
        ("It doesn't stop half-way -- really!", 5),
        ("红色的圆向左移动。", 8),
        ("红圆 moves 3 次", 5),
        ("", 0),
    ],
)
def test_length_counts_words_and_chinese_characters(text, length):
    assert metrics.length_words(text) == length


def test_repetition_is_the_share_of_repeated_four_grams():
    assert metrics.repetition("a b c d a b c d") == pytest.approx(1 - 4 / 5)
    assert metrics.repetition("the ball rolls. The ball stops now") == 0
    assert metrics.repetition("go go go go go go") == pytest.approx(1 - 1 / 3)
    assert metrics.repetition("a b c") == 0
    assert metrics.repetition("红圆移动红圆移动") == pytest.approx(1 - 4 / 5)


def test_score_gives_every_metric_as_a_float():
    scores = metrics.score([A, B], [A, B], 2, "A red circle moves.")
    assert tuple(scores) == metrics.METRICS
    assert all(isinstance(value, float) for value in scores.values())
    assert scores["extra_sentences"] == 2


def test_summarise_leaves_undefined_tau_out_and_counts_it():
    rows = [metrics.score([A, B], told, 0, "") for told in ([A, B], [B, A], [A], [A, B])]
    tau = metrics.summarise(rows)["order_tau"]
    assert tau["value"] == pytest.approx(np.mean([1, -1, 1]))
    assert (tau["n"], tau["excluded"]) == (3, 1)
