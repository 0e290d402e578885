"""The start of a training, from launch to its first step, takes as long and as much memory for ten times the rows."""

import json
import os
import subprocess
import sys

import pytest

from rlkit.plugins import ROOT


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_time_and_memory_do_not_grow_with_the_rows():
    command = [sys.executable, "tests/bench/rows_memory.py", "--sizes", "300", "3000", "--repetitions", "3"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    growth = json.loads(done.stdout.splitlines()[-1])["growth"]["training"]
    for name in ("first_step_cpu_s", "peak_mib", "held_mib"):
        assert growth[name] < 1.1, growth
