"""Jobs in processes of their own: order, number at once, cores, failures, interruption."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from rlkit.errors import RlkitError
from rlkit.plugins import ROOT
from rlkit.running import workers
from rlkit.running.workers import Job, run_jobs

NOTE = """
import sys, time
for sign in "+-":
    open("order", "a").write(f"{sign}{sys.argv[1]} ")
    time.sleep(0.3)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(place, name, code=NOTE, after=None):
    return Job([sys.executable, "-S", "-c", code, name], place / f"{name}.log", after)


def test_each_waits_for_the_one_before_it_and_at_most_two_run(place):
    said = []
    jobs = {"a": job(place, "a"), "b": job(place, "b", after="a"), "c": job(place, "c"), "d": job(place, "d")}
    run_jobs(jobs, 2, said.append)
    order = (place / "order").read_text().split()
    assert order.index("-a") < order.index("+b") and len(order) == 8
    at_once = [sum(1 if one[0] == "+" else -1 for one in order[:end]) for end in range(9)]
    assert max(at_once) == 2
    assert len(said) == 4 and said[-1].endswith("4 of 4")


def test_a_failure_ends_the_others_and_shows_the_last_line(place):
    fails = "import sys; print('first'); sys.exit('the last line')"
    waits = "import time; time.sleep(60)"
    began = time.monotonic()
    with pytest.raises(RlkitError, match=r"bad: the last line \(all of it: .*bad.log\)"):
        run_jobs({"long": job(place, "long", waits), "bad": job(place, "bad", fails)}, 2, print)
    assert time.monotonic() - began < 30


def test_an_interruption_stops_the_jobs_softly(place):
    code = "import signal, sys, time\n"
    code += "signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w').close(), sys.exit(0)))\n"
    code += "open('ready', 'w').close()\ntime.sleep(60)\n"

    def stop(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            while not (place / "ready").exists():
                signal.setitimer(signal.ITIMER_REAL, 3)
                run_jobs({"one": job(place, "one", code)}, 1, print)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (place / "saved").exists()


JOB = "import time; from rlkit.running.workers import end_with_parent\n"
JOB += "end_with_parent(); print('on', flush=True); time.sleep(60)"
PARENT = f"""
import sys
from pathlib import Path
from rlkit.running.workers import Job, run_jobs
run_jobs({{"one": Job([sys.executable, "-c", {JOB!r}], Path("one.log"))}}, 1, print)
"""


def test_jobs_end_with_the_process_that_runs_them(place):
    """Else a comparison that was killed and started again would train each system twice at once, in one folder."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], env=os.environ | {"PYTHONPATH": str(ROOT)})
    while not (place / "one.log").exists() or not (place / "one.log").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    (job,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert not psutil.wait_procs([job], timeout=20)[1]


def test_cores_are_shared_out_and_gpus_taken_in_turn(monkeypatch):
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setenv("WORLD_SIZE", "1")
    found = [workers._environment(slot, 4) for slot in range(4)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["2", "5", "2", "5"]
    assert {one["OMP_NUM_THREADS"] for one in found} == {"2"} and "WORLD_SIZE" not in found[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert workers._environment(0, 4)["OMP_NUM_THREADS"] == "3"  # the user's word
