"""Ends a run of several processes that stands still, and names the process that the others wait for.

In a collective everyone waits for the last: one process that hangs on a disk or a server, or was stopped, leaves the
others waiting for hours without a word. Each process therefore writes down, from a thread of its own, where its main
thread is and since when it has been there (`<run>/.ranks/<rank>.json`). One that waits is normal, since the main
process renders clips for an hour; that none has moved for `train.ddp_timeout` seconds is not, nor is a process that no
longer writes.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType

from rlkit.errors import RlkitError
from rlkit.running import ranks
from rlkit.running.folder import write_text

EXIT_CODE = 3
LOOKS = 20
"""Looks at the main thread within the time-out. One that is at the same place in all of them has not moved."""

LATE = 4
"""Pauses by which a look comes late where the whole process was suspended."""

STARTING_S = 300
"""A process that has given no sign so far may still be importing."""
GRACE_S = 10
"""The speaker's head start over the others, whose end makes the launcher end it."""
WAITING = f"torch{os.sep}autograd{os.sep}graph.py"
"""A backward pass, in which gradients are averaged over the processes."""


@dataclass(frozen=True)
class Sign:
    """Where the main thread of one process is, and for how many seconds it has been there."""

    rank: int
    host: str
    pid: int
    still_s: float
    place: str
    waits: bool
    """In a collective, for others."""


class Hearing:
    """How long ago, by this process's own clock, which never jumps, each file was last written."""

    def __init__(self) -> None:
        self.heard: dict[Path, tuple[tuple[int, int] | None, float | None]] = {}

    def age(self, path: Path, now: float) -> float | None:
        """Seconds at the time `now`; None where the file is not there, or as it was at the first look: of an earlier
        launch."""
        try:
            stat = path.stat()
            mark = (stat.st_ino, stat.st_mtime_ns)
        except FileNotFoundError:
            mark = None
        if path not in self.heard:
            self.heard[path] = (mark, None)
        elif mark is not None and mark != self.heard[path][0]:
            self.heard[path] = (mark, now)
        since = self.heard[path][1]
        return None if since is None else now - since


@contextmanager
def watched(folder: Path, timeout_s: float) -> Iterator[None]:
    """Inside, a thread watches this process and the others; alone, or with 0 seconds, nothing happens."""
    if ranks.count() == 1 or not timeout_s:
        yield
        return
    ended = threading.Event()
    signs = folder / ".ranks"
    watch = threading.Thread(target=_watch, args=(signs, timeout_s, threading.get_ident(), ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _watch(signs: Path, timeout_s: float, main_thread: int, ended: threading.Event) -> None:
    """Every so often: write where we are, read where the others are, and end it all where nothing moves. Time in which
    this thread did not run either, as when Slurm suspends a job, does not count."""
    began = moved = time.monotonic()
    last: tuple[object, ...] = ()
    hearing, pause, suspended = Hearing(), timeout_s / LOOKS, 0.0
    while True:
        now = time.monotonic() - suspended
        frame = sys._current_frames().get(main_thread)
        at = (_cpu_time(main_thread), *_position(frame))
        if at != last:
            last, moved = at, now
        place, waits = _place(frame)
        own = signs / f"{ranks.number()}.json"
        sign = Sign(ranks.number(), socket.gethostname(), os.getpid(), round(now - moved, 1), place, waits)
        write_text(own, json.dumps(asdict(sign)))
        sentence, speaker = verdict(own, timeout_s, now - began, partial(hearing.age, now=now))
        if sentence:
            _end(signs.parent.name, sentence, speaks=speaker == ranks.number())
        if ended.wait(pause):
            return
        late = time.monotonic() - suspended - now - pause
        suspended += late if late > LATE * pause else 0.0


def _end(name: str, sentence: str, *, speaks: bool) -> None:
    """Say it, for the launcher's last line too, and end this process, whose main thread cannot be woken."""
    if speaks:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        print(f"{name} stopped\n{sentence}", file=sys.stderr, flush=True)
        get_error_handler().record_exception(RlkitError(sentence))
    else:
        time.sleep(GRACE_S)
    os._exit(EXIT_CODE)


def verdict(own: Path, timeout_s: float, waited_s: float, age_of: Callable[[Path], float | None]) -> tuple[str, int]:
    """What is wrong, as the process whose sign is `own` sees it after `waited_s` seconds, "" where something moves; and
    the rank that says so. `age_of` a sign is as Hearing tells it."""
    found, silent = [], []
    for rank in range(ranks.count()):
        path = own.with_name(f"{rank}.json")
        age = 0.0 if path == own else age_of(path)
        sign = Sign(**json.loads(path.read_text(encoding="utf-8"))) if age is not None else None
        if age is None and waited_s < STARTING_S:
            continue
        if age is None or age > timeout_s:
            silent.append(f"rank {rank}" + (f" (process {sign.pid} on {sign.host})" if sign else ""))
        else:
            found.append(sign)
    since = f"for {timeout_s:g} s (train.ddp_timeout)"
    told = " ".join(f"Rank {sign.rank} is at {sign.place}." for sign in found)
    again = f"{told} Launch again to go on from the last whole checkpoint."
    speaker = min(sign.rank for sign in found)
    if silent:
        gone = "the process was stopped, or its machine is gone"
        return f"{', '.join(silent)} has given no sign {since}: {gone}. {again}", speaker
    if len(found) < ranks.count() or any(sign.still_s < timeout_s for sign in found):
        return "", speaker
    guilty = [f"rank {sign.rank} (process {sign.pid} on {sign.host})" for sign in found if not sign.waits]
    blame = f": the others wait for {', '.join(guilty)}" if 0 < len(guilty) < len(found) else ""
    return f"nothing has moved {since}{blame}. {again}", speaker


def _cpu_time(thread: int) -> float:
    """Seconds a thread has computed, by which a loop around one slow call differs from a thread that hangs. A GPU's
    driver computes while it waits, and says nothing."""
    if not ranks.on_cpu() or not hasattr(time, "pthread_getcpuclockid"):
        return 0.0
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def _position(frame: FrameType | None) -> tuple[object, ...]:
    """What changes as soon as the thread does anything in Python."""
    found: list[object] = []
    while frame is not None:
        found += [id(frame), frame.f_lasti]
        frame = frame.f_back
    return tuple(found)


def _place(frame: FrameType | None) -> tuple[str, bool]:
    """The innermost line outside torch and the standard library, with what it called; whether that is a collective."""
    waits, called = False, ""
    while frame is not None:
        path = frame.f_code.co_filename
        waits = waits or path.endswith(WAITING) or f"{os.sep}torch{os.sep}distributed{os.sep}" in path
        if "site-packages" not in path and not path.startswith((sys.base_prefix, "<")):
            name = "/".join(Path(path).parts[-3:])
            return f"{name}:{frame.f_lineno}" + (f" in {called}" if called else ""), waits
        called = called or frame.f_code.co_name
        frame = frame.f_back
    return called or "its end", waits
