"""Every reward that loads a published image checkpoint: as its original scores, and what all of them promise."""

import warnings

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from PIL import Image

import reward_models
from reward_models.published.checkpoint import CheckpointError
from tests.reward_models.tiny_checkpoints import IMAGE_REWARDS, MODULES, PROMPTS, clip_frames, picture, pictures

BLIND = ("laion_v2", "laion_v2_5")

# Printed by the original code on these very checkpoints, prompts and pictures: OpenCLIP as in hpsv2 1.2.0 (on torch
# 2.14); t2v_metrics 3.0, image-reward 1.5, simple-aesthetics-predictor 0.1.2, aesthetic-predictor-v2-5 2024.12.18.1
# and the script of PickScore's README (on transformers 4.45.2).
ORIGINALS = {
    "clip_flant5": [0.001718, 0.006024, 0.004488, 0.006141],
    "hps_v2": [-0.27352, -0.34713, -0.17648, -0.41706],
    "image_reward": [-0.78279, -1.0753, -1.19903, -0.08245],
    "laion_v2": [0.62532, 0.52012, 0.57809, 0.56089],
    "laion_v2_5": [0.10389, -0.16265, 0.23285, -0.06051],
    "pick_score": [-5.42536, 16.68517, -0.59221, -6.21559],
}


class Known:
    """A tiny checkpoint of a reward, loaded once a session."""

    def __init__(self, name, folder):
        folder.mkdir()
        self.name, self.options = name, IMAGE_REWARDS[name](folder)
        self.score = self.load()

    def load(self, **options):
        return reward_models.load(MODULES.get(self.name, self.name), **(self.options | options))

    def __call__(self, prompts, completions, **columns):
        return self.score(prompts=prompts, completions=completions, **columns)


@pytest.fixture(scope="session", params=IMAGE_REWARDS)
def known(request, tmp_path_factory):
    return Known(request.param, tmp_path_factory.mktemp("known") / request.param)


@pytest.fixture(scope="session")
def plain(known):
    """The scores of four pictures for their prompts."""
    return known(PROMPTS, pictures())


def test_scores_as_the_original_code_does(known, plain):
    if known.name not in ORIGINALS:
        pytest.skip("its original is OpenAI's clip package; test_clip_score compares with transformers")
    assert plain == pytest.approx(ORIGINALS[known.name], abs=2e-5 if known.name != "clip_flant5" else 1e-6)


def test_the_batch_a_row_is_in_does_not_change_its_score(known, plain):
    for batch_size in (1, 3):
        assert known.load(batch_size=batch_size)(prompts=PROMPTS, completions=pictures()) == pytest.approx(
            plain, abs=1e-4
        )
    order = [2, 0, 3, 1]
    shuffled = known([PROMPTS[i] for i in order], [pictures()[i] for i in order])
    assert shuffled == pytest.approx([plain[i] for i in order], abs=1e-4)


def test_what_is_missing_has_no_score_and_the_rest_keeps_its_own(known, plain):
    shown = [pictures()[0], None, pictures()[2], pictures()[3]]
    found = known([PROMPTS[0], PROMPTS[1], None, PROMPTS[3]], shown)
    assert found[1] is None
    assert [found[0], found[3]] == pytest.approx([plain[0], plain[3]], abs=1e-4)
    assert found[2] == (pytest.approx(plain[2], abs=1e-4) if known.name in BLIND else None)
    assert known([PROMPTS[0]], [None]) == [None]
    assert known([], []) == []


def test_the_prompt_matters_unless_the_reward_is_blind(known, plain):
    other = known(PROMPTS[::-1], pictures())
    if known.name in BLIND:
        assert other == pytest.approx(plain, abs=1e-5)
    elif known.name != "clip_score":  # which clips at 0
        assert all(abs(a - b) > 1e-3 * np.ptp(plain) for a, b in zip(other, plain, strict=True))


def test_roles_cannot_change_places(known):
    with pytest.raises(TypeError):
        known.score(PROMPTS, pictures())
    if known.name in BLIND:
        return
    with pytest.raises(ValueError, match=r"completions\[0\] is text, and there is no column `images`"):
        known(pictures(), PROMPTS)
    with pytest.raises(ValueError, match=r"prompts\[0\] is Image, expected text or messages. Have .* changed places"):
        known(pictures(), pictures())


def test_a_caption_is_judged_by_the_column_of_pictures(known, plain):
    messages = [[{"role": "assistant", "content": [{"type": "text", "text": prompt}]}] for prompt in PROMPTS]
    for captions in (PROMPTS, messages):
        for column in (pictures(), [[one] for one in pictures()]):
            found = known(["Describe it."] * 4, captions, images=column, trainer_state=None)
            assert found == pytest.approx(plain, abs=1e-4)


def test_a_video_scores_the_mean_over_its_frames(known):
    frames = clip_frames(3, 5)
    each = known([PROMPTS[0]] * 5, [Image.fromarray(frame) for frame in frames])
    assert known([PROMPTS[0]], [frames]) == pytest.approx([np.mean(each)], abs=1e-4)
    assert known(["Describe."], [PROMPTS[0]], videos=[frames]) == pytest.approx([np.mean(each)], abs=1e-4)
    some = known.load(max_frames=3, batch_size=2)(prompts=[PROMPTS[0]], completions=[frames])
    assert some == pytest.approx([np.mean([each[0], each[2], each[4]])], abs=1e-4)


