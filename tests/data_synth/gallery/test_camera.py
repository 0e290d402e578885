import numpy as np
import pytest
from PIL import Image

from data_synth.gallery.camera import SCALES, taken
from data_synth.gallery.scenes import render

PLAIN = np.full((64, 80, 3), 128, np.uint8)


def local_deviation(image):
    return np.abs(np.diff(image.astype(int), axis=1)).mean()


def test_the_same_draw_takes_the_same_picture():
    one, two = (taken(PLAIN, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, taken(PLAIN, np.random.default_rng(4)))


def test_the_shape_stays_and_the_size_is_one_of_the_scales():
    for seed in range(12):
        found = taken(PLAIN, np.random.default_rng(seed))
        assert found.dtype == np.uint8
        assert found.shape[:2] in {(round(64 * s), round(80 * s)) for s in SCALES}


def test_a_drawing_gets_no_grain():
    drawings = [local_deviation(taken(PLAIN, np.random.default_rng(seed), clean=True)) for seed in range(12)]
    photos = [local_deviation(taken(PLAIN, np.random.default_rng(seed))) for seed in range(12)]
    assert max(drawings) < 0.3 < np.mean(photos)


@pytest.mark.parametrize("picture", [0, 3])
def test_what_is_there_stays_there(picture):
    """No fault: light and dark lie where they lay."""
    image = render(picture, size=64).image
    for seed in range(4):
        found = Image.fromarray(taken(image, np.random.default_rng(seed)))
        small = np.asarray(found.resize(image.shape[1::-1], Image.Resampling.BOX))
        assert np.corrcoef(small.mean(2).ravel(), image.mean(2).ravel())[0, 1] > 0.9
