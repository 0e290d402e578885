"""Clips: what is written is what is read, with true times, and broken files are refused with the reason."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data_synth.errors import DataError
from data_synth.video import read_clip, write_mp4

FIXTURE = Path(__file__).parents[1] / "fixtures" / "bigbuckbunny.mp4"


def grey_levels(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames that can be told apart after lossy coding: frame i is grey at 10 * i."""
    return np.stack([np.full((height, width, 3), 10 * i, dtype=np.uint8) for i in range(count)])


def levels(frames: np.ndarray) -> list[int]:
    return [round(float(f.mean()) / 10) for f in frames]


def encode(path: Path, frames: np.ndarray, pts: list[int], **options: str) -> Path:
    """An mp4 with the given presentation times in milliseconds, independent of write_mp4."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for array, time in zip(frames, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    write_mp4(path, grey_levels(24), fps=8)
    return path


def test_written_frames_come_back(tmp_path):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (6, 7, 7, 1), dtype=np.uint8)  # grey: yuv420p halves the resolution of colour only
    frames = np.broadcast_to(blocks.repeat(16, 1).repeat(16, 2), (6, 112, 112, 3)).copy()
    write_mp4(tmp_path / "a.mp4", frames, fps=8)
    error = np.abs(read_clip(tmp_path / "a.mp4").frames.astype(int) - frames)
    assert error.mean() < 2


def test_same_frames_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_mp4(tmp_path / name, grey_levels(5), fps=8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_is_h264_yuv420p(clip_path):
    with av.open(str(clip_path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")


def test_all_frames_with_times(clip_path):
    clip = read_clip(clip_path)
    assert levels(clip.frames) == list(range(24))
    assert np.allclose(clip.timestamps, np.arange(24) / 8)
    assert clip.timestamps.dtype == np.float64
    assert (clip.duration, clip.source_fps) == (3.0, 8.0)


def test_fractional_rate(tmp_path):
    write_mp4(tmp_path / "a.mp4", grey_levels(10), fps=30000 / 1001)
    assert np.allclose(read_clip(tmp_path / "a.mp4").timestamps, np.arange(10) * 1001 / 30000, atol=1e-5)


def test_num_frames_in_the_middle_of_equal_intervals(clip_path):
    clip = read_clip(clip_path, num_frames=8)  # 8 intervals of 3 frames
    assert levels(clip.frames) == [1, 4, 7, 10, 13, 16, 19, 22]
    assert np.allclose(clip.timestamps, np.array([1, 4, 7, 10, 13, 16, 19, 22]) / 8)


def test_fps_from_the_start(clip_path):
    clip = read_clip(clip_path, fps=2)
    assert np.allclose(clip.timestamps, [0, 0.5, 1, 1.5, 2, 2.5])
    assert levels(clip.frames) == [0, 4, 8, 12, 16, 20]


def test_piece_keeps_file_times(clip_path):
    clip = read_clip(clip_path, start=1.0, end=2.0)
    assert np.allclose(clip.timestamps, np.arange(8, 16) / 8)
    assert levels(clip.frames) == list(range(8, 16))
    assert clip.duration == 1.0


def test_more_frames_than_there_are_gives_each_once(clip_path):
    assert levels(read_clip(clip_path, num_frames=100).frames) == list(range(24))
    assert levels(read_clip(clip_path, fps=100).frames) == list(range(24))


def test_variable_frame_rate(tmp_path):
    times = [0, 100, 200, 1000, 1900, 2000, 2100, 2200]
    path = encode(tmp_path / "vfr.mp4", grey_levels(8), times)
    clip = read_clip(path)
    assert np.allclose(clip.timestamps, np.array(times) / 1000)
    # what is on screen at 0, 0.5, 1.0, 1.5 and 2.0 s: frames 0, 2 (shown until 1.0 s), 3 (until 1.9 s), 3, 5
    clip = read_clip(path, fps=2, end=2.2)
    assert levels(clip.frames) == [0, 2, 3]
    clip = read_clip(path, fps=2.5)  # 0, 0.4, 0.8, 1.2, 1.6: 2.2 s hold 5 whole intervals
    assert levels(clip.frames) == [0, 2, 3]


def test_variable_frame_rate_num_frames_are_distinct(tmp_path):
    path = encode(tmp_path / "vfr.mp4", grey_levels(5), [0, 100, 200, 3000, 3100])
    clip = read_clip(path, num_frames=4)
    assert len(clip.frames) == 4
    assert (np.diff(clip.timestamps) > 0).all()


def test_b_frames_come_in_order_of_presentation(tmp_path):
    path = encode(tmp_path / "b.mp4", grey_levels(20), list(range(0, 800, 40)), bf="3", g="20", sc_threshold="0")
    clip = read_clip(path)
    assert levels(clip.frames) == list(range(20))
    assert np.allclose(clip.timestamps, np.arange(20) * 0.04)


def test_seeks_over_long_gaps_find_the_right_frames(tmp_path):
    frames = np.stack([np.full((16, 16, 3), i % 25 * 10, dtype=np.uint8) for i in range(600)])
    path = encode(tmp_path / "long.mp4", frames, list(range(0, 600 * 40, 40)), g="30", bf="2")
    clip = read_clip(path, num_frames=4)
    assert np.allclose(clip.timestamps, [3.0, 9.0, 15.0, 21.0])
    assert levels(clip.frames) == [0, 0, 0, 0]
    clip = read_clip(path, fps=0.24, start=0.2)  # every 104 1/6 frames
    assert levels(clip.frames) == [round(t / 0.04) % 25 for t in clip.timestamps]


def test_transport_stream_starts_at_zero(tmp_path):
    path = tmp_path / "a.ts"  # MPEG-TS puts the first frame at about 1.4 s
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for array in grey_levels(16):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    assert np.allclose(read_clip(path).timestamps, np.arange(16) / 8, atol=1e-4)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_metadata_is_applied(tmp_path, degrees):
    path = tmp_path / "phone.mp4"
    frames = np.zeros((3, 32, 64, 3), dtype=np.uint8)
    frames[:, :16, :32] = 255  # white in the stored top left corner
    encode(path, frames, [0, 40, 80])
    patch_matrix(path, degrees)
    upright = read_clip(path).frames[0]
    # the matrix turns the stored picture clockwise by `degrees`
    expected = np.rot90(frames[0], -degrees // 90)
    assert upright.shape == expected.shape
    assert np.abs(upright.astype(int) - expected).mean() < 3


def patch_matrix(path: Path, degrees: int) -> None:
    """Write the display matrix of a clockwise turn into the track header (ISO 14496-12, tkhd, 16.16 fixed point)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, times and ids, reserved, layer .. volume
    a, b, c, d = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_edit_list_is_no_truncation(tmp_path):
    data = bytearray(FIXTURE.read_bytes())  # a phone trims a video by an edit list and leaves the frames in the file
    at = data.index(b"elst") + 4
    version, count, _, media_time, rate = struct.unpack(">IIIiI", data[at : at + 20])
    # show 1.0 s (movie time scale 1000) from frame 30 on (512 ticks per frame)
    data[at : at + 20] = struct.pack(">IIIiI", version, count, 1000, media_time + 30 * 512, rate)
    (tmp_path / "trimmed.mp4").write_bytes(data)
    clip = read_clip(tmp_path / "trimmed.mp4")
    assert np.allclose(clip.timestamps, np.arange(25) / 25)
    assert np.array_equal(clip.frames, read_clip(FIXTURE).frames[30:55])


