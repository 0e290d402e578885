"""The grid of pictures: places, gaps, enlargement without smoothing; which prompts are shown, and where."""

from types import SimpleNamespace

import numpy as np
from PIL import Image

from rlkit.generators.gallery import GAP, MOST, Drawn, choose, publish, save_grid, thumbnail
from rlkit.running.folder import RunFolder


def test_every_picture_is_in_its_place(tmp_path):
    colours = [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (9, 9, 9)]]
    rows = [[Image.new("RGB", (32, 32), colour) for colour in row] for row in colours]
    save_grid(tmp_path / "deep" / "grid.png", rows)
    sheet = np.asarray(Image.open(tmp_path / "deep" / "grid.png"))
    assert sheet.shape == (2 * 96 + GAP, 2 * 96 + GAP, 3)
    for down in range(2):
        for across in range(2):
            top, left = down * (96 + GAP), across * (96 + GAP)
            assert (sheet[top : top + 96, left : left + 96] == colours[down][across]).all()
    assert (sheet[96 : 96 + GAP] == 255).all()
    assert not list((tmp_path / "deep").glob(".*"))


def rows(*rewards):
    return [{"clip": f"prompt {at}", "reward": value} for at, value in enumerate(rewards)]


def test_what_is_shown_is_chosen_by_rule():
    before = rows(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, float("nan"), 0.5)
    after = rows(0.6, 0.9, 0.5, 0.1, 0.8, 0.7, 0.4, 0.9, 0.45)
    found = choose(before, after, first=4)
    assert found["improved"] == [1, 4, 5]
    assert found["worst"] == [3, 6, 8]  # what fell, most first
    assert found["first"] == [0, 2]
    assert choose(after, after, first=0)["worst"] == [3, 6, 8] and not choose(after, after, first=0)["improved"]


def test_the_worst_are_what_the_judge_fell_for_though_the_reward_rose():
    before = [row | {"held_out": 0.5} for row in rows(*[0.1] * 6)]
    after = [row | {"held_out": value} for row, value in zip(rows(*range(1, 7)), (0.3, 0.6, 0.1, 0, 0, 0), strict=True)]
    found = choose(before, after, first=9)
    assert found == {"improved": [5, 4, 3], "worst": [2, 0, 1], "first": []}


def test_pictures_are_written_for_every_system_and_handed_on(tmp_path):
    told, folder = [], RunFolder(tmp_path)
    tracker = SimpleNamespace(pictures=lambda rows, step: told.append((rows, step)))
    shown = [[Image.new("RGB", (32, 32), (at, 0, 0))] * 2 for at in range(2)]
    systems = {name: Drawn(rows(0.2, value), shown) for name, value in (("base", 0.5), ("nft", 0.7))}
    publish(folder, tracker, systems, ("base", "nft"), first=1, step=9)
    ((found, step),) = told
    assert step == 9 and [(row["kind"], row["number"]) for row in found] == [("improved", 1), ("worst", 0)]
    assert found[0]["reward"] == {"base": 0.5, "nft": 0.7} and found[0]["prompt"] == "prompt 1"
    for row in found:
        for path in row["pictures"].values():
            assert Image.open(tmp_path / path).size == (2 * 96 + GAP, 96)


def test_thumbnails_keep_their_shape():
    assert thumbnail(Image.new("RGB", (2048, 512))).size == (1024, MOST)
    assert thumbnail(Image.new("RGB", (32, 32))).size == (32, 32)
