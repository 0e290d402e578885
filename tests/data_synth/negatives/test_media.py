"""Negatives on the picture side: pure functions on frames and timestamps."""

import numpy as np

from data_synth.negatives import media

FRAMES = np.stack([np.full((8, 6, 3), 20 * t, dtype=np.uint8) for t in range(10)])
FRAMES[:, :4, :3] += 50
TIMES = np.arange(10) / 8.0
STILL = np.repeat(FRAMES[:1], 10, axis=0)


def test_reversed_plays_backwards_at_the_same_times():
    found = media.reversed_frames(FRAMES, TIMES)
    assert np.array_equal(found.frames, FRAMES[::-1]) and np.array_equal(found.timestamps, TIMES)


def test_shuffled_moves_whole_stretches():
    found = media.shuffled_frames(FRAMES, TIMES, segments=5)
    order = np.array(found.edit["order"])
    assert sorted(order) == list(range(10)) and not np.array_equal(order, np.arange(10))
    assert np.array_equal(found.frames, FRAMES[order])
    assert all(order[k + 1] == order[k] + 1 for k in range(0, 10, 2))


def test_a_still_clip_has_no_order():
    assert media.reversed_frames(STILL, TIMES) is None
    assert media.shuffled_frames(STILL, TIMES) is None


def test_dropped_leaves_out_a_stretch_of_time():
    found = media.dropped_frames(FRAMES, TIMES, start=0.25, end=0.5)
    assert found.timestamps.tolist() == [t for t in TIMES if not 0.25 <= t < 0.5]
    assert media.dropped_frames(FRAMES, TIMES, start=5, end=6) is None
    assert media.dropped_frames(FRAMES, TIMES, start=0, end=9) is None


def test_cropped_keeps_the_size_and_shows_a_corner():
    found = media.cropped_frames(FRAMES, TIMES, seed=1)
    top, left, height, width = found.edit["box"]
    assert found.frames.shape == FRAMES.shape and (height, width) == (4, 3)
    assert np.array_equal(found.frames[:, ::2, ::2], FRAMES[:, top : top + 4, left : left + 3])


def test_other_clip_keeps_the_timestamps():
    other = FRAMES[:5] // 2 + 100
    found = media.other_clip(FRAMES, TIMES, [FRAMES, other])
    assert found.edit["other"] == 1 and len(found.frames) == 10 and np.array_equal(found.timestamps, TIMES)
    assert media.other_clip(FRAMES, TIMES, [FRAMES]) is None


def test_inputs_are_left_alone():
    before = FRAMES.copy()
    found = media.reversed_frames(FRAMES, TIMES)
    found.frames[:] = 0
    assert np.array_equal(FRAMES, before)
