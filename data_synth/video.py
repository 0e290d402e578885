"""Clips on disk: write H.264 mp4 files and read any video PyAV opens, with the true time of every frame."""

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np

from data_synth.errors import DataError

MAX_BYTES = 4 << 30  # a longer recording should be cut into clips first
MAX_DURATION = 4 * 3600.0  # seconds
MAX_PIXELS = 7680 * 4320  # 8K; a header that promises more is broken or hostile
MAX_FRAME_BYTES = 2 << 30  # memory the returned frames may take
SEEK_GAP = 48  # frames; decoding this many is cheaper than a seek


@dataclass(frozen=True)
class Clip:
    """Frames as uint8 [T, H, W, 3] (RGB); timestamps as float64 [T], seconds from the start of the file, strictly
    increasing; duration in seconds of the piece that was read; source_fps is the average rate of the file."""

    frames: np.ndarray
    timestamps: np.ndarray
    duration: float
    source_fps: float


def write_mp4(path: str | Path, frames: np.ndarray, fps: float, *, crf: int = 14) -> None:
    """Write uint8 frames [T, H, W, 3] as H.264 (yuv420p). Same frames, same bytes. The file appears whole or not
    at all.

    H and W must be even: yuv420p stores colour at half the resolution. crf: 0 is lossless, 51 is worst.
    """
    path = Path(path)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[0] == 0:
        raise DataError(f"{path}: frames are {frames.dtype} {list(frames.shape)}, expected uint8 [T >= 1, H, W, 3].")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise DataError(f"{path}: frames are {height} x {width}, but H.264 yuv420p needs an even height and width.")
    if not fps > 0:
        raise DataError(f"{path}: fps is {fps}, expected a number above 0.")
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # bitexact: no encoder version or date in the container, so that the same frames give the same bytes
        with av.open(str(aside), "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"preset": "ultrafast", "crf": str(crf)}
            for array in frames:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_clip(
    path: str | Path,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    height: int | None = None,
    width: int | None = None,
    decoder: Literal["av", "torchcodec"] = "av",
    max_bytes: int = MAX_BYTES,
    max_duration: float = MAX_DURATION,
    max_pixels: int = MAX_PIXELS,
) -> Clip:
    """Decode the frames shown between start and end (seconds), sampled evenly in time, each frame at most once.

    num_frames: that many frames, in the middle of as many equal intervals (all of them where there are fewer).
    fps: one frame every 1 / fps seconds from start on. Neither: every frame.
    height, width: resize; with one of them the aspect ratio is kept. Rotation metadata is applied.
    decoder: torchcodec, where it is installed, gives the same frames (resized ones within 2 of 255 in the mean), but
    does not notice damage inside a file.
    Raises DataError for a file that is missing, empty, no video, damaged, truncated or larger than the limits, and for
    torchcodec where it is not to be had.
    """
    path = Path(path)
    _check_request(path, num_frames, fps, start, end)
    _check_file(path, max_bytes)
    try:
        with _open(path, max_pixels) as container:
            times, keyframes, total = _index(container, container.streams.video[0], path)
        if total > max_duration:
            raise DataError(f"{path}: lasts {total:.1f} s, the limit is {max_duration:g} s; cut it into clips.")
        begin, stop = _piece(path, total, start, end)
        chosen = _choose(times, begin, stop, num_frames, fps)
        frames = _decode_torchcodec(path, chosen, times, (height, width)) if decoder == "torchcodec" else None
        if frames is None:
            frames = _decode(path, max_pixels, chosen, times, keyframes, (height, width))
    except av.error.FFmpegError as error:
        raise DataError(f"{path}: {_reason(error)}") from error
    seconds = np.array([times[i][0] for i in chosen], dtype=np.float64)
    return Clip(frames, seconds, stop - begin, len(times) / total if total > 0 else 0.0)


def _check_request(path, num_frames, fps, start, end) -> None:
    if num_frames is not None and fps is not None:
        raise DataError(f"{path}: num_frames={num_frames} and fps={fps} were both given; give one of them.")
    if num_frames is not None and num_frames < 1:
        raise DataError(f"{path}: num_frames is {num_frames}, expected at least 1.")
    if fps is not None and not fps > 0:
        raise DataError(f"{path}: fps is {fps}, expected a number above 0.")
    if start is not None and not (np.isfinite(start) and start >= 0):
        raise DataError(f"{path}: start is {start}, expected seconds from 0 on.")
    if end is not None and not (np.isfinite(end) and end > (start or 0.0)):
        raise DataError(f"{path}: end is {end} s, expected more than start ({start or 0.0:g} s).")


def _check_file(path: Path, max_bytes: int) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    if not path.is_file():
        raise DataError(f"{path}: is a folder, expected a video file.")
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes).")
    if size > max_bytes:
        raise DataError(f"{path}: {size} bytes, the limit is {max_bytes}; cut it into clips first.")


