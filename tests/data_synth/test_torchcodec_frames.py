"""torchcodec, where it is installed, gives PyAV's frames at PyAV's times; where it is not, that is said."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from data_synth import torchcodec_frames
from data_synth.errors import DataError
from data_synth.frames_cache import FramesCache
from data_synth.video import read_clip, write_mp4

of_video = runpy.run_path(str(Path(__file__).with_name("test_video.py")))
FIXTURE, encode, patch_matrix = of_video["FIXTURE"], of_video["encode"], of_video["patch_matrix"]
REASON = torchcodec_frames.problem()
needs_torchcodec = pytest.mark.skipif(REASON is not None, reason=f"torchcodec: {REASON}")


def pattern(count: int) -> np.ndarray:
    """Frames with edges and colours, so that another conversion or order would show."""
    noise = np.random.default_rng(0).integers(0, 255, (count, 8, 12, 3), dtype=np.uint8)
    return noise.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture(params=["fixture", "variable rate", "b-frames", "long gaps", "rotated"])
def path(request, tmp_path) -> Path:
    target = tmp_path / "clip.mp4"
    if request.param == "fixture":
        return FIXTURE
    if request.param == "variable rate":
        return encode(target, pattern(8), [0, 100, 200, 1000, 1900, 2000, 2100, 2200])
    if request.param == "b-frames":
        return encode(target, pattern(40), list(range(0, 1600, 40)), bf="3", g="20", sc_threshold="0")
    if request.param == "long gaps":
        return encode(target, pattern(300), list(range(0, 12000, 40)), g="30", bf="2")
    encode(target, pattern(5), [0, 40, 80, 120, 160])
    patch_matrix(target, 90)
    return target


@needs_torchcodec
@pytest.mark.parametrize("sampling", [{}, {"num_frames": 4}, {"fps": 2}, {"start": 0.05, "end": 0.15}])
def test_frames_and_times_are_pyavs(path, sampling, monkeypatch):
    ours = read_clip(path, **sampling)
    # without a way back to PyAV: what comes now is torchcodec's
    monkeypatch.setattr("data_synth.video._decode", None)
    other = read_clip(path, **sampling, decoder="torchcodec")
    assert np.array_equal(other.timestamps, ours.timestamps)
    assert other.frames.shape == ours.frames.shape
    # equal where both have the same swscale; another version of it may round otherwise
    assert np.abs(other.frames.astype(int) - ours.frames.astype(int)).max() <= 2


@needs_torchcodec
def test_its_own_times_are_those_of_the_index(path):
    from torchcodec.decoders import VideoDecoder

    ours = read_clip(path).timestamps
    decoder = VideoDecoder(path)
    theirs = decoder.get_frames_at(list(range(len(decoder)))).pts_seconds.numpy()
    assert len(theirs) == len(ours)
    assert np.allclose(theirs - theirs[0], ours - ours[0], atol=1e-4)


@needs_torchcodec
def test_resized_frames_are_pyavs_but_for_colour_at_edges():
    """PyAV scales while it converts from YUV, here the RGB picture is scaled."""
    ours = read_clip(FIXTURE, num_frames=6, height=56).frames.astype(int)
    other = read_clip(FIXTURE, num_frames=6, height=56, decoder="torchcodec").frames.astype(int)
    assert other.shape == ours.shape
    assert np.abs(other - ours).mean() < 2  # of 255


@needs_torchcodec
def test_a_file_that_it_times_otherwise_is_left_to_pyav():
    chosen = [0, 1, 2]
    with pytest.raises(LookupError, match="times the frames otherwise"):
        list(torchcodec_frames.pictures(FIXTURE, chosen, [0.0, 0.05, 0.08], 0.0))
    with pytest.raises(LookupError, match="75 frames, frame 80"):
        list(torchcodec_frames.pictures(FIXTURE, [80], [3.2], 0.0))


def test_asking_for_it_where_it_is_not_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    assert torchcodec_frames.problem() == "it is not installed (pip install torchcodec)"
    with pytest.raises(DataError, match="the decoder torchcodec was asked for, but it is not installed"):
        read_clip(FIXTURE, num_frames=2, decoder="torchcodec")


@needs_torchcodec
def test_the_cache_keeps_the_decoders_apart(tmp_path):
    cache = FramesCache(tmp_path / "cache")
    write_mp4(tmp_path / "a.mp4", pattern(6), 8)
    for decoder, decoded in (("av", 1), ("torchcodec", 2), ("av", 2), ("torchcodec", 2)):
        cache.clip(tmp_path / "a.mp4", num_frames=3, decoder=decoder)
        assert cache.decoded == decoded
