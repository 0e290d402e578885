"""Killed at three moments and launched again, a run ends with the bytes of one that was never interrupted."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

MOMENTS = ("checkpoints/checkpoint-2/complete", "checkpoints/checkpoint-4/complete", "evaluation.jsonl")


def copy_recipes(chain, folder):
    folder.mkdir()
    for path in chain.glob("*.yaml"):
        shutil.copy(path, folder)


def launch(folder):
    env = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "dpo_caption.yaml"]
    return subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@pytest.mark.slow
def test_kill_9_changes_nothing(chain, tmp_path):
    whole = tmp_path / "whole"
    cut = tmp_path / "cut"
    for folder in (whole, cut):
        copy_recipes(chain, folder)
    assert launch(whole).wait(300) == 0
    run = cut / "runs/dpo_caption"
    for moment in MOMENTS:
        process = launch(cut)
        deadline = time.monotonic() + 240
        while not (run / moment).exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, f"the run ended before {moment}"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert launch(cut).wait(300) == 0
    for name in ("final/model.safetensors", "variants/dpo_shuffled/final/model.safetensors", "evaluation.jsonl"):
        assert (run / name).read_bytes() == (whole / "runs/dpo_caption" / name).read_bytes(), name
