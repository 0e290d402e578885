"""Pictures come upright as RGB, and damaged ones are refused with the reason."""

import numpy as np
import pytest
from PIL import Image

from data_synth.errors import DataError
from data_synth.pictures import read_picture


def test_reads_rgb(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), array)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise by 90 degrees
    array = np.zeros((16, 32, 3), dtype=np.uint8)
    array[:8, :16] = 255
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png"), np.rot90(array, -1))


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("zero", "empty"),
        ("text", "not a picture"),
        ("cut", "truncated or damaged"),
    ],
)
def test_refuses_with_the_reason(tmp_path, name, reason):
    path = tmp_path / "a.png"
    if name == "folder":
        path.mkdir()
    elif name == "zero":
        path.touch()
    elif name == "text":
        path.write_text("no picture")
    elif name == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=reason):
        read_picture(path)


@pytest.mark.parametrize("limit", [{"max_pixels": 10}, {"max_bytes": 10}])
def test_refuses_absurd_sizes(tmp_path, limit):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="the limit is 10"):
        read_picture(tmp_path / "a.png", **limit)