def _open(path: Path, max_pixels: int):
    """The opened container, checked: its first video stream can be decoded and is not larger than the limit."""
    container = av.open(str(path), metadata_errors="ignore")
    try:
        if not container.streams.video:
            kinds = sorted({s.type for s in container.streams})
            raise DataError(f"{path}: no video stream, only {', '.join(kinds) or 'nothing'}.")
        context = container.streams.video[0].codec_context
        if context is None:
            raise DataError(f"{path}: no decoder for its video codec; re-encode it as H.264.")
        if context.width * context.height > max_pixels:
            raise DataError(f"{path}: {context.width} x {context.height} pixels, the limit is {max_pixels} in all.")
        if context.width * context.height == 0:
            raise DataError(f"{path}: the picture size is unknown, so the file is damaged or not a video.")
        # starting threads costs more than decoding a small clip
        context.thread_count = 1 if context.width * context.height < 500_000 else 2
        context.thread_type = "AUTO"
    except BaseException:
        container.close()
        raise
    return container


def _index(container, stream, path: Path) -> tuple[list[tuple[float, int]], list[int], float]:
    """Times of all frames without decoding: sorted (seconds, pts), pts of the keyframes, and the duration in seconds.

    Refuses a file that holds less than its header promises.
    """
    # what an edit list cuts away (trimmed phone videos) is not in the index, but is counted in the header
    promised = min(stream.frames, len(stream.index_entries))
    packets, found = [], 0
    for packet in container.demux(stream):
        if packet.size == 0:  # the flush packet at the end
            continue
        found += 1
        if packet.is_corrupt:
            raise DataError(f"{path}: truncated or damaged after {len(packets)} of {promised or '?'} frames.")
        if packet.pts is None:
            raise DataError(f"{path}: frames carry no timestamps; remux it, e.g. `ffmpeg -i in -c copy out.mp4`.")
        if not packet.is_discard:
            packets.append((packet.pts, packet.duration or 0, packet.is_keyframe))
    if not packets:
        raise DataError(f"{path}: the video stream holds no frames.")
    packets.sort()
    base = float(stream.time_base)
    # players count from the first picture or sound of the file, which MPEG-TS does not put at 0
    origin = container.start_time / 1e6 if container.start_time is not None else packets[0][0] * base
    times = [(max(0.0, round(pts * base - origin, 6)), pts) for pts, _, _ in packets]
    last = packets[-1][1] * base
    if last == 0:
        last = (times[-1][0] - times[0][0]) / max(1, len(times) - 1)
    total = times[-1][0] + last
    if found < promised:
        raise DataError(f"{path}: truncated, the header promises {promised} frames and the file holds {found}.")
    _check_duration(container, stream, path, total)
    return times, [pts for pts, _, key in packets if key], total


def _check_duration(container, stream, path: Path, total: float) -> None:
    promised = None
    if stream.duration is not None:
        promised = float(stream.duration * stream.time_base)
    elif container.duration is not None and len(container.streams) == 1:
        promised = container.duration / 1e6
    if promised is not None and promised - total > max(0.5, 0.05 * promised):
        raise DataError(f"{path}: truncated, the header promises {promised:.2f} s and the frames end at {total:.2f} s.")


def _piece(path: Path, total: float, start: float | None, end: float | None) -> tuple[float, float]:
    begin = start or 0.0
    if begin >= total:
        raise DataError(f"{path}: start is {begin:g} s, but the video ends at {total:.2f} s.")
    if end is not None and end > total + 0.5:  # annotations often round the end up
        raise DataError(f"{path}: end is {end:g} s, but the video ends at {total:.2f} s.")
    return begin, total if end is None else min(end, total)


def _choose(times, begin: float, stop: float, num_frames: int | None, fps: float | None) -> list[int]:
    """Indices of the frames to decode, strictly increasing."""
    seconds = np.array([t for t, _ in times])
    first = max(0, int(np.searchsorted(seconds, begin + 1e-6, side="right")) - 1)  # the frame on screen at begin
    last = max(first + 1, int(np.searchsorted(seconds, stop - 1e-6, side="left")))
    count = last - first
    if num_frames is None and fps is None:
        return list(range(first, last))
    if fps is not None:
        wanted = begin + np.arange(max(1, int((stop - begin) * fps + 1e-6))) / fps
        shown = np.searchsorted(seconds, wanted + 1e-4, side="right") - 1
        return [int(i) for i in np.unique(np.clip(shown, first, last - 1))]
    num_frames = min(num_frames, count)
    wanted = begin + (np.arange(num_frames) + 0.5) * (stop - begin) / num_frames
    shown = np.clip(np.searchsorted(seconds, wanted, side="right") - 1, first, last - 1)
    chosen: list[int] = []
    for k, index in enumerate(shown):
        # a long still frame fills several intervals: take its neighbours rather than the same frame twice
        lowest = chosen[-1] + 1 if chosen else first
        chosen.append(int(min(max(index, lowest), last - num_frames + k)))
    return chosen


