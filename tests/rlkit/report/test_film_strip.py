"""Film strips: the right frames, in order, with their times, byte for byte the same each time."""

import io

import numpy as np
import pytest
from PIL import Image

from rlkit.report.film_strip import GAP, data_uri, film_strip, jpeg_bytes, save


def grey_frames(count, height=20, width=30):
    return np.stack([np.full((height, width, 3), 10 * i, np.uint8) for i in range(count)])


def test_frames_stand_in_order_first_and_last_included():
    strip = film_strip(grey_frames(21), np.arange(21) / 8, height=20, max_frames=5)
    pixels = np.asarray(strip)
    centres = [int(pixels[GAP + 10, GAP + i * (30 + GAP) + 15, 0]) for i in range(5)]
    assert centres == [0, 50, 100, 150, 200]


def test_fewer_frames_than_places_are_not_repeated():
    assert film_strip(grey_frames(3), [0, 1, 2], height=20, max_frames=8).width == 3 * (30 + GAP) + GAP


def test_aspect_ratio_is_kept():
    strip = film_strip(grey_frames(1, 40, 80), [0.0], height=100, times=False)
    assert strip.size == (200 + 2 * GAP, 100 + 2 * GAP)


def test_times_are_drawn_and_change_the_picture():
    frames = grey_frames(2)
    one, other = film_strip(frames, [0.0, 1.0]), film_strip(frames, [0.0, 2.0])
    assert one.tobytes() != other.tobytes()


def test_same_input_gives_the_same_bytes():
    frames = np.random.default_rng(0).integers(0, 255, (9, 20, 30, 3), np.uint8)
    assert jpeg_bytes(film_strip(frames, np.arange(9))) == jpeg_bytes(film_strip(frames, np.arange(9)))


def test_jpeg_keeps_small_red_shapes_red():
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    frames[0, 15:17, 15:17] = (255, 0, 0)
    pixels = np.asarray(Image.open(io.BytesIO(jpeg_bytes(film_strip(frames, [0.0], height=32)))))
    red, green, blue = pixels[GAP + 15, GAP + 15].astype(int)
    assert red > 180 and green < 60 and blue < 60


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_save_writes_a_picture_and_leaves_nothing_aside(tmp_path, name):
    strip = film_strip(grey_frames(2), [0, 1])
    save(strip, tmp_path / "strips" / name)
    assert [path.name for path in (tmp_path / "strips").iterdir()] == [name]
    assert Image.open(tmp_path / "strips" / name).size == strip.size
    assert data_uri((tmp_path / "strips" / name).read_bytes()).startswith(
        f"data:image/{'jpeg' if 'j' in name else 'png'}"
    )


@pytest.mark.parametrize(
    "frames", [np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 3), np.float32)]
)
def test_wrong_frames_are_refused_with_their_shape(frames):
    with pytest.raises(ValueError, match=r"wants uint8 frames \[T, H, W, 3\]"):
        film_strip(frames, [0.0] * len(frames))


def test_times_must_be_as_many_as_frames():
    with pytest.raises(ValueError, match="2 frames and 1 timestamps"):
        film_strip(grey_frames(2), [0.0])
