"""The world's pixel rules: truth scores high, a wrong word lowers its own part, what is unreadable is None."""

import numpy as np
import pytest
import torch
from PIL import Image

import reward_models
from data_synth.world import pictures
from data_synth.world.render import _BACKGROUNDS, _COLOURS, _RADIUS
from reward_models import world_picture

CHANGES = {"count": 1, "colour": "blue", "shape": "pole", "background": "pink", "shot": "wide shot"}
SHOWN = pictures.Description(3, "red", "ball", "grey", "close-up")


def test_palette_and_sizes_are_those_the_world_draws_with():
    assert world_picture.COLOURS == _COLOURS and world_picture.BACKGROUNDS == _BACKGROUNDS
    assert world_picture.RADIUS == _RADIUS and world_picture._SMALLER == pictures._SMALLER


def test_a_prompt_is_read_back_whole():
    for shown in pictures.drawn(60):
        assert world_picture.asked(pictures.prompt(shown)) == shown._asdict()


def test_true_pictures_score_near_1():
    shown = pictures.drawn(80, split="test")
    score = reward_models.load("world_picture")
    found = score(
        prompts=[pictures.prompt(one) for one in shown], completions=[pictures.render(one, 5) for one in shown]
    )
    assert np.mean(found) > 0.95 and min(found) > 0.8


@pytest.mark.parametrize("part", world_picture.PARTS)
def test_a_wrong_word_lowers_its_part_and_no_other(part):
    picture = pictures.render(SHOWN, 0)
    wrong = pictures.prompt(SHOWN._replace(**{part: CHANGES[part]}))
    right = world_picture.parts_of(picture, world_picture.asked(pictures.prompt(SHOWN)))
    found = world_picture.parts_of(picture, world_picture.asked(wrong))
    assert found[part] < right[part] - 0.3
    alone = set(world_picture.PARTS) - {part, "shot"}  # a size is of a shape and a number
    assert all(found[other] == right[other] for other in alone)


def test_parts_choose_what_is_scored():
    wrong = pictures.prompt(SHOWN._replace(background="pink"))
    score = reward_models.load("world_picture", parts=["colour"])
    assert score(prompts=[wrong], completions=[pictures.render(SHOWN, 0)])[0] > 0.99
    with pytest.raises(ValueError, match="hue"):
        reward_models.load("world_picture", parts=["hue"])


def as_tensor(shown, seed=0):
    return torch.from_numpy(pictures.render(shown, seed)).permute(2, 0, 1) / 255


def test_tensors_score_as_pictures_do():
    shown = pictures.drawn(40, split="test")
    texts = [pictures.prompt(one) for one in shown]
    for parts, near in ((["colour", "background"], 0.03), (["background"], 0.03), (["shape"], 0.12), (["shot"], 0.12)):
        score = reward_models.load("world_picture", parts=parts)
        found = score.score_tensors(prompts=texts, pixels=torch.stack([as_tensor(one) for one in shown]))
        expected = score(prompts=texts, completions=[pictures.render(one, 0) for one in shown])
        assert np.abs(np.array(found) - expected).max() < near, parts
    assert score.score_tensors(prompts=["A cat."], pixels=as_tensor(SHOWN)[None]).isnan().all()


@pytest.mark.parametrize("parts", [["colour", "background"], ["shape", "shot"]])
def test_the_gradient_of_tensors_is_that_of_finite_differences(parts):
    score = reward_models.load("world_picture", parts=parts).score_tensors
    text = pictures.prompt(SHOWN._replace(background="pink", colour="yellow", shape="ring", shot="wide shot"))
    pixels = as_tensor(SHOWN)[None].requires_grad_()
    (gradient,) = torch.autograd.grad(score(prompts=[text], pixels=pixels).sum(), pixels)
    assert (gradient != 0).float().mean() > 0.1  # border and things
    way = gradient / gradient.norm()
    with torch.no_grad():
        up, down = (score(prompts=[text], pixels=pixels + step * way).double().sum() for step in (0.05, -0.05))
    assert ((up - down) / 0.1).item() == pytest.approx(gradient.norm().item(), rel=0.02)


def test_the_number_of_things_has_no_gradient():
    for options in ({}, {"parts": ["colour", "count"]}, {"measure": "saturation"}):
        with pytest.raises(AttributeError, match="score_tensors"):
            _ = reward_models.load("world_picture", **options).score_tensors


def test_no_score_is_none_and_pil_is_taken():
    score = reward_models.load("world_picture")
    picture = pictures.render(SHOWN, 0)
    text = pictures.prompt(SHOWN)
    found = score(
        prompts=["A cat.", text, text, text],
        completions=[picture, Image.fromarray(picture), np.zeros((4, 4, 3), np.uint8), picture],
    )
    assert found[0] is None and found[2] is None and found[1] == found[3] > 0.9


def test_an_empty_picture_scores_its_background_alone():
    empty = np.full((32, 32, 3), _BACKGROUNDS["grey"], np.uint8)
    found = world_picture.parts_of(empty, world_picture.asked(pictures.prompt(SHOWN)))
    assert found == {"background": 1.0, "colour": 0.0, "shape": 0.0, "count": 0.0, "shot": 0.0}


def test_saturation_is_largest_minus_smallest_channel():
    score = reward_models.load("world_picture", measure="saturation")
    grey, red = np.full((32, 32, 3), 90, np.uint8), np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert score(prompts=["", ""], completions=[grey, red]) == [0.0, 1.0]
