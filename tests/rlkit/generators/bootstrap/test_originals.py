"""The few pictures: captions of a folder, files and lines set aside, sizes, and the world's ten."""

import json

import numpy as np
import pytest
from PIL import Image

from data_synth.world import look, pictures
from rlkit.errors import DataError
from rlkit.generators.bootstrap.originals import read_originals


@pytest.fixture
def folder(tmp_path):
    """Five pictures, 30 x 20 pixels, left half black, right half white."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, 15:] = 255
    (tmp_path / "few").mkdir()
    for at in range(5):
        Image.fromarray(pixels).save(tmp_path / "few" / f"{at}.png")
    return tmp_path / "few"


def read(folder, tmp_path):
    return read_originals(str(folder), 10, caption="a picture", rejected=tmp_path / "run")


def test_captions_come_from_the_folder_and_lines_that_cannot_be_used_are_set_aside(folder, tmp_path):
    lines = [{"image": f"{at}.png", "caption": f"number {at}"} for at in range(4)]
    lines += [{"image": "missing.png", "caption": "nowhere"}, {"image": "0.png"}]
    (folder / "captions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    found, set_aside = read(folder, tmp_path)
    assert [(one.name, one.caption) for one in found] == [(f"{at}.png", f"number {at}") for at in range(4)]
    assert set_aside == 3  # a file that is not there, a line without a caption, a picture without a line
    told = [json.loads(line) for line in (tmp_path / "run/rejected_rows.jsonl").read_text().splitlines()]
    assert len(told) == 3 and any("4.png" in json.dumps(one) for one in told)


def test_without_captions_every_picture_has_one_caption_and_is_cut_to_its_middle(folder, tmp_path):
    found, set_aside = read(folder, tmp_path)
    assert set_aside == 0 and not (tmp_path / "run").exists()
    assert {one.caption for one in found} == {"a picture"} and len(found) == 5
    assert found[0].pixels.shape == (10, 10, 3)
    assert found[0].pixels[:, 0].max() < 5 and found[0].pixels[:, -1].min() > 250  # the edge stays in the middle
    assert abs(found[0].pixels.mean() - 127.5) < 3


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder.*about ten"):
        read(tmp_path / "nowhere", tmp_path)


def test_the_worlds_ten_are_in_the_look_and_their_captions_are_true(tmp_path):
    found, _ = read_originals(None, 32, caption="", rejected=tmp_path)
    assert [one.caption for one in found] == [pictures.prompt(one) for one in look.few(10)]
    assert len({one.caption for one in found}) == 10
    paper = np.float32(look.PAPER)
    for one in found:
        corner = one.pixels[0, 0].astype(float)
        assert np.linalg.norm(corner - paper) < 0.45 * np.linalg.norm(paper)  # a tint of the ground is left
        assert (np.abs(one.pixels.astype(int) - look.INK).max(-1) <= 1).mean() > 0.02  # ink around the things
