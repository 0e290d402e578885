"""Photos beside rendered pictures: every scene is scored by a judge that did not learn from it."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from data_synth.gallery import real
from data_synth.gallery.photos import listed
from data_synth.pictures import read_picture
from rlkit.errors import RecipeError, RlkitError
from rlkit.recipe.file import load
from rlkit.rewards import gallery, measure, photos
from rlkit.rewards import run as rewards_run
from rlkit.run import run
from tests.rlkit.conftest import FOOTER, HEADER

RECIPE = """\
algorithm: reward
model: {init: convnextv2, vision: frozen}
data: {source: gallery, folder: mine, num_clips: 2, frame_size: 48}
reward: {vetoes: [anatomy, artefact], hidden: 4, crops: 1, photo_cuts: 2, photo_folds: 2, window: 32}
train: {per_device_train_batch_size: 4, max_steps: 2, logging_steps: 1}
evaluate: {num_clips: 4}
"""


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "SIDE", 200)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # no workers to start
    monkeypatch.setattr(real, "_FILES", {name: real._FILES[name] for name in ("china", "flower")})
    monkeypatch.setattr(real, "read_picture", lambda path: read_picture(path)[:192, :200])
    (tmp_path / "mine").mkdir()
    draw = np.random.default_rng(0)
    for name in "abc":
        pixels = gaussian_filter(draw.uniform(0, 255, (200, 220, 3)), (3, 3, 0))
        pixels = (pixels - pixels.min()) / np.ptp(pixels) * 255
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"mine/{name}.png")
    (tmp_path / "mine/broken.jpg").write_bytes(b"no picture")
    path = tmp_path / "judge.yaml"
    path.write_text(HEADER + RECIPE + FOOTER, encoding="utf-8")
    return path


def test_no_judge_scores_a_scene_it_learnt_from(recipe_file, monkeypatch):
    learnt, asked = [], {}
    inner, outer = rewards_run.trainer.train, rewards_run.evaluate

    def train(reward, recipe, examples, *rest, **named):
        learnt.append({photos.scene_of(group) for group in examples.groups})
        return inner(reward, recipe, examples, *rest, **named)

    def evaluate(rewards, folds, *rest):
        asked.update({scene: id(judge) for scene, judge in folds.items()})
        return outer(rewards, folds, *rest)

    monkeypatch.setattr(rewards_run.trainer, "train", train)
    monkeypatch.setattr(rewards_run, "evaluate", evaluate)
    folder = run(str(recipe_file))[-1]
    # china 0, flower 1, a.png 2, b.png 3, broken.jpg 4 (set aside), c.png 5; the shipped judge learns from all, fold 0
    # lacks every second from 0 on
    assert learnt == [{None, 0, 1, 2, 3, 5}, {None, 1, 3, 5}, {None, 0, 2}]
    assert (
        asked["china"] == asked["a.png"] == asked["broken.jpg"] != asked["flower"] == asked["b.png"] == asked["c.png"]
    )
    told = folder.results()["systems"]["reward"]
    assert (told["pairwise_real"]["n"], told["pairwise_own"]["n"], told["pairwise_held_out"]["n"]) == (2, 3, 4)
    assert {"monotone_own", "calibration_own"} <= told.keys()
    rows = [json.loads(line) for line in (folder.samples / "scores.jsonl").read_text().splitlines()]
    assert {row["scene"] for row in rows if row["source"] == "real"} == {"china", "flower"}
    assert {row["scene"] for row in rows if row["source"] == "own"} == {"a.png", "b.png", "c.png"}
    (aside,) = gallery.GALLERY.glob("photos-*/cuts-2/rejected_rows.jsonl")
    assert "broken.jpg" in json.loads(aside.read_text())["reasons"][0]


def test_other_photos_are_cut_anew_and_the_same_are_not(recipe_file):
    recipe = load(recipe_file)
    folder = photos.folder_of(recipe.data)
    first = photos._fingerprint(listed(folder))
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save("mine/d.png")
    assert first not in (photos._fingerprint(listed(folder)), photos._fingerprint(listed(None)))


def test_a_folder_without_a_usable_photo_is_an_error(recipe_file):
    for name in "abc":
        (recipe_file.parent / f"mine/{name}.png").unlink()
    for _ in range(2):  # nor is the rest taken for all of them by the next run
        with pytest.raises(RlkitError, match="no photo of the folder can be used"):
            run(str(recipe_file), ["out=runs/again"])


@pytest.mark.parametrize(
    "changes", [["evaluate.split=dev"], ["evaluate.num_clips=0"], ["reward.photo_cuts=0", "data.folder=null"]]
)
def test_nothing_is_trained_twice_where_photos_are_not_measured(recipe_file, changes):
    assert photos.folds_of(load(recipe_file, changes)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("reward.photo_cuts=0", "its photos would not be used"),
        ("data.source=folder", "photos are cut and degraded beside rendered pictures"),
    ],
)
def test_photos_that_would_not_be_used_are_an_error(recipe_file, change, said):
    with pytest.raises(RecipeError) as raised:
        load(recipe_file, [change])
    assert said in str(raised.value)
