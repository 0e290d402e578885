"""The length prior on hand-counted captions."""

import pytest

from reward_models.length import load


@pytest.mark.parametrize(
    ("caption", "options", "expected"),
    [
        ("A red circle moves left.", {"low": 10}, 0.5),
        ("A red circle moves left.", {"low": 5, "high": 5}, 1.0),
        ("A red circle moves left.", {"high": 4}, 0.8),
        ("A far-off circle doesn't move.", {"low": 10}, 0.5),
        ("红色圆形向左移动。", {"low": 16}, 0.5),
        ("", {"low": 3}, 0.0),
        ([{"role": "assistant", "content": [{"type": "text", "text": "One two."}]}], {"low": 4}, 0.5),
    ],
)
def test_hand_counted(caption, options, expected):
    assert load(**options)(prompts=[""], completions=[caption]) == [pytest.approx(expected)]


@pytest.mark.parametrize("options", [{"low": 5, "high": 4}, {"high": 0}, {"low": -1}])
def test_a_range_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="length: low is"):
        load(**options)
