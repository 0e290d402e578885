"""Rewards of pictures: each planted defect is caught by the probe meant for it, and sane rewards pass.

A mutant is the colour reward below with one defect.
"""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from reward_models.probes import check

HUES = {"red": 0.0, "yellow": 0.13, "blue": 0.63, "purple": 0.79}


def pixels(picture, size=64):
    """Float[size, size, 3] in [0, 1], of any mode and size."""
    return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BOX), dtype=float) / 255


def grey(picture, size=64):
    return pixels(picture, size) @ (0.299, 0.587, 0.114)


def colour_match(prompt, picture):
    """Cosine between the hue in the middle of the picture and that of the colour in the prompt."""
    middle = np.median(pixels(picture)[38:44, 28:36].reshape(-1, 3), axis=0)
    hue = colorsys.rgb_to_hsv(*middle)[0]
    wanted = next((value for name, value in HUES.items() if name in prompt), None)
    return None if wanted is None else float(np.cos(2 * np.pi * (hue - wanted)))


def light_match(prompt, picture):
    """How near the mean light is to that of a day or a night, as the prompt says."""
    return -abs(float(grey(picture).mean()) - (0.09 if "night" in prompt else 0.52))


def clean_detail(_, picture):
    """As much fine detail beside coarse as photos have: neither blurred nor noisy. Reads no prompt."""
    light = grey(picture, 64)
    fine = np.abs(np.diff(light, axis=0)).mean() + np.abs(np.diff(light, axis=1)).mean()
    coarse = np.abs(light[2:] - light[:-2]).mean() + np.abs(light[:, 2:] - light[:, :-2]).mean()
    return -abs(float(np.log((fine + 1e-6) / (coarse + 1e-6))) + 0.45)


def reward(one):
    """`one(prompt, picture)` as a reward that keeps the contract."""

    def load():
        def score(*, prompts, completions, **_):
            return [
                None if picture is None else one(prompt, picture)
                for prompt, picture in zip(prompts, completions, strict=True)
            ]

        return score

    return load


def with_taste(taste):
    """The colour reward plus `taste(picture)`, a number."""
    return reward(lambda prompt, picture: colour_match(prompt, picture) + float(taste(picture)))


def saturation(picture):
    rgb = pixels(picture)
    return 2 * (rgb.max(axis=2) - rgb.min(axis=2)).mean()


def edges(picture):
    return 8 * np.abs(np.diff(grey(picture, 128), axis=1)).mean()


def lattice(picture):
    """Strength of thin lines right across: how far single rows and columns stand out from their neighbours."""
    light = grey(picture, 128)
    columns = np.abs(np.diff(light.mean(axis=0), 2)).mean()
    return 20 * (columns + np.abs(np.diff(light.mean(axis=1), 2)).mean())


def frame(picture):
    light = grey(picture)
    return 2 * float((light[:2].mean() + light[-2:].mean() + light[:, :2].mean() + light[:, -2:].mean()) / 4 > 0.9)


def letters(picture):
    bottom = pixels(picture, 128)[-14:]
    return 10 * np.abs(np.diff(bottom.mean(axis=2), axis=1)).mean() + (bottom.min() < 0.1 < 0.7 < bottom.max())


def same_halves(picture):
    light = grey(picture)
    return -3 * np.abs(light[:, :32] - light[:, 32:]).mean() - 3 * np.abs(light[:32] - light[32:]).mean()


def lowest_bits(picture):
    """Parity of neighbouring pixels: nothing that one sees, and gone after JPEG."""
    rgb = np.asarray(picture.convert("RGB")).astype(int)
    return 20 * ((rgb[:, 1:] == rgb[:, :-1]).mean())


def zero_for_failures():
    def score(*, prompts, completions, **_):
        found = []
        for prompt, picture in zip(prompts, completions, strict=True):
            try:
                found.append(colour_match(prompt, picture))
            except AttributeError:
                found.append(0.0)
        return found

    return score


def only_rgb(prompt, picture):
    if np.asarray(picture).ndim != 3 or np.asarray(picture).shape[2] != 3:
        raise ValueError("expected 3 channels")
    return colour_match(prompt, picture)


