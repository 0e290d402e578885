"""The scorer: TRL's signature, its attributes, gradients of pixels, what it cannot score."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessor, ConvNextV2Config, ConvNextV2Model

import reward_models
from reward_models.vision.encoder import Spec, VisionReward
from reward_models.vision.heads import Outputs
from reward_models.vision.views import ViewPlan, Views


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = ConvNextV2Config(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32, initializer_range=0.2)
    plan, processor = ViewPlan(2, True, 4), ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0)
    outputs = Outputs(("overall", "colour"), ("anatomy",), 5, experts=("general", "portrait"), hidden=8)
    reward = VisionReward(ConvNextV2Model(config), Views(processor, plan), Spec(outputs, plan, "statistics"))
    for parameter in reward.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path_factory.mktemp("reward") / "final"
    reward.save(path)
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_pictures_of_any_kind_in_any_batch_get_one_score_each(folder):
    score = reward_models.load(folder, batch_size=2)
    mixed = [
        Image.fromarray(noise(40, 50)),
        noise(40, 50),
        noise(3, 36, 36, seed=1),
        None,
        "a cat",
        noise(90, 40, seed=2),
    ]
    found = score(prompts=[""] * 6, completions=mixed, tier=["x"] * 6)
    assert found[3] is None and found[4] is None
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    alone = [score(prompts=[""], completions=[one])[0] for one in mixed]
    assert [one for one in found if one is not None] == pytest.approx([a for a in alone if a is not None], abs=1e-5)
    assert score(prompts=[], completions=[]) == []
    with pytest.raises(ValueError, match="2 prompts and 1 completions"):
        score(prompts=["", ""], completions=[mixed[0]])


def test_an_attribute_is_that_attribute_and_an_unknown_one_is_refused(folder):
    pictures = [noise(40, 50), noise(50, 40, seed=1)]
    told = reward_models.load(folder).judge(pictures)
    colour = reward_models.load(folder, attribute="colour")(prompts=["", ""], completions=pictures)
    assert colour == pytest.approx([one["attributes"]["colour"] for one in told])
    for one in told:
        veto = one["veto"]["anatomy"]
        assert one["score"] == pytest.approx(one["attributes"]["overall"] + np.log(1 - veto), abs=1e-5)
        assert sum(one["distribution"]) == pytest.approx(1) and sum(one["route"].values()) == pytest.approx(1)
        assert all(value > 0 for value in one["deviation"].values())
    with pytest.raises(ValueError, match="no attribute 'beauty'; it has overall, colour"):
        reward_models.load(folder, attribute="beauty")


def test_a_face_drives_the_portraits_head(folder):
    score, picture = reward_models.load(folder), noise(80, 80)
    near, none, unknown = score.judge([picture] * 3, faces=[(0.5, 0.5, 0.9, 0.9), (), None])
    assert near["route"] == {"general": 0, "portrait": 1} and none["route"] == {"general": 1, "portrait": 0}
    assert 0 < unknown["route"]["portrait"] < 1
    assert near["score"] != score.judge([picture], faces=[(0.0, 0.0, 0.3, 0.3)])[0]["score"]


def test_tensors_score_as_files_and_their_gradient_is_the_finite_difference(folder):
    score = reward_models.load(folder, dtype="float64")
    files = [noise(40, 40), noise(40, 40, seed=1)]
    pixels = torch.stack([torch.from_numpy(one).permute(2, 0, 1) for one in files]).double() / 255
    assert score.score_tensors(pixels).tolist() == pytest.approx(score(prompts=["", ""], completions=files), abs=1e-5)
    pixels.requires_grad_()
    (gradient,) = torch.autograd.grad(score.score_tensors(pixels).double().sum(), pixels)
    assert all(gradient[0].abs().amax(0).flatten() > 0)  # the whole is seen, so every pixel counts
    way = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = 1e-3
    with torch.no_grad():
        up, down = (score.score_tensors(pixels + s * step * way).double().sum() for s in (1, -1))
    assert float((gradient * way).sum()) == pytest.approx(float(up - down) / (2 * step), rel=2e-2)


def test_frames_are_tensors_too(folder):
    score, frames = reward_models.load(folder), noise(4, 40, 40)
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255
    assert score.score_tensors(pixels).tolist() == pytest.approx(score(prompts=[""], completions=[frames]), abs=1e-6)
    with pytest.raises(ValueError, match="expected"):
        score.score_tensors(pixels[0, 0])
