"""Photos are cut the same way every time; a folder's are checked."""

import numpy as np
import pytest
from PIL import Image

from data_synth.errors import DataError
from data_synth.gallery import photos
from data_synth.gallery.real import Real

PHOTO = Real("p", "p", np.random.default_rng(0).integers(0, 256, (300, 420, 3), dtype=np.uint8), grey=False)


def test_cuts_repeat_differ_and_keep_to_their_sides():
    some = [photos.cut(PHOTO, number) for number in range(12)]
    assert all(np.array_equal(one.image, photos.cut(PHOTO, number).image) for number, one in enumerate(some))
    assert len({one.image.tobytes() for one in some}) == 12
    sides = {side for one in some for side in one.image.shape[:2]}
    assert min(sides) >= photos.SIDES[0] and max(sides) <= photos.SIDES[1] and len(sides) > 2
    assert all(one.image.shape[0] == one.image.shape[1] and one.image.flags.c_contiguous for one in some)


def test_a_large_photo_is_scaled_down_and_never_up():
    large = Real("l", "l", np.zeros((1500, 2000, 3), np.uint8), grey=True)
    assert {photos.cut(large, number).image.shape[0] for number in range(8)} == {photos.SIDES[1]}
    small = Real("s", "s", np.zeros((192, 200, 3), np.uint8), grey=True)
    assert {photos.cut(small, number).image.shape[0] for number in range(8)} == {192}


def test_what_is_seen_from_above_has_no_upright():
    grass = Real("grass", "grass", PHOTO.image, grey=True)
    assert photos.cut(grass, 0).subject == "surface" and photos.cut(PHOTO, 0).subject == "photo"


def test_a_folder_of_photos(tmp_path):
    (tmp_path / "sub").mkdir()
    Image.fromarray(PHOTO.image).save(tmp_path / "sub/b.png")
    Image.fromarray(PHOTO.image[:, :, :1].repeat(3, 2)).save(tmp_path / "a.webp", lossless=True)
    Image.fromarray(PHOTO.image[:100]).save(tmp_path / "c.png")
    (tmp_path / "notes.txt").write_text("no photo")
    installed = photos.listed(None)
    assert photos.listed(tmp_path)[: len(installed)] == installed  # a folder's stand behind them
    grey, small, below = photos.listed(tmp_path)[len(installed) :]
    assert [one.scene for one in (grey, small, below)] == ["a.webp", "c.png", "sub/b.png"]
    assert below.file == tmp_path / "sub/b.png" and {one.file for one in installed} == {None}
    assert photos.read(grey).grey and not photos.read(below).grey
    with pytest.raises(DataError, match="420 x 100 pixels; expected at least 192"):
        photos.read(small)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no photo"):
        photos.listed(tmp_path / "none")


def test_installed_photos_are_sharp_and_share_scenes():
    pytest.importorskip("skimage")
    found = {one.name: one.scene for one in photos.listed(None)}
    assert "clock" not in found and found["motorcycle_left"] == found["motorcycle_right"] == "motorcycle"
