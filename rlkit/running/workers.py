"""Runs jobs as processes of their own, several at once, each after the one it depends on."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rlkit.errors import RlkitError
from rlkit.running import environment, ranks


@dataclass(frozen=True)
class Job:
    """A command, the file that gets all it says, and the job whose end it waits for where that one is to run too."""

    command: list[str]
    log: Path
    after: str | None = None


def run_jobs(jobs: Mapping[str, Job], at_once: int, say: Callable[[str], None]) -> None:
    """Run all jobs, at most `at_once` at a time, each with its share of the cores and, where there are any, a GPU.

    `say` gets a line for each that ends. Raises RlkitError for the first that fails, with the end of its log; the
    others are then asked to stop, as they are where this process is interrupted, and save what they have.
    """
    waiting, running = dict(jobs), {}
    free = list(range(at_once))
    try:
        while waiting or running:
            for name in [one for one, job in waiting.items() if job.after not in {**waiting, **running}][: len(free)]:
                slot, job = free.pop(0), waiting.pop(name)
                with job.log.open("a", encoding="utf-8") as log:
                    process = subprocess.Popen(
                        job.command, env=_environment(slot, at_once), stdin=subprocess.PIPE, stdout=log, stderr=log
                    )
                running[name] = (process, slot, time.monotonic())
            time.sleep(0.05)
            for name, (process, slot, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[name]
                free.append(slot)
                process.stdin.close()
                if process.returncode:
                    lines = jobs[name].log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                    raise RlkitError(
                        f"{name}: {lines[-1] if lines else process.returncode} (all of it: {jobs[name].log})"
                    )
                done = len(jobs) - len(waiting) - len(running)
                say(f"{name}: done in {time.monotonic() - began:.0f} s, {done} of {len(jobs)}")
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.wait()
            process.stdin.close()


def end_with_parent() -> None:
    """In a job: end this process, without a word, once the one that runs the jobs has, in whatever way."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _environment(slot: int, at_once: int) -> dict[str, str]:
    """Of one job: not one of a launcher's several, its share of the cores, a GPU in turn."""
    cores = str(max(1, (os.cpu_count() or 1) // at_once))
    gpus = _gpus()
    pinned = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
    return {"OMP_NUM_THREADS": cores, **ranks.environment_alone(), **pinned}


def _gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [one for one in named.split(",") if one.strip()]
    return environment.gpu_numbers()
