"""Clips are decoded ahead, by several processes, once."""

import numpy as np
import pytest

from data_synth.video import read_clip, write_mp4
from rlkit.caption import clips
from rlkit.recipe import Data
from rlkit.running.progress import Progress


@pytest.fixture
def rows(tmp_path):
    pixels = np.random.default_rng(0)
    found = []
    for number in range(5):
        write_mp4(tmp_path / f"{number}.mp4", pixels.integers(0, 255, (8, 32, 32, 3), dtype=np.uint8), 8)
        found.append({"video": f"{number}.mp4"})
    return found


def test_decoding_ahead_leaves_nothing_to_decode_and_the_same_frames(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "FEW", 2)
    data = Data(num_frames=4, frame_size=16)
    with Progress("test", stages=1) as progress:
        clips.decode(clips.Reader(data, tmp_path, cache=tmp_path / "frames"), rows, progress)
    reader = clips.Reader(data, tmp_path, cache=tmp_path / "frames")
    for row in rows:
        kept, fresh = reader.clip(row["video"]), read_clip(tmp_path / row["video"], num_frames=4, height=16)
        assert np.array_equal(kept.frames, fresh.frames) and np.array_equal(kept.timestamps, fresh.timestamps)
    assert reader.cache.decoded == 0


def test_few_clips_are_decoded_when_asked_for(rows, tmp_path):
    reader = clips.Reader(Data(num_frames=4), tmp_path, cache=tmp_path / "frames")
    with Progress("test", stages=1) as progress:
        clips.decode(reader, rows, progress)
    assert not (tmp_path / "frames").exists()
    reader.clip(rows[0]["video"])
    assert reader.cache.decoded == 1
