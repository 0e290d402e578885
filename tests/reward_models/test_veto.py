"""The veto falls on phrases, on captions that repeat themselves and on empty ones, and on nothing else."""

import pytest

from reward_models.veto import load, repetition


def test_what_is_vetoed():
    captions = ["As an AI, I see it.", "A red circle moves left.", " . ", "it spins and " * 6]
    score = load(phrases=["as an ai"])
    assert score(prompts=[""] * 4, completions=captions) == [-1.0, 0.0, -1.0, -1.0]
    lenient = load(max_repetition=1.0, empty=False)
    assert lenient(prompts=[""] * 4, completions=captions) == [0.0] * 4


def test_repetition_is_the_share_of_runs_seen_before():
    assert repetition("a b c a b c") == pytest.approx(1 - 3 / 4)  # abc bca cab abc
    assert repetition("a b") == 0.0


def test_an_empty_phrase_is_refused():
    with pytest.raises(ValueError, match="would veto every caption"):
        load(phrases=["x", " "])
