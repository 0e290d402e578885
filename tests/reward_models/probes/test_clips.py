"""Rewards of clips: each planted defect is caught by the probe meant for it, and sane rewards pass."""

import numpy as np
import pytest

from reward_models.probes import check, embedded

WAYS = {"left": (-1, 0), "right": (1, 0), "upwards": (0, -1), "downwards": (0, 1)}


def chroma(clip):
    """Float[T, H, W]: largest minus smallest channel."""
    red, green, blue = (clip[..., channel] for channel in range(3))
    largest = np.maximum(np.maximum(red, green), blue)
    return (largest - np.minimum(np.minimum(red, green), blue)).astype(np.float32)


def velocity(clip, fps):
    """Widths a second [x, y] that what stands out in colour moves; 0 for a clip of one frame."""
    colour = np.maximum(chroma(clip[[0, -1]]) - 60, 0) + 1e-9
    y, x = (np.arange(length) / length for length in clip.shape[1:3])
    place = np.stack([colour.sum(axis=1) @ x, colour.sum(axis=2) @ y]) / colour.sum(axis=(1, 2))
    return (place[:, 1] - place[:, 0]) / max(len(clip) - 1, 1) * fps


def direction(prompt, clip, fps):
    """Cosine between the way that the prompt tells and that of the motion."""
    way = next((one for name, one in WAYS.items() if name in prompt), None)
    moved = velocity(clip, fps)
    return None if way is None else float(np.dot(way, moved) / (np.linalg.norm(moved) + 0.01))


def pace(prompt, clip, fps):
    """How near the speed is to slow (1/8 of the width a second) or quick (1/4), as the prompt says."""
    wanted = 0.26 if "quickly" in prompt else 0.13
    return -abs(float(np.linalg.norm(velocity(clip, fps))) - wanted)


def steady(prompt, clip, fps):
    """No flicker: how much the mean light changes over the clip. Reads no prompt."""
    light = clip.mean(axis=(1, 2, 3))
    return -float(light.std() / (light.mean() + 1))


def reward(one):
    """`one(prompt, clip, fps)` as a reward that keeps the contract."""

    def load():
        def score(*, prompts, completions, fps, **_):
            return [
                None if clip is None else one(prompt, clip, rate or 8.0)
                for prompt, clip, rate in zip(prompts, completions, fps, strict=True)
            ]

        return score

    return load


def with_taste(taste):
    """The direction reward plus `taste(clip)`, a number."""
    return reward(lambda prompt, clip, fps: direction(prompt, clip, fps) + float(taste(clip)))


def motion_a_frame(clip):
    """Share of the pixels that change from frame to frame."""
    return (
        40 * min((np.abs(np.diff(clip[..., 1].astype(np.float32), axis=0)) > 20).mean(), 0.06) if len(clip) > 1 else 0
    )


def no_single_frames(prompt, clip, fps):
    if len(clip) < 2:
        raise ValueError("expected at least 2 frames")
    return direction(prompt, clip, fps)


MUTANTS = {
    "per frame, not per second": (reward(lambda prompt, clip, fps: pace(prompt, clip, 8.0)), "frame_rate"),
    "likes motion a frame": (with_taste(motion_a_frame), "frame_rate"),
    "counts frames": (with_taste(lambda clip: len(clip) / 8), "frame_rate"),
    "prompt ignored": (
        reward(lambda _, clip, fps: float(np.linalg.norm(velocity(clip, fps)))),
        "prompt_exchanged",
    ),
    "clip ignored": (reward(lambda prompt, clip, fps: float(len(prompt))), "completion_used"),
    "likes it still": (reward(lambda _, clip, fps: -motion_a_frame(clip)), "frozen"),
    "counts pixels": (with_taste(lambda clip: clip.shape[1] / 64), "double_size"),
    "likes saturation": (with_taste(lambda clip: chroma(clip[::4]).mean() / 10), "saturation"),
    "raises on one frame": (reward(no_single_frames), "odd_items"),
}
SANE = {"direction": reward(direction), "pace": reward(pace), "steady": reward(steady)}
CONDITIONAL = {"prompt ignored"}


def report_of(load, name=""):
    return check(load, kind="video", conditional=True if name in CONDITIONAL else "auto")


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught_by_the_right_probe(name):
    load, probe = MUTANTS[name]
    report = report_of(load, name)
    assert probe in report.failed, report
    assert report.exit_code == 1


@pytest.mark.parametrize("name", SANE)
def test_sane_reward_passes(name):
    report = report_of(SANE[name], name)
    assert report.failed == [], report
    assert report.exit_code == 0


def test_the_embedded_clips_show_what_their_prompts_say():
    items = embedded("video")
    for place in items.best():
        prompt, clip = items.prompts[place], items.completions[place]
        assert direction(prompt, clip, 8.0) > 0.9, prompt
        assert pace(prompt, clip, 8.0) > -0.03, prompt