def _decode(path: Path, max_pixels: int, chosen, times, keyframes, size) -> np.ndarray:
    """Decode the chosen frames, jumping to a keyframe where that skips many frames."""
    found: dict[int, np.ndarray] = {}
    groups = _groups(chosen, times, keyframes)
    with _open(path, max_pixels) as container:
        for group in groups:
            if group[0] > SEEK_GAP:
                container.seek(times[group[0]][1], stream=container.streams.video[0], backward=True)
            _collect(container, path, group, times, size, len(chosen), found)
    if len(found) < len(chosen) and groups[-1][0] > SEEK_GAP:
        # some containers (MPEG-TS) do not seek exactly: decode from the start
        with _open(path, max_pixels) as container:
            _collect(container, path, chosen, times, size, len(chosen), found)
    missing = [i for i in chosen if i not in found]
    if missing:
        raise DataError(
            f"{path}: truncated or damaged, {len(missing)} of {len(chosen)} frames do not decode "
            f"(first at {times[missing[0]][0]:.2f} s)."
        )
    return np.stack([found[i] for i in chosen])


def _decode_torchcodec(path: Path, chosen, times, size) -> np.ndarray | None:
    """The chosen frames by torchcodec; None where it cannot read the file, or not as its index says."""
    from data_synth import torchcodec_frames

    found: list[np.ndarray] = []
    try:
        for picture in torchcodec_frames.pictures(path, chosen, [times[i][0] for i in chosen], times[0][0]):
            found.append(_picture(av.VideoFrame.from_ndarray(picture, format="rgb24"), size))
            if len(found) == 1:
                _check_memory(path, len(chosen), found[0])
    except (ImportError, LookupError, RuntimeError, ValueError) as error:
        reason = torchcodec_frames.problem()
        if reason is not None:
            raise DataError(f"{path}: the decoder torchcodec was asked for, but {reason}; or use av.") from error
        return None
    return np.stack(found)


def _collect(container, path: Path, wanted: list[int], times, size, count: int, found: dict[int, np.ndarray]) -> None:
    """Decode on from where the container stands until the last wanted frame has come, and keep the wanted ones."""
    index_of = {times[i][1]: i for i in wanted}
    last = times[wanted[-1]][1]
    for frame in container.decode(container.streams.video[0]):
        index = index_of.get(frame.pts)
        if index is not None:
            if frame.is_corrupt:
                raise DataError(f"{path}: the frame at {times[index][0]:.2f} s is damaged.")
            picture = _picture(frame, size)
            if not found:
                _check_memory(path, count, picture)
            elif picture.shape != next(iter(found.values())).shape:
                raise DataError(f"{path}: the picture changes size at {times[index][0]:.2f} s; re-encode it.")
            found[index] = picture
        if frame.pts is not None and frame.pts >= last:
            return


def _groups(chosen, times, keyframes) -> list[list[int]]:
    """Split the chosen frames where a later keyframe lets a seek skip more than SEEK_GAP frames."""
    pts = np.array([p for _, p in times])
    starts = np.searchsorted(pts, np.array(keyframes or [pts[0]]))
    groups = [[chosen[0]]]
    for index in chosen[1:]:
        keyframe = starts[max(0, np.searchsorted(starts, index, side="right") - 1)]
        if keyframe - groups[-1][-1] > SEEK_GAP:
            groups.append([index])
        else:
            groups[-1].append(index)
    return groups


def _picture(frame, size: tuple[int | None, int | None]) -> np.ndarray:
    """One frame as RGB [H, W, 3], resized and turned upright."""
    height, width = size
    turns = round(frame.rotation / 90) % 4
    shown = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
    if height is None and width is None:
        height, width = shown
    elif height is None:
        height = max(1, round(shown[0] * width / shown[1]))
    elif width is None:
        width = max(1, round(shown[1] * height / shown[0]))
    stored = (width, height) if turns % 2 else (height, width)
    # area averaging does not alias when shrinking; bilinear would skip source pixels
    method = "AREA" if stored[0] < frame.height or stored[1] < frame.width else "BICUBIC"
    # one thread: starting swscale's threads takes ten times as long as converting a small frame
    rgb = frame.reformat(height=stored[0], width=stored[1], format="rgb24", interpolation=method, threads=1)
    return np.rot90(rgb.to_ndarray(), turns)


def _check_memory(path: Path, count: int, picture: np.ndarray) -> None:
    needed = count * picture.nbytes
    if needed > MAX_FRAME_BYTES:
        raise DataError(
            f"{path}: {count} frames of {picture.shape[0]} x {picture.shape[1]} take {needed / 2**30:.1f} GiB, but the "
            f"limit is {MAX_FRAME_BYTES >> 30} GiB; give num_frames, fps, or a smaller height and width."
        )


def _reason(error: av.error.FFmpegError) -> str:
    if isinstance(error, av.error.InvalidDataError):
        return "not a video, or damaged or truncated so that FFmpeg cannot read it."
    return f"FFmpeg cannot read it ({error.strerror})."