@pytest.mark.parametrize(
    ("size", "expected"),
    [({"height": 16, "width": 16}, (16, 16)), ({"height": 16}, (16, 24)), ({"width": 96}, (64, 96))],
)
def test_resizes(clip_path, size, expected):
    assert read_clip(clip_path, num_frames=2, **size).frames.shape == (2, *expected, 3)


def test_fixture_times():
    clip = read_clip(FIXTURE)
    assert clip.frames.shape == (75, 90, 160, 3)
    assert np.allclose(clip.timestamps, np.arange(75) / 25)
    assert clip.duration == pytest.approx(3.0)


def test_fixture_shows_grass_and_sky():
    frame = read_clip(FIXTURE, num_frames=1).frames[0].astype(int)
    red, green, blue = frame[70:, 110:].mean((0, 1))
    assert green > red + 10 and green > blue + 40  # the meadow at the lower right
    red, green, blue = frame[:25, 140:].mean((0, 1))
    assert blue > green  # the sky at the upper right


# Files that must be refused, each with what is wrong with it


def damaged(tmp_path: Path, name: str) -> Path:
    path = tmp_path / f"{name}.mp4"
    whole = FIXTURE.read_bytes()
    if name == "text":
        path.write_text("this is not a video\n" * 50)
    elif name == "zero":
        path.write_bytes(b"")
    elif name == "noise":
        path.write_bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes())
    elif name == "cut":  # the index is at the front, so the file opens
        path.write_bytes(whole[: len(whole) // 2])
    elif name == "no_index":  # an mp4 of which the copy was interrupted: the index would come last
        write_mp4(path, grey_levels(24), fps=8)
        path.write_bytes(path.read_bytes()[:600])
    elif name == "scrambled":
        data = bytearray(whole)
        data[len(data) // 2 : len(data) // 2 + 4000] = b"\xff" * 4000
        path.write_bytes(data)
    elif name == "folder":
        path.mkdir()
    elif name == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("zero", r"empty \(0 bytes\)"),
        ("text", "not a video"),
        ("noise", "not a video"),
        ("sound", "no video stream, only audio"),
        ("cut", "truncated"),
        ("no_index", "truncated"),
        ("scrambled", "damaged"),
    ],
)
def test_refuses_bad_files_with_the_reason(tmp_path, name, reason):
    path = damaged(tmp_path, name)
    with pytest.raises(DataError, match=reason) as error:
        read_clip(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_truncated_matroska_is_noticed(tmp_path):
    path = tmp_path / "a.mkv"  # its header holds a duration but no number of frames
    frames = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    assert len(read_clip(path).frames) == 40
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="truncated"):
        read_clip(path)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_bytes": 1000}, "the limit is 1000"),
        ({"max_pixels": 100}, "160 x 90 pixels, the limit is 100"),
        ({"max_duration": 1.0}, "lasts 3.0 s, the limit is 1 s"),
        ({"num_frames": 75, "height": 9000, "width": 9000}, "GiB"),
    ],
)
def test_refuses_absurd_sizes(limits, reason):
    with pytest.raises(DataError, match=reason):
        read_clip(FIXTURE, **limits)