def test_tensors_score_as_pictures_do(known, plain):
    for prompt, image, expected in zip(PROMPTS, pictures(), plain, strict=True):
        found = known.score.score_tensors(prompts=[prompt], pixels=tv.to_tensor(image)[None])
        assert found.shape == (1,) and found.dtype == torch.float32
        # PIL rounds resized pixels to 8 bits
        assert found.item() == pytest.approx(expected, abs=0.15 if known.name == "pick_score" else 0.02)


def test_going_up_the_gradient_raises_the_score(known, plain):
    pixels = torch.stack([tv.to_tensor(picture(seed)) for seed in (1, 2)]) * 0.8 + 0.1
    prompts = [PROMPTS[1], PROMPTS[3]]
    for _ in range(3):
        pixels.requires_grad_(True)
        before = known.score.score_tensors(prompts=prompts, pixels=pixels)
        (slope,) = torch.autograd.grad(before.sum(), pixels)
        assert slope.isfinite().all()
        if known.name == "clip_score" and not before.all():  # clipped at 0: no slope there
            assert not slope[before == 0].any()
        pixels = (pixels + 1e-3 * slope / slope.abs().amax().clamp(min=1e-12)).detach()
    after = known.score.score_tensors(prompts=prompts, pixels=pixels)
    start = known.score.score_tensors(prompts=prompts, pixels=tv.to_tensor(picture(1))[None].repeat(2, 1, 1, 1))
    assert start.shape == (2,)
    assert (after >= before.detach()).all() and after.sum() > before.sum()


def test_half_precision_stays_near_full(known, plain):
    half = known.load(dtype="bfloat16")(prompts=PROMPTS, completions=pictures())
    spread = {"pick_score": 20.0, "image_reward": 1.0, "hps_v2": 0.25, "clip_score": 0.5}.get(known.name, 0.2)
    assert half == pytest.approx(plain, abs=0.1 * spread)
    with pytest.raises(ValueError, match="dtype is 'bf16', expected one of float32"):
        known.load(dtype="bf16")


def test_a_prompt_beyond_the_limit_is_cut_and_said_so(known):
    if known.name in (*BLIND, "clip_flant5"):  # T5's positions are relative
        return
    limit, letters = (35, 33) if known.name == "image_reward" else (77, 75)
    prefix = len("A photo depicts ".replace(" ", "")) if known.name == "clip_score" else 0
    unit = "dogs " if known.name == "image_reward" else "a "
    fits, longer = unit * (letters - prefix), unit * (letters - prefix) + "night " * 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = known([fits], [picture(0)])
    with pytest.warns(UserWarning, match=rf"1 of 2 prompts are longer than {limit} tokens \(the longest has \d+\)"):
        found = known([longer, "a boat"], [picture(0), picture(0)])
    assert found[0] == pytest.approx(expected[0], abs=1e-5)


def test_pictures_of_other_modes_are_their_rgb(known):
    image = picture(4)
    expected = known([PROMPTS[0]] * 3, [image, image.convert("L").convert("RGB"), image])
    found = known([PROMPTS[0]] * 3, [image.convert("RGBA"), image.convert("L"), np.asarray(image)[None]])
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"uint8 \[4, 4, 3\]"),
        (np.zeros((2, 4, 4, 3), np.float32), r"float32 \[2, 4, 4, 3\]"),
        (np.zeros((2, 3, 4, 4), np.uint8), r"uint8 \[2, 3, 4, 4\]"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"uint8 \[0, 4, 4, 3\]"),
        (torch.zeros(2, 4, 4, 3), "Tensor"),
        ([], "list"),
    ],
)
def test_pictures_of_another_form_are_refused(known, picture, found):
    with pytest.raises(ValueError, match=rf"completions\[1\] is {found}, expected a PIL image or frames uint8"):
        known(["a", "b"], [pictures()[0], picture])


def test_columns_of_unequal_length_and_tensors_of_another_range_are_refused(known):
    with pytest.raises(ValueError, match=r"columns of one length expected, found .*'prompts': 2, 'completions': 1"):
        known(["a", "b"], pictures()[:1])
    for pixels, said in (
        (torch.rand(1, 3, 8, 8) * 2 - 1, r"expected \[0, 1\]"),
        (torch.rand(1, 3, 8, 8) * 255, r"expected \[0, 1\]"),
        (torch.rand(1, 8, 8, 3), r"expected floats in \[0, 1\], \[batch, 3, height, width\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "expected floats"),
    ):
        with pytest.raises(ValueError, match=said):
            known.score.score_tensors(prompts=["a"], pixels=pixels)
    if known.name not in BLIND:
        with pytest.raises(ValueError, match="2 prompts and 1 pictures"):
            known.score.score_tensors(prompts=["a", "b"], pixels=torch.rand(1, 3, 8, 8))


def test_a_model_that_is_not_there_says_what_to_do(known, tmp_path):
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        known.load(model=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"nobody/nothing"):
        known.load(model="nobody/nothing", **({"file": "head.pth"} if known.name in BLIND else {}))
