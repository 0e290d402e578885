"""Diversity is the mean over pairs of root mean squared differences."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")

from rlkit.evaluate.generator import constant, diversity


def test_diversity_by_its_formula():
    black, white = (Image.new("RGB", (16, 16), (level,) * 3) for level in (0, 255))
    assert diversity([black, black]) == 0.0 and diversity([black, white]) == pytest.approx(1.0)
    assert diversity([black, black, white]) == pytest.approx(2 / 3)  # of three pairs two differ
    half = np.zeros((16, 16, 3), np.uint8)
    half[:8] = 255
    assert diversity([black, Image.fromarray(half)]) == pytest.approx(np.sqrt(0.5))
    assert diversity([black]) is None


def test_what_is_counted_has_no_spread():
    assert constant(3.0, 1) == {"value": 3.0, "low": 3.0, "high": 3.0, "n": 1, "excluded": 0}
