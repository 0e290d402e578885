"""Saturation and lattices of pictures: planted grids of every period are seen, things in a picture are none."""

import numpy as np
import pytest
from PIL import Image

from data_synth.world import pictures
from rlkit.generators import pixels


def shown(count=24):
    return [pictures.render(one, at) for at, one in enumerate(pictures.drawn(count))]


def lattice(picture, period, size):
    """A dark line every `period` columns."""
    out = picture.astype(int)
    out[:, ::period] -= size
    return out.clip(0, 255).astype(np.uint8)


def test_true_pictures_have_no_lattice():
    assert pixels.grid([pixels.profiles(shown())]) < 0.75  # its things lie at a few places, and their edges with them


@pytest.mark.parametrize("period", [2, 4, 8])
@pytest.mark.parametrize("turned", [False, True])
def test_a_planted_lattice_is_seen_along_both_axes(period, turned):
    plain = shown()
    planted = [lattice(one, period, 8) for one in plain]  # 8 of 255: hardly visible
    planted = [one.swapaxes(0, 1) if turned else one for one in planted]
    assert pixels.grid([pixels.profiles(planted)]) > pixels.grid([pixels.profiles(plain)]) + 0.5


def test_blocks_that_step_either_way_are_seen():
    rng, plain = np.random.default_rng(0), shown()
    blocks = [rng.choice([-10, 10], (8, 8, 1)).repeat(4, 0).repeat(4, 1) for _ in plain]
    planted = [(one + block).clip(0, 255).astype(np.uint8) for one, block in zip(plain, blocks, strict=True)]
    assert pixels.grid([pixels.profiles(planted)]) > pixels.grid([pixels.profiles(plain)]) + 0.5


def test_a_line_along_a_period_by_the_formula():
    picture = np.full((16, 16, 3), 200, np.uint8)
    picture[:, ::4] = 190  # bends: -20 on the line, 10 on both sides, 0 between, over 255
    found = pixels.profiles([picture])
    assert found["x4"] == pytest.approx([-20 / 255, 10 / 255, 0, 10 / 255], abs=1e-6)
    assert found["|x4|"] == pytest.approx([20 / 255, 10 / 255, 0, 10 / 255], abs=1e-6)
    only = {name: found[name] for name in ("x4", "|x4|")}
    assert pixels.grid([only]) == pytest.approx(30 / 255 / (10 / 255 + pixels.FAINT), rel=1e-4)


def test_profiles_are_averaged_over_prompts_before_they_are_judged():
    one, other = {"x2": [0.02, 0.0], "|x2|": [0.02, 0.0]}, {"x2": [0.0, 0.02], "|x2|": [0.0, 0.02]}
    assert pixels.grid([one]) > 0.5 and pixels.grid([one, other]) == 0.0


def test_frames_of_videos_count_like_pictures():
    red = np.zeros((3, 32, 32, 3), np.uint8)
    red[..., 0] = 255
    grey = Image.new("RGB", (32, 32), (90, 90, 90))
    assert len(pixels.frames([red, grey])) == 4
    assert pixels.mean_saturation([red, grey]) == pytest.approx(3 / 4)
    assert pixels.profiles([np.zeros((4, 4, 3), np.uint8)]) == {} and pixels.grid([{}]) == 0.0
