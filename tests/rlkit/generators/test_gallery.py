"""The grid of pictures: places, gaps, enlargement without smoothing."""

import numpy as np
from PIL import Image

from rlkit.generators.gallery import GAP, save_grid


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
