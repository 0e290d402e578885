"""The world's folder: the same bytes however it was made, only missing clips rendered, captions with their truth."""

import json

import pytest

from data_synth.video import read_clip
from data_synth.world.clips import clip_name, events_of, render_clips, write_captions
from data_synth.world.noise import Noise
from data_synth.world.script import draw_script


def bytes_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.mp4"))}


def test_an_interrupted_folder_ends_up_the_same(tmp_path):
    list(render_clips(tmp_path / "whole", 6))
    cut = render_clips(tmp_path / "cut", 6)
    for _ in range(4):
        next(cut)
    cut.close()
    assert len(bytes_of(tmp_path / "cut")) == 3
    assert list(render_clips(tmp_path / "cut", 6)) == [3, 4, 5, 6]
    assert bytes_of(tmp_path / "cut") == bytes_of(tmp_path / "whole")


def test_existing_clips_are_left_alone(tmp_path):
    list(render_clips(tmp_path, 2))
    path = tmp_path / clip_name("train", 0)
    before = path.stat().st_mtime_ns
    assert list(render_clips(tmp_path, 2)) == [2]
    assert path.stat().st_mtime_ns == before


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(tmp_path):
    list(render_clips(tmp_path / "one", 70))
    list(render_clips(tmp_path / "two", 70, workers=2))
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_clips_last_as_long_as_their_script(tmp_path):
    list(render_clips(tmp_path, 1))
    clip = read_clip(tmp_path / clip_name("train", 0))
    assert clip.duration == pytest.approx(draw_script(0, 0).duration, abs=1 / 8)


def test_rows_carry_caption_and_truth(tmp_path):
    path = write_captions(tmp_path, 5, noise=Noise(), tag="noisy")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for index, row in enumerate(rows):
        script = draw_script(0, index)
        assert row["video"] == clip_name("train", index)
        assert [tuple(event) for event in row["events"]] == list(script.events)
        told, extra = events_of(row["true_caption"])
        assert (tuple(told), extra) == (script.events, 0)
    assert any(row["caption"] != row["true_caption"] for row in rows)


def test_without_noise_the_caption_is_true(tmp_path):
    rows = [json.loads(line) for line in write_captions(tmp_path, 3).read_text(encoding="utf-8").splitlines()]
    assert all(row["caption"] == row["true_caption"] for row in rows)
