"""Two processes train a DPO run as one does with twice the batch: the same samples, reference, steps and weights."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from data_synth.records import read_records
from rlkit.evaluate.held_out import read_rows
from rlkit.plugins import ROOT

LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--config_file",
    str(ROOT / "accelerate_configs/ddp.yaml"),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
RECIPE = """\
algorithm: dpo
model: {id: runs/base_caption/final}
data: {num_clips: 20, num_labelled: 14, num_frames: 6, frame_size: 56}
negatives: [own_samples, order_swap, verbose, event_replace]
num_negatives: 3
sampling: {num_samples: 2, judge: world, max_completion_length: 8}
loss: {types: {sigmoid: 1.0, sft: 0.5}, beta: 0.2, anchor: 0.1, video_conditional: 0.1}
train: {learning_rate: 1.0e-4, max_steps: 6, logging_steps: 1, save_steps: 4}
guards: {every: 3, num_clips: 4}
evaluate: {num_clips: 5, max_new_tokens: 8, probe_clips: 3, controls: [blind], per_device_eval_batch_size: 2}
"""


@pytest.fixture
def folder(chain, tmp_path, monkeypatch):
    shutil.copytree(chain / "runs/base_caption", tmp_path / "runs/base_caption")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command, *overrides):
    command = [*command, "-m", "rlkit", "mine.yaml", *overrides]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def measured(path):
    """The training loss and the other numbers of each step; the clock and what depends on the batches' shapes aside."""
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    aside = ("time", "sharing_ratio", "margin_length_correlation")
    return [{key: value for key, value in line.items() if not key.startswith(aside)} for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_give_the_weights_of_one_with_twice_the_batch(folder):
    alone = run([sys.executable], "out=runs/one", "train.per_device_train_batch_size=4")
    both = run([*LAUNCH, "--num_processes", "2", "--quiet"], "out=runs/two", "train.per_device_train_batch_size=2")
    for text in ("starting in", "sampling 2 captions of 20 clips", "pairs from", "training on"):
        assert alone.count(text) == both.count(text) > 0, text  # one process speaks
    assert read_records("runs/one/pairs")[:] == read_records("runs/two/pairs")[:]
    start, one, two = (load_file(f"runs/{name}/final/model.safetensors") for name in ("base_caption", "one", "two"))
    assert one.keys() == two.keys()
    moved = sum(float((one[name] - start[name]).square().sum()) for name in start) ** 0.5
    apart = sum(float((one[name] - two[name]).square().sum()) for name in start) ** 0.5
    assert moved > 0.01
    assert apart < 1e-4 * moved  # fp32 sums in another order
    for alone, both in zip(measured("runs/one/metrics.jsonl"), measured("runs/two/metrics.jsonl"), strict=True):
        assert both == {name: pytest.approx(value, rel=1e-3, abs=1e-4) for name, value in alone.items()}
    rows = [read_rows(Path(f"runs/{name}/evaluation.jsonl")) for name in ("one", "two")]
    assert rows[0] == rows[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_stop_at_one_step_and_go_on_to_the_same_bytes(folder):
    settings = ["train.per_device_train_batch_size=2", "train.save_steps=2", "train.max_steps=40"]
    run(TORCHRUN, "out=runs/whole", *settings)
    command = [*TORCHRUN, "-m", "rlkit", "mine.yaml", "out=runs/cut", *settings]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not Path("runs/cut/checkpoints/checkpoint-4/complete").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # torchrun hands it to both, one after the other
    assert process.wait(120) != 0
    checkpoints = sorted(path.name for path in Path("runs/cut/checkpoints").iterdir())
    assert all((Path("runs/cut/checkpoints") / name / "complete").exists() for name in checkpoints)
    assert not Path("runs/cut/final").exists()
    run(TORCHRUN, "out=runs/cut", *settings)
    for name in ("final/model.safetensors", "evaluation.jsonl"):
        assert (Path("runs/cut") / name).read_bytes() == (Path("runs/whole") / name).read_bytes(), name
