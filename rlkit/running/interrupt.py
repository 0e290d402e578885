"""Ctrl-C and SIGTERM (Slurm, torchrun): finish the step, save, then stop with the command that resumes.

A second Ctrl-C stops at once. One signal often comes twice: Slurm and the terminal send it to all processes, and
torchrun hands on to its processes what it gets itself. What follows within COPY_S is therefore taken for the same one,
and a further SIGTERM changes nothing: SIGKILL follows it.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rlkit.running import ranks

COPY_S = 2.0


class Interrupted(KeyboardInterrupt):
    """The user or the scheduler asked the run to stop; `exit_code` is the shell's for that signal."""

    def __init__(self, number: int):
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


class _State:
    """The one signal that may be waiting: handlers have no other place to leave it."""

    process: int | None = None
    held: bool = False
    waiting: int | None = None
    last: float = -math.inf
    """When the last one came that counted."""


@contextmanager
def caught() -> Iterator[None]:
    """Inside, both signals raise Interrupted, or wait for the end of the step inside `held()`."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    _State.process, _State.last = os.getpid(), -math.inf
    before = [signal.signal(number, _received) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _received(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _State.process:  # a worker forked from the run: it just ends, without a word
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    now = time.monotonic()
    if now - _State.last < COPY_S or (_State.waiting is not None and number != signal.SIGINT):
        return
    _State.last = now
    if _State.held and _State.waiting is None:
        _State.waiting = number
        return
    raise Interrupted(number)


def requested() -> bool:
    """Whether a signal is waiting at any process of the run; from then on it waits at all of them.

    A training loop asks after each step, in every process; if so it saves a checkpoint and leaves.
    """
    waiting = [number for number in ranks.gathered(_State.waiting) if number is not None]
    if waiting and _State.waiting is None:
        _State.waiting = waiting[0]  # this process stops as the others do, at the same step
    return bool(waiting)


@contextmanager
def held() -> Iterator[None]:
    """Inside, the first signal only sets `requested()`; it is raised as Interrupted at the end of the block."""
    _State.held = True
    try:
        yield
    finally:
        _State.held = False
        number, _State.waiting = _State.waiting, None
    if number is not None:
        raise Interrupted(number)
