"""Killed at three moments and launched again, a run ends with the bytes of one that was never interrupted.

The moments are drawn over the whole time of the uninterrupted run, one in each third of it: rendering, the needed
recipe, sampling, pairs, reference, training, evaluation, variants. A moment is told by the file written last before it
and the seconds since, so that it means the same on a busy machine.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SEED = 0  # another one kills at other moments
PATIENCE = 240  # seconds without the awaited file after which the test gives up


def copy_recipes(chain, folder):
    folder.mkdir()
    for path in chain.glob("*.yaml"):
        shutil.copy(path, folder)


def launch(folder):
    env = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    log = (folder / "log.txt").open("w")
    command = [sys.executable, "-u", "dpo_caption.yaml"]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)


def written(folder):
    """(seconds, file) of what a finished run left, in the order it was written; files that grow are left out."""
    last = (folder / "runs/dpo_caption/results.json").stat().st_mtime
    files = [path for path in (folder / "runs").rglob("*") if path.is_file() and not path.name.startswith(".")]
    timed = [(path.stat().st_mtime, path.relative_to(folder)) for path in files if path.name != "metrics.jsonl"]
    return sorted(one for one in timed if one[0] <= last)


def moments(timed, seed):
    """Three times of the whole run as (last file before, seconds after it, next file)."""
    rng = random.Random(seed)
    first, last = timed[0][0], timed[-1][0]
    found = []
    for third in range(3):
        at = first + (third + rng.random()) / 3 * (last - first)
        before = max(number for number, (when, _) in enumerate(timed) if when <= at)
        found.append((timed[before][1], at - timed[before][0], timed[before + 1][1]))
    return found


def kill_at(folder, before: Path, seconds: float, after: Path):
    process = launch(folder)
    there = (folder / before).exists()  # from an earlier launch: then the seconds count from the first sign of life
    sign = folder / ("log.txt" if there else before)
    deadline = time.monotonic() + PATIENCE
    while not (sign.exists() and (not there or sign.stat().st_size)) and process.poll() is None:
        assert time.monotonic() < deadline, f"{before} did not appear: {(folder / 'log.txt').read_text()}"
        time.sleep(0.005)
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None and not (folder / after).exists():
        time.sleep(0.005)
    assert process.poll() is None, f"the run ended by itself: {(folder / 'log.txt').read_text()}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def numbers(path):
    """metrics.jsonl without the clock."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time")} for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_changes_nothing(chain, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        copy_recipes(chain, folder)
    assert launch(whole).wait(600) == 0
    timed = written(whole)
    for moment in moments(timed, SEED):
        kill_at(cut, *moment)
    assert launch(cut).wait(600) == 0, (cut / "log.txt").read_text()
    same = [path for _, path in timed if path.name in ("model.safetensors", "evaluation.jsonl")]
    same = [path for path in same if "checkpoints" not in path.parts]
    assert len(same) == 2 * 5  # base and its variant, dpo and its two
    for path in same:
        assert (cut / path).read_bytes() == (whole / path).read_bytes(), path
    for path in (whole / "runs").rglob("metrics.jsonl"):
        assert numbers(cut / path.relative_to(whole)) == numbers(path), path
    results = [json.loads((folder / "runs/dpo_caption/results.json").read_text()) for folder in (whole, cut)]
    for key in ("systems", "differences"):
        assert json.dumps(results[0][key]) == json.dumps(results[1][key])
