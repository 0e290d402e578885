"""Sampled frames on disk, so that a clip is decoded once and memory-mapped from then on."""

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from data_synth.records import content_id
from data_synth.video import Clip, read_clip

FORMAT = 1  # part of every key; raise it when read_clip samples or scales differently
HASH_WHOLE = 16 << 20  # bytes; of larger files the size and 16 blocks are hashed
ORPHAN_AGE = 3600.0  # seconds after which an unfinished file is taken for a killed process's


class FramesCache:
    """Frames of clips as uint8 .npy files with their times beside them, named by file content and sampling.

    Entries are removed, the least recently used first, when they take more than max_bytes. Several processes may share
    one folder. Nothing is read at start, so start-up does not depend on the number of clips.
    """

    def __init__(self, folder: str | Path, max_bytes: int = 50 << 30):
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.decoded = 0
        """Clips this object had to decode, for a progress display and for tests."""
        self._bytes: int | None = None

    def clip(
        self,
        path: str | Path,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        height: int | None = None,
        width: int | None = None,
        decoder: Literal["av", "torchcodec"] = "av",
    ) -> Clip:
        """What read_clip gives for the same arguments; frames are a copy-on-write memory map where they were cached.

        Raises DataError as read_clip does; failures are not remembered.
        """
        sampling = {"num_frames": num_frames, "fps": fps, "start": start, "end": end, "height": height, "width": width}
        if decoder != "av":
            sampling["decoder"] = decoder
        try:
            stat = Path(path).stat()
            content = _file_hash(str(path), stat.st_size, stat.st_mtime_ns)
        except OSError:
            return read_clip(path, **sampling)  # says what is wrong with the file
        key = content_id(FORMAT, content, sampling)
        frames_path = self.folder / key[:2] / f"{key}.npy"
        clip = _load(frames_path)
        if clip is None:
            clip = read_clip(path, **sampling)
            self.decoded += 1
            self._store(frames_path, clip)
        return clip

    def _store(self, frames_path: Path, clip: Clip) -> None:
        if clip.frames.nbytes > self.max_bytes:
            return
        frames_path.parent.mkdir(parents=True, exist_ok=True)
        about = {"timestamps": clip.timestamps.tolist(), "duration": clip.duration, "source_fps": clip.source_fps}
        _write_aside(frames_path.with_suffix(".json"), lambda file: file.write(json.dumps(about).encode()))
        # last: an entry counts once its frames are there
        _write_aside(frames_path, lambda file: np.save(file, clip.frames, allow_pickle=False))
        if self._bytes is None:
            self._bytes = sum(size for _, size, _ in self._entries())
        else:
            self._bytes += clip.frames.nbytes
        if self._bytes > self.max_bytes:
            self._evict(keep=frames_path)

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(last used, bytes, path) of every entry."""
        entries = []
        for path in self.folder.glob("??/*.npy"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process removed it
                continue
            entries.append((stat.st_mtime, stat.st_size, path))
        return entries

    def _evict(self, keep: Path) -> None:
        """Remove the least recently used entries until a tenth of the room is free, so that this is rarely needed."""
        entries = sorted(self._entries())
        self._bytes = sum(size for _, size, _ in entries)
        newest = entries[-1][0] if entries else 0.0
        for path in self.folder.glob("??/.part-*"):
            with contextlib.suppress(FileNotFoundError):  # its writer is done
                if newest - path.stat().st_mtime > ORPHAN_AGE:
                    path.unlink()
        for _, size, path in entries:
            if self._bytes <= 0.9 * self.max_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)  # open memory maps of it stay valid
                path.with_suffix(".json").unlink(missing_ok=True)
                self._bytes -= size


def _load(frames_path: Path) -> Clip | None:
    """The cached clip, or None where there is none or a crash left half of one."""
    try:
        frames = np.load(frames_path, mmap_mode="c", allow_pickle=False)
        about = json.loads(frames_path.with_suffix(".json").read_text())
    except (FileNotFoundError, ValueError, EOFError):
        return None
    if frames.dtype != np.uint8 or frames.ndim != 4 or len(frames) != len(about["timestamps"]):
        return None
    os.utime(frames_path)  # its last use
    return Clip(frames, np.array(about["timestamps"]), about["duration"], about["source_fps"])


def _write_aside(path: Path, write) -> None:
    handle, aside = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        with contextlib.suppress(FileNotFoundError):  # the clock jumped, and another process took it for an orphan
            Path(aside).replace(path)
    finally:
        Path(aside).unlink(missing_ok=True)


@functools.lru_cache(maxsize=1 << 16)
def _file_hash(path: str, size: int, modified: int) -> str:
    """Hash of a file's content; size and modification time are only there to notice that it changed."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with Path(path).open("rb") as file:
        if size <= HASH_WHOLE:
            digest.update(file.read())
        else:
            block = HASH_WHOLE // 16
            for i in range(16):
                file.seek(i * (size - block) // 15)
                digest.update(file.read(block))
    return digest.hexdigest()
