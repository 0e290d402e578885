"""A pool whose main process is killed ends; without the initializer its workers stay."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

POOL = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from data_synth.orphans import end_with_parent

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
