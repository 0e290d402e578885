"""Processes that work together: in order, not for ever where one is killed, and not longer than the main one."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest

from data_synth.pool import in_processes


def square(number: int) -> int:
    return number * number


def killed_at_five(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def slow(number: int) -> int:
    time.sleep(0.2)
    return number


def test_results_come_in_order():
    assert list(in_processes(square, range(10), 2, chunksize=3)) == [number * number for number in range(10)]


def test_a_worker_that_is_killed_is_an_error():
    """multiprocessing.Pool would wait for its answer for ever."""
    with pytest.raises(BrokenProcessPool):
        list(in_processes(killed_at_five, range(10), 2, chunksize=1))


def test_whoever_is_interrupted_does_not_wait_for_the_rest():
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for number in in_processes(slow, range(1000), 2, chunksize=1):
            if number == 1:
                raise KeyboardInterrupt
    assert time.monotonic() - began < 60  # of 100 s


POOL = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from data_synth.pool import end_with_parent

if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, initializer={initializer}) as pool:
        print(*(pool.submit({work}).result() for _ in range(1)), *pool._processes, flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("ours", [True, False])
def test_workers_of_a_killed_process_end(tmp_path, ours):
    script = tmp_path / "pool.py"
    script.write_text(POOL.format(initializer="end_with_parent" if ours else None, work="abs, -3"))
    root = Path(__file__).parents[2]
    command = [sys.executable, str(script)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(root)})
    answer, *pids = map(int, process.stdout.readline().split())
    workers = [psutil.Process(pid) for pid in pids]
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20 if ours else 2)
    for one in alive:
        one.kill()
    assert answer == 3 and workers
    assert not alive if ours else alive  # should Python end them by itself one day, ours can go
