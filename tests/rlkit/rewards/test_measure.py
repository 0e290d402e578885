"""What the shares of a measured reward are made of."""

import numpy as np
import pytest
from PIL import Image

from rlkit.rewards import measure


def row(picture, degradation, strength, score, style="photo", source="rendered", scene=None):
    told = {"picture": picture, "scene": scene or picture, "degradation": degradation, "strength": strength}
    return told | {"style": style, "source": source, "kind": "general", "scores": {"reward": score}}


ROWS = [
    row("a", None, 0.0, 1.0),
    row("a", "blur", 0.5, 0.5),
    row("a", "blur", 1.0, 0.6),  # below the clean one, but above a weaker blur
    row("a", "noise", 0.5, 2.0),
    row("a", "noise", 1.0, 1.0),
    row("a", "over_smoothed_skin", 0.25, -9.0),
    row("a", "over_smoothed_skin", 1.0, -1.0),
    row("b", None, 0.0, 0.0, "cartoon"),
    row("b", "blur", 0.5, -1.0, "cartoon"),
    row("b", "missing_texture", 0.5, 5.0, "cartoon"),  # no fault of a cartoon
    row("b", "right", 0.0, 1.0, "cartoon"),
    row("b", "wrong", 0.0, 0.5, "cartoon"),
    row("7", None, 0.0, 1.0, source="real"),
    row("7", "moire", 0.5, 0.0, source="real"),
    row("mine.jpg", None, 0.0, 1.0, source="own"),
    row("mine.jpg", "moire", 0.5, 2.0, source="own"),
]


def test_shares_are_of_pictures_and_a_tie_counts_half():
    found = {name: one["value"] for name, one in measure.summary(ROWS, "reward").items()}
    assert found["pairwise_held_out"] == pytest.approx(((1 + 1 + 0 + 0.5 + 1 + 1) / 6 + 1) / 2)
    assert found["monotone_held_out"] == pytest.approx(((0 + 0 + 0) / 3 + 1) / 2)  # smoothing: -9, then -1
    assert found["pairwise_blur"] == 1 and found["pairwise_noise"] == pytest.approx(0.25)
    assert "pairwise_missing_texture" not in found
    assert found["pairwise_anatomy"] == 1 and found["pairwise_real"] == 1 and found["pairwise_real_moire"] == 1
    assert found["pairwise_own"] == found["monotone_own"] == found["pairwise_own_moire"] == 0
    assert found["cartoon_smooth"] == 1  # 0.0 against the photo's -1.0; the weak smoothing is not counted


def test_two_pictures_of_a_scene_are_one_line_and_swept_apart():
    rows = [
        row("left", None, 0.0, 3.0, source="real", scene="s"),
        row("left", "blur", 0.5, 2.0, source="real", scene="s"),
    ]
    rows += [
        row("right", None, 0.0, 1.0, source="real", scene="s"),
        row("right", "blur", 0.5, 0.0, source="real", scene="s"),
    ]
    found = measure.summary(rows, "reward")
    assert found["monotone_real"]["value"] == found["pairwise_real"]["value"] == 1
    assert found["monotone_real"]["n"] == found["pairwise_real"]["n"] == 1


def test_calibration_is_of_the_sigmoid_of_the_margin():
    sure = [("a", 4.0), ("b", 4.0), ("c", 4.0), ("d", -4.0)]
    assert measure.calibration(sure)["value"] == pytest.approx(1 / (1 + np.exp(-4)) - 0.75)


def test_the_statistic_falls_with_blur():
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    soft = ((picture[:-1].astype(int) + picture[1:]) // 2).astype(np.uint8)
    sharp, blurred = measure.laplacian([picture, soft], [(), ()])
    assert sharp > blurred


def test_every_real_picture_comes_clean_first_with_faults_at_every_strength():
    pytest.importorskip("skimage")
    scene, versions = next(measure.photographs(None, 1))
    assert versions[0]["degradation"] is None and versions[0]["source"] == "real" and versions[0]["scene"] == scene
    faults = {one["degradation"] for one in versions[1:]}
    assert len(versions) == 1 + 4 * len(faults) and len(faults) >= 10


def test_of_a_folder_so_many_are_measured_and_all_of_the_packages(tmp_path):
    for number in range(5):
        Image.fromarray(np.zeros((192, 192, 3), np.uint8)).save(tmp_path / f"{number}.png")
    packages = measure.chosen(None, 0)
    found = measure.chosen(tmp_path, 3)
    assert found[: len(packages)] == packages and [one.name for _, one in found[len(packages) :]] == [
        "0.png",
        "2.png",
        "4.png",
    ]
