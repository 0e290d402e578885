"""Windows are the picture's own pixels, at the right places, the same for files and tensors."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessor, Qwen2VLImageProcessor

from reward_models.vision.views import CROP, PADDING, REGION, WHOLE, ViewPlan, Views, frames_of, places, window_of

MEAN, DEVIATION = torch.tensor([0.5, 0.45, 0.4]), torch.tensor([0.2, 0.25, 0.3])


@pytest.fixture
def make_views():
    scale = {"image_mean": MEAN.tolist(), "image_std": DEVIATION.tolist()}
    processor = ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0, **scale)
    return lambda **plan: Views(processor, ViewPlan(**plan))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def normal(pixels):
    return (torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255 - MEAN[:, None, None]) / DEVIATION[:, None, None]


def test_crops_are_pixels_of_the_picture_unscaled(make_views):
    picture = noise(50, 70)
    batch = make_views(crops=3, whole=False).batch([picture])
    assert batch["pixel_values"].shape == (1, 3, 3, 32, 32) and batch["view"].tolist() == [[CROP] * 3]
    for crop, (y, x) in zip(batch["pixel_values"][0], places((50, 70), 32, 3, None), strict=True):
        torch.testing.assert_close(crop, normal(picture[y : y + 32, x : x + 32]), atol=1e-5, rtol=0)


def test_windows_lie_within_and_spread(make_views):
    spots = np.array(places((200, 300), 32, 16, None))
    assert (spots >= 0).all() and (spots <= [168, 268]).all()
    assert all(len(np.unique(spots[:, axis] * 4 // room)) == 4 for axis, room in ((0, 169), (1, 269)))
    assert places((32, 32), 32, 2, None) == [(0, 0), (0, 0)]
    draws = [places((99, 80), 32, 5, np.random.default_rng(7)) for _ in range(2)]
    assert draws[0] == draws[1] != places((99, 80), 32, 5, None)


def test_a_small_picture_is_mirrored_not_scaled(make_views):
    picture = noise(20, 40)
    crop = make_views(crops=1, whole=False).batch([picture])["pixel_values"][0, 0]
    mirrored = np.concatenate([picture, picture[::-1]])[:32]
    torch.testing.assert_close(crop, normal(mirrored[:, 4:36]), atol=1e-5, rtol=0)


def test_the_face_has_a_window_of_its_own(make_views):
    picture = noise(100, 100)
    batch = make_views(crops=1, whole=True).batch([picture] * 3, [(0.4, 0.5, 0.6, 0.9), (), None])
    assert batch["view"].tolist() == [[CROP, REGION, WHOLE], [CROP, WHOLE, PADDING], [CROP, WHOLE, PADDING]]
    assert batch["expert"].tolist() == [1, 0, -1]
    torch.testing.assert_close(batch["pixel_values"][0, 1], normal(picture[54:86, 34:66]), atol=1e-5, rtol=0)


def test_frames_are_spread_evenly_and_timed(make_views):
    batch = make_views(crops=2, whole=True, frames=3).batch([noise(5, 40, 40)])
    assert batch["view"].tolist() == [[CROP] * 3 + [WHOLE] * 3]
    assert batch["time"].tolist() == [[0, 0.5, 1] * 2]


def test_a_file_and_its_tensor_give_the_same_windows(make_views):
    views, picture = make_views(crops=2), noise(60, 90)
    tensor = torch.from_numpy(picture).permute(2, 0, 1).float() / 255
    batches = [views.batch([one])["pixel_values"] for one in (picture, Image.fromarray(picture), tensor)]
    assert torch.equal(batches[0], batches[1]) and torch.equal(batches[0], batches[2])


def test_what_is_no_picture_is_refused(make_views):
    for wrong in (np.zeros((4, 4)), np.zeros((4, 4, 3)), torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(4, 4)):
        with pytest.raises(ValueError, match="expected"):
            frames_of(wrong)
    with pytest.raises(ValueError, match="sees nothing"):
        ViewPlan(crops=0, whole=False)
    with pytest.raises(ValueError, match="expected a square"):
        window_of(Qwen2VLImageProcessor())