@pytest.mark.parametrize(
    "request_",
    [
        {"start": 2.0, "end": 1.0},
        {"start": 1.0, "end": 1.0},
        {"start": 3.5},
        {"end": 9.0},
        {"start": -1.0},
        {"start": float("nan")},
        {"num_frames": 0},
        {"fps": 0},
        {"fps": 1, "num_frames": 2},
    ],
)
def test_refuses_impossible_requests(request_):
    with pytest.raises(DataError):
        read_clip(FIXTURE, **request_)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 31, 32, 3), np.uint8),
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
    ],
)
def test_refuses_frames_it_cannot_write_and_leaves_no_file(tmp_path, frames):
    with pytest.raises(DataError):
        write_mp4(tmp_path / "a.mp4", frames, fps=8)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path):
    write_mp4(tmp_path / "a.mp4", grey_levels(3), fps=8)
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(DataError):
        write_mp4(tmp_path / "a.mp4", grey_levels(3), fps=-1)
    assert (tmp_path / "a.mp4").read_bytes() == before


def mutated(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    damaged, size = bytearray(data), len(data)
    if kind == "cut":
        return bytes(damaged[: rng.integers(1, size)])
    if kind == "hole":
        at = rng.integers(0, size - 2000)
        return bytes(damaged[:at] + damaged[at + rng.integers(1, 2000) :])
    reach = 2200 if kind == "header" else size
    for at in rng.integers(0, reach, rng.integers(1, 40)):
        damaged[at] = rng.integers(0, 256)
    return bytes(damaged)


@pytest.mark.parametrize("kind", ["cut", "hole", "header", "bytes"])
def test_any_damage_gives_a_reason_or_a_clip(tmp_path, kind):
    """40 random damages of each kind: nothing but DataError may come out, and no clip without frames and times."""
    rng, path, refused = np.random.default_rng(0), tmp_path / "a.mp4", 0
    for _ in range(40):
        path.write_bytes(mutated(FIXTURE.read_bytes(), kind, rng))
        try:
            clip = read_clip(path, num_frames=8)
        except DataError as error:
            refused += 1
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:
            assert len(clip.frames) == len(clip.timestamps) > 0
            assert (np.diff(clip.timestamps) > 0).all()
    assert refused >= 20


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_pieces_of_open_gop_files_equal_the_whole(tmp_path, suffix):
    """Frames after a seek are those of decoding from the start, although groups of pictures refer to each other."""
    path = tmp_path / f"a.{suffix}"
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        options = {"x264-params": "open-gop=1:keyint=40:bframes=3"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(300):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, i, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = read_clip(path)
    number = {round(time, 3): i for i, time in enumerate(whole.timestamps)}
    for start, fps in [(0.5, 3.0), (4.7, 1.0), (7.3, 0.5), (9.9, 5.0), (0.0, 0.4)]:
        piece = read_clip(path, start=start, fps=fps)
        for time, frame in zip(piece.timestamps, piece.frames, strict=True):
            assert np.array_equal(frame, whole.frames[number[round(time, 3)]])
