"""The order-aware caption reward: exact on hand-computed cases, and TRL's signature."""

import pytest

from reward_models.event_order import load, reward

TRUTH = ["a", "b", "c"]


def test_a_perfect_caption_scores_one():
    assert reward(TRUTH, TRUTH, extra=0) == 1.0


@pytest.mark.parametrize(
    ("told", "extra", "expected"),
    [
        (["b", "a", "c"], 0, (1 + 1 / 3) / 2),  # one of three pairs turned: tau = (2 - 1) / 3
        (["c", "b", "a"], 0, 0.0),  # tau = -1
        (["a", "b"], 0, 2 * 1 * (2 / 3) / (1 + 2 / 3)),  # precision 1, recall 2/3
        (["a", "b", "c", "d"], 0, 2 * 0.75 * 1 / 1.75),  # precision 3/4
        (["a", "b", "c"], 2, 0.8**2),
        (["d", "e"], 0, 0.0),
        ([], 0, 0.0),
        (["a", "a", "b", "c"], 0, 2 * 0.75 * 1 / 1.75),  # told twice is told once too often
    ],
)
def test_hand_computed(told, extra, expected):
    assert reward(TRUTH, told, extra) == pytest.approx(expected)


def test_nothing_to_tell_and_nothing_told_is_right():
    assert reward([], [], 0) == 1.0
    assert reward([], ["a"], 0) == 0.0


def test_signature_is_trls_and_unknown_truth_scores_none():
    score = load(parse=lambda text: (text.split(), 0))
    values = score(
        prompts=["p"] * 3,
        completions=["a b c", [{"role": "assistant", "content": [{"type": "text", "text": "a b c"}]}], "a b c"],
        events=[TRUTH, TRUTH, None],
        trainer_state=None,
    )
    assert values == [1.0, 1.0, None]


def test_events_may_be_lists_as_json_gives_them():
    score = load(parse=lambda text: ([("red ball", "grows")], 0))
    assert score(prompts=["p"], completions=["x"], events=[[["red ball", "grows"]]]) == [1.0]
