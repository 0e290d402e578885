"""What a rewrite keeps of a short prompt, counted by hand."""

import pytest

import reward_models
from reward_models.kept_meaning import kept


@pytest.mark.parametrize(
    ("prompt", "rewrite", "expected"),
    [
        ("two red balls", "Two red balls on a grey background, close-up.", 1.0),
        ("two red balls", "Two red bars on a grey background, close-up.", 2 / 3),
        ("two red balls", "A blue pole.", 0.0),
        ("a red ball, close-up", "A red ball on a teal background, wide shot.", 3 / 4),
        ("a red ball on a teal background", "A red ball on a teal background, wide shot.", 1.0),
        ("a red ball", "something else", 0.0),
        ("foxes in the snow", "A fox, running through deep snow at dawn", 0.5),  # foxes -> foxe
        ("an old man with a lantern", "An old man holds up a bright lantern, night, oil painting", 1.0),
        ("cats", "two cat drawings", 1.0),
        ("", "anything", None),
        ("the", "anything", None),
    ],
)
def test_hand_counted(prompt, rewrite, expected):
    assert kept(prompt, rewrite) == (None if expected is None else pytest.approx(expected))


def test_texts_and_messages_alike():
    score = reward_models.load("kept_meaning")
    said = [[{"role": "assistant", "content": "Two red bars."}], "Two red balls."]
    assert score(prompts=["two red balls"] * 2, completions=said) == pytest.approx([2 / 3, 1.0])