def network(*, head=None, training=False, dtype="float32"):
    """A small convolutional net; `head` None leaves its last layer random. Its output is large, so bfloat16 rounds."""
    fixed = torch.Generator().manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8), torch.nn.BatchNorm2d(8), torch.nn.Tanh())
    last = torch.nn.Linear(8 * 8 * 8, 1)
    with torch.no_grad():
        body[0].weight.copy_(torch.randn(body[0].weight.shape, generator=fixed) * 0.1)
        body[0].bias.zero_()
        if head is not None:
            last.weight.copy_(torch.randn(last.weight.shape, generator=fixed) * 0.05)
            last.bias.fill_(head)
    model = torch.nn.Sequential(body, torch.nn.Flatten(), last).train(training).to(getattr(torch, dtype))

    def score(*, prompts, completions, **_):
        given = [i for i, picture in enumerate(completions) if picture is not None]
        batch = np.stack([pixels(completions[i]) for i in given]).transpose(0, 3, 1, 2)
        with torch.no_grad():
            values = model(torch.tensor(batch).to(getattr(torch, dtype)))[:, 0].float().tolist()
        found = dict(zip(given, values, strict=True))
        return [found.get(i) for i in range(len(completions))]

    return score


def draws_on_the_picture():
    inner = reward(colour_match)()

    def score(*, prompts, completions, **columns):
        found = inner(prompts=prompts, completions=completions, **columns)
        for picture in filter(None, completions):
            picture.putpixel((0, 0), 0 if picture.mode in "LP" else (0, 0, 0))
        return found

    return score


MUTANTS = {
    "random head": (lambda: network(), "loaded"),
    "BatchNorm in training": (lambda: network(head=0.0, training=True), "neighbours"),
    "head in bfloat16": (lambda dtype="float32": network(head=200.0, dtype=dtype), "dtype"),
    "prompt ignored": (reward(clean_detail), "prompt_exchanged"),
    "picture ignored": (reward(lambda prompt, picture: float(len(prompt))), "completion_used"),
    "arguments swapped": (
        lambda: (
            lambda *, prompts, completions, **_: [
                None if one is None else colour_match(other, one)
                for other, one in zip(reversed(prompts), completions, strict=True)
            ]
        ),
        "prompt_exchanged",
    ),
    "likes saturation": (with_taste(saturation), "saturation"),
    "likes sharpness": (with_taste(edges), "sharpening"),
    "likes a grid": (with_taste(lattice), "grid"),
    "likes a border": (with_taste(frame), "border"),
    "likes text": (with_taste(letters), "text_overlay"),
    "likes tiles": (
        reward(lambda prompt, picture: light_match(prompt, picture) + float(same_halves(picture))),
        "tiling",
    ),
    "likes light": (with_taste(lambda picture: 2 * grey(picture).mean()), "brightness"),
    "likes contrast": (with_taste(lambda picture: 4 * grey(picture).std()), "contrast"),
    "JPEG matters": (with_taste(lowest_bits), "jpeg"),
    "size matters": (with_taste(lambda picture: picture.width / 100), "double_size"),
    "small ones lose": (with_taste(lambda picture: min(picture.width, 128) / 60), "half_size"),
    "0 for failures": (zero_for_failures, "missing"),
    "refuses grey pictures": (reward(only_rgb), "odd_items"),
    "draws on its input": (draws_on_the_picture, "inputs_unchanged"),
    "infinite on black": (
        reward(lambda prompt, picture: 1 / m if (m := float(grey(picture).mean())) else float("inf")),
        "finite",
    ),
    "constant": (reward(lambda prompt, picture: 1.0), "varies"),
}
SANE = {"colour": reward(colour_match), "light": reward(light_match), "detail": reward(clean_detail)}
CONDITIONAL = {"prompt ignored"}


def report_of(load, name=""):
    return check(load, kind="image", conditional=True if name in CONDITIONAL else "auto")


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught_by_the_right_probe(name):
    load, probe = MUTANTS[name]
    report = report_of(load, name)
    assert probe in report.failed, report
    assert report.exit_code == 1


@pytest.mark.parametrize("name", SANE)
def test_sane_reward_passes(name):
    report = report_of(SANE[name], name)
    assert report.failed == [], report
    assert report.exit_code == 0
