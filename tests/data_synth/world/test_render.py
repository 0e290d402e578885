"""Frames show what the script says: where the actor is, how large, what colour."""

import numpy as np

from data_synth.world.render import FPS, SIZE, render
from data_synth.world.script import Event, Script


def one_event(action: str, actor: str = "red ball", **changes) -> np.ndarray:
    script = Script((Event(actor, action),), ((0.0, 1.0),), background="grey", shot="medium shot", marks=1, sign="ball")
    return render(Script(**{**vars(script), **changes})).astype(int)


def redness(frames: np.ndarray) -> np.ndarray:
    """Boolean mask [time, height, width] of red pixels."""
    return (frames[..., 0] > 180) & (frames[..., 1] < 90) & (frames[..., 2] < 90)


def centre(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return rows.mean(), columns.mean()


def test_shape_and_length():
    frames = one_event("grows")
    assert frames.shape == (FPS, SIZE, SIZE, 3)


def test_moves_go_where_they_say():
    for action, axis, sign in [("moves left", 1, -1), ("moves right", 1, 1), ("moves up", 0, -1), ("moves down", 0, 1)]:
        red = redness(one_event(action))
        first, last = centre(red[1]), centre(red[-2])
        assert sign * (last[axis] - first[axis]) > SIZE / 5, action
        assert abs(last[1 - axis] - first[1 - axis]) < 6, action


def test_growing_grows_and_shrinking_shrinks():
    grows, shrinks = redness(one_event("grows")).sum((1, 2)), redness(one_event("shrinks")).sum((1, 2))
    assert (np.diff(grows) > 0).all()
    assert (np.diff(shrinks) < 0).all()


def test_blinking_is_off_in_some_frames_and_shaking_never():
    assert (redness(one_event("blinks")).sum((1, 2)) == 0).any()
    shaking = redness(one_event("shakes"))
    assert (shaking.sum((1, 2)) > 0).all()
    assert len({round(centre(one)[1]) for one in shaking}) == 2


def test_a_camera_pan_moves_the_scene_the_other_way():
    frames = one_event("pans left", actor="camera")
    doorway = (frames.sum(-1) < 120) & (np.arange(SIZE)[:, None] > SIZE // 2)
    assert centre(doorway[-1])[1] > centre(doorway[0])[1]


def test_marks_on_the_ground_can_be_counted():
    row = int(SIZE * 0.9)
    for marks in (1, 2, 3, 4):
        bright = one_event("grows", marks=marks)[0, row, :, 0] > 200
        assert np.diff(bright.astype(int)).clip(0).sum() == marks


def test_rendering_is_deterministic():
    assert np.array_equal(one_event("shakes"), one_event("shakes"))


def test_shaking_and_blinking_are_seen_at_half_the_frame_rate():
    shaking, blinking = redness(one_event("shakes")[::2]), redness(one_event("blinks")[::2])
    assert len({round(centre(one)[1]) for one in shaking}) == 2
    assert {bool(one.any()) for one in blinking} == {True, False}
