"""The frames cache gives what read_clip gives, decodes once, survives damage and stays below its size."""

from pathlib import Path

import numpy as np
import pytest

from data_synth.errors import DataError
from data_synth.frames_cache import FramesCache
from data_synth.video import read_clip, write_mp4

FIXTURE = Path(__file__).parents[1] / "fixtures" / "bigbuckbunny.mp4"


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*.npy"))


@pytest.mark.parametrize("sampling", [{"num_frames": 5}, {"fps": 2, "start": 1.0, "height": 32}, {}])
def test_equals_read_clip_the_first_and_the_second_time(tmp_path, sampling):
    expected = read_clip(FIXTURE, **sampling)
    for cache in (FramesCache(tmp_path), FramesCache(tmp_path)):
        clip = cache.clip(FIXTURE, **sampling)
        assert np.array_equal(clip.frames, expected.frames)
        assert np.array_equal(clip.timestamps, expected.timestamps)
        assert (clip.duration, clip.source_fps) == (expected.duration, expected.source_fps)
    assert cache.decoded == 0


def test_cached_frames_are_memory_mapped_and_the_file_cannot_be_changed(tmp_path):
    cache = FramesCache(tmp_path)
    cache.clip(FIXTURE, num_frames=2)
    clip = cache.clip(FIXTURE, num_frames=2)
    assert isinstance(clip.frames, np.memmap)
    clip.frames[:] = 0  # copy on write
    assert cache.clip(FIXTURE, num_frames=2).frames.any()


def test_sampling_is_part_of_the_key(tmp_path):
    cache = FramesCache(tmp_path)
    assert len(cache.clip(FIXTURE, num_frames=2).frames) == 2
    assert len(cache.clip(FIXTURE, num_frames=3).frames) == 3
    assert len(entries(tmp_path)) == 2


def test_content_is_the_key_not_the_name(tmp_path):
    cache = FramesCache(tmp_path / "cache")
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(FIXTURE.read_bytes())
    cache.clip(FIXTURE, num_frames=2)
    cache.clip(copy, num_frames=2)
    assert cache.decoded == 1
    write_mp4(copy, np.zeros((4, 16, 16, 3), np.uint8), fps=2)
    assert cache.clip(copy, num_frames=2).frames.shape == (2, 16, 16, 3)


@pytest.mark.parametrize("damage", ["cut", "empty", "no times", "wrong times"])
def test_a_damaged_entry_is_decoded_again(tmp_path, damage):
    FramesCache(tmp_path).clip(FIXTURE, num_frames=4)
    (path,) = entries(tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no times":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text('{"timestamps": [0.0]}')
    cache = FramesCache(tmp_path)
    assert np.array_equal(cache.clip(FIXTURE, num_frames=4).frames, read_clip(FIXTURE, num_frames=4).frames)
    assert cache.decoded == 1


def test_stays_below_its_size_and_forgets_the_least_used(tmp_path):
    one = read_clip(FIXTURE, num_frames=1).frames.nbytes + 128  # the npy header
    cache = FramesCache(tmp_path, max_bytes=10 * one)
    for i in range(12):
        cache.clip(FIXTURE, num_frames=1, start=i * 0.04, end=i * 0.04 + 0.04)
        cache.clip(FIXTURE, num_frames=1, start=0.0, end=0.04)
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= cache.max_bytes
    before = cache.decoded
    cache.clip(FIXTURE, num_frames=1, start=0.0, end=0.04)
    assert cache.decoded == before
    assert len(list(tmp_path.glob("??/*.json"))) == len(entries(tmp_path))


def test_a_clip_larger_than_the_cache_is_not_kept(tmp_path):
    cache = FramesCache(tmp_path, max_bytes=1000)
    assert len(cache.clip(FIXTURE, num_frames=4).frames) == 4
    assert entries(tmp_path) == []


def test_errors_are_those_of_read_clip_and_leave_nothing(tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    cache = FramesCache(tmp_path / "cache")
    for path in (tmp_path / "bad.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(DataError):
            cache.clip(path)
    assert not (tmp_path / "cache").exists()
