"""Preprocessing equals the libraries that the checkpoints were trained with, to the last crop."""

import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as tv
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from reward_models.published.pixels import CLIP_MEAN, CLIP_STD, Square
from tests.reward_models.tiny_checkpoints import picture

SIZES = [(28, 28), (57, 41), (41, 57), (30, 64), (90, 31), (28, 35), (33, 28), (200, 60)]


@pytest.mark.parametrize("size", SIZES)
def test_round_is_torchvision_on_pil(size):
    image = picture(1, *size)
    steps = [
        T.Resize(28, T.InterpolationMode.BICUBIC),
        T.CenterCrop(28),
        T.ToTensor(),
        T.Normalize(CLIP_MEAN, CLIP_STD),
    ]
    assert torch.equal(Square(28).images([image])[0], T.Compose(steps)(image))


@pytest.mark.parametrize("size", SIZES)
def test_floor_is_transformers_on_pil(size):
    image = picture(2, *size)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    expected = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(Square(28, crop="floor").images([image]), expected, atol=1e-6, rtol=0)


def test_the_two_crops_differ_where_the_rest_is_odd():
    image = picture(3, 35, 28)  # a rest of 7: 3.5 is rounded to 4, and down to 3
    assert not torch.equal(Square(28).images([image]), Square(28, crop="floor").images([image]))


@pytest.mark.parametrize("size", SIZES)
def test_squash_is_siglips(size):
    image = picture(4, *size)
    half = (0.5, 0.5, 0.5)
    expected = SiglipImageProcessorPil(size={"height": 28, "width": 28})(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(Square(28, half, half, crop="squash").images([image]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("antialias", [True, False])
def test_torch_is_hpsv2s_transform(size, antialias):
    image = picture(5, *size)
    resize = T.Resize(28, T.InterpolationMode.BICUBIC, antialias=antialias)
    expected = T.Compose([T.ToTensor(), resize, T.CenterCrop(28), T.Normalize(CLIP_MEAN, CLIP_STD)])(image)
    found = Square(28, resize="torch", antialias=antialias).images([image])[0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_antialiasing_matters_for_large_pictures():
    image = picture(6, 60, 60).resize((256, 256), 0)
    with_it, without = (Square(28, resize="torch", antialias=one).images([image]) for one in (True, False))
    assert (with_it - without).abs().max() > 0.05


@pytest.mark.parametrize(
    "square", [Square(28), Square(28, crop="floor"), Square(28, crop="squash"), Square(28, resize="torch")]
)
@pytest.mark.parametrize("size", SIZES)
def test_tensors_are_pictures_but_for_rounding_to_8_bits(square, size):
    image = picture(7, *size)
    found = square.tensors(tv.to_tensor(image)[None])
    apart = (found - square.images([image])).abs() * 0.27 * 255  # in levels of 8 bits
    assert apart.max() < (1e-2 if square.resize == "torch" else 4)


def test_pictures_of_several_sizes_make_one_batch():
    assert Square(28).images([picture(8, *size) for size in SIZES]).shape == (len(SIZES), 3, 28, 28)
