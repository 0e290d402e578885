"""Ctrl-C and SIGTERM (Slurm, torchrun): finish the step, save, then stop with the command that resumes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rlkit.running import ranks


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


@contextmanager
def caught() -> Iterator[None]:
    """Inside, both signals raise Interrupted, or wait for the end of the step inside `held()`."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    _State.process = os.getpid()
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
    if _State.held and _State.waiting is None:
        _State.waiting = number  # a second signal does not wait
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
