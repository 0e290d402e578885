"""Several processes of which one hangs: the run ends in time and names it; one that others wait for long is let be."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from rlkit.running import standstill
from rlkit.running.standstill import Sign, verdict

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rlkit"]
# Rank 1 does what the file says while rank 0 waits for it.
ALGORITHM = """\
import os, time
from pathlib import Path
from rlkit.running import ranks
def answer():
    time.sleep(60)
def run(recipe, folder):
    Path("pid").write_text(str(os.getpid())) if ranks.number() == 1 else None
    ranks.wait()
    Path("ready").touch()
    if ranks.number() == 1:
        if recipe.seed == 1:
            answer()
        for _ in range(200):
            time.sleep(0.1)
    ranks.wait()
    folder.finish({})
"""
RECIPE = "algorithm: ./waits.py\ntrain: {ddp_timeout: 8}\n"


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """(overrides) -> the process of a run with two ranks."""
    monkeypatch.chdir(tmp_path)
    Path("waits.py").write_text(ALGORITHM)
    Path("mine.yaml").write_text(RECIPE)
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    started = []

    def start(*overrides):
        command = [*TORCHRUN, "mine.yaml", *overrides]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            for process in [*psutil.Process(one.pid).children(recursive=True), one]:
                process.kill()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_process_that_hangs_is_named_with_its_line(launched):
    process = launched("seed=1")
    _, told = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "nothing has moved for 8 s (train.ddp_timeout): the others wait for rank 1 (process" in told
    assert "waits.py:5. Launch again" in told  # where it sleeps
    assert not Path("runs/mine/results.json").exists()


def wait_for_change(path):
    """Until the file is written anew."""
    before = path.stat().st_mtime_ns if path.exists() else None
    while not path.exists() or path.stat().st_mtime_ns == before:
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_stopped_process_is_named(launched):
    process = launched("seed=2")
    while not Path("ready").exists():
        assert process.poll() is None
        time.sleep(0.05)
    signs = Path("runs/mine/.ranks")
    for rank in (0, 0, 1):  # rank 0 has looked, and rank 1 gives a sign after that: one that gave none may be importing
        wait_for_change(signs / f"{rank}.json")
    os.kill(int(Path("pid").read_text()), signal.SIGSTOP)
    _, told = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "rank 1 (process" in told and "has given no sign for 8 s" in told


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_waiting_for_one_that_works_is_no_standstill(launched):
    """Rank 0 waits twenty seconds, longer than its time-out, for rank 1, which moves."""
    process = launched("seed=2")
    _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert Path("runs/mine/results.json").exists()


def sign(folder, rank, still_s, waits):
    path = folder / f"{rank}.json"
    path.write_text(json.dumps(asdict(Sign(rank, f"node{rank}", 100 + rank, still_s, f"a.py:{rank}", waits))))


@pytest.mark.parametrize(
    ("signs", "waited_s", "said"),
    [
        ([(50, True), (1, False)], 301, ""),
        ([(50, True), (50, False)], 301, "the others wait for rank 1 (process 101 on node1). Rank 0 is at a.py:0."),
        ([(50, True), (50, True)], 301, "(train.ddp_timeout). Rank 0 is at a.py:0. Rank 1 is at a.py:1."),
        ([(50, False), (50, False)], 301, "(train.ddp_timeout). Rank 0 is at a.py:0."),
        ([(50, True), (1, False, 60)], 301, "rank 1 (process 101 on node1) has given no sign for 30 s"),
        ([(50, True)], 299, ""),
        ([(50, True), (1, False, None)], 299, ""),  # the other's sign is of an earlier launch
        ([(1, True)], 301, "rank 1 has given no sign for 30 s"),
    ],
)
def test_what_is_said(tmp_path, monkeypatch, signs, waited_s, said):
    monkeypatch.setenv("WORLD_SIZE", "2")
    ages = dict.fromkeys((tmp_path / "0.json", tmp_path / "1.json"))
    for rank, (still, waits, *age) in enumerate(signs):
        sign(tmp_path, rank, still, waits)
        ages[tmp_path / f"{rank}.json"] = age[0] if age else 0.0
    told, speaker = verdict(tmp_path / "0.json", 30, waited_s, ages.get)
    assert speaker == 0 and (said in told if said else told == "")


def test_how_old_a_sign_is_does_not_follow_a_clock_that_jumps(tmp_path):
    path, hearing = tmp_path / "1.json", standstill.Hearing()
    path.write_text("{}")
    os.utime(path, (5000, 5000))
    assert hearing.age(path, 90) is None and hearing.age(path, 99) is None  # as an earlier launch left it
    for now, stamp in ((100, 1400), (120, 8600)):  # an hour back, two on
        os.utime(path, (stamp, stamp))
        assert hearing.age(path, now) == 0 and hearing.age(path, now + 7) == 7


class Looks:
    """Stands for the event that ends the watch and for the clock: each look comes `pauses` s after the one before, and
    rank 1 gives a sign before it where `hears` says so."""

    def __init__(self, folder, pauses, hears):
        self.folder, self.left, self.now = folder, list(zip(pauses, hears, strict=True)), 1000.0

    def wait(self, pause):
        if not self.left:
            return True
        seconds, heard = self.left.pop(0)
        self.now += seconds
        if heard:
            sign(self.folder, 1, 0.0, False)
            os.utime(self.folder / "1.json", (self.now, self.now))
        return False


@pytest.mark.parametrize(
    ("pauses", "hears", "ends"),
    [
        ([1] * 40, [True] * 40, False),
        (
            [1] * 5 + [3600] + [1] * 10,
            [True] * 5 + [False] * 3 + [True] * 8,
            False,
        ),  # Slurm's suspend: rank 1 wakes late
        ([1] * 40, [True] * 5 + [False] * 35, True),
        ([1] * 5 + [3600] + [1] * 30, [True] * 5 + [False] * 31, True),  # rank 1 does not wake
    ],
)
def test_a_job_that_was_suspended_as_a_whole_is_no_standstill(tmp_path, monkeypatch, pauses, hears, ends):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(standstill, "STARTING_S", 3)
    looks, told = Looks(tmp_path, pauses, hears), []
    monkeypatch.setattr(time, "monotonic", lambda: looks.now)
    monkeypatch.setattr(standstill, "_end", lambda name, sentence, speaks: told.append(sentence))
    standstill._watch(tmp_path, 20, threading.get_ident(), looks)
    assert bool(told) == ends and all("rank 1 (process 101 on node1) has given no sign for 20 s" in one for one in told)


def test_alone_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with standstill.watched(tmp_path, 1):
        assert not list(tmp_path.iterdir())
