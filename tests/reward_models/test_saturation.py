"""Saturation is the mean distance between the largest and the smallest channel; what is no picture has none."""

import numpy as np
from PIL import Image

import reward_models


def test_by_its_formula_on_pictures_arrays_and_frames():
    score = reward_models.load("saturation")
    grey, red = np.full((32, 32, 3), 90, np.uint8), np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    half = np.concatenate([grey, red])  # half of its pixels are pure
    found = score(prompts=[""] * 4, completions=[grey, Image.fromarray(red), half, np.stack([grey, red])])
    assert found == [0.0, 1.0, 0.5, 0.5]
    assert score.__name__ == "saturation"


def test_what_is_no_picture_has_no_score():
    score = reward_models.load("saturation")
    assert score(prompts=["", ""], completions=[np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]) == [
        None,
        None,
    ]
