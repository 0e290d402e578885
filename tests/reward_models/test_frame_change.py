"""Motion is the mean absolute difference of neighbouring frames, steadiness VBench's complement of it."""

import numpy as np
import pytest

from reward_models import load


def clip(*levels):
    return np.stack([np.full((4, 6, 3), level, np.uint8) for level in levels])


def test_by_its_formula():
    clips = [clip(0, 255, 0), clip(10, 10, 10), clip(0, 51, 0, 51)]
    steady = load("frame_change")(prompts=[""] * 3, completions=clips)
    moving = load("frame_change", measure="motion")(prompts=[""] * 3, completions=clips)
    assert moving == pytest.approx([1.0, 0.0, 0.2]) and steady == pytest.approx([0.0, 1.0, 0.8])


def test_what_has_no_neighbouring_frames_has_no_score():
    pictures = [clip(3), clip(3, 4)[0], clip(3, 4).astype(float), "text"]
    assert load("frame_change")(completions=pictures) == [None] * 4
    with pytest.raises(ValueError, match="steadiness or motion"):
        load("frame_change", measure="speed")
