"""On a GPU: DeepSpeed and FSDP2 give the weights of a plain launch, other precisions and kernels train, runs resume.

Skipped without CUDA. One process each: what is tested is that weights which an engine holds come out whole.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from rlkit.plugins import ROOT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

RECIPE = """\
algorithm: dpo
model: {id: base/final}
data: {num_clips: 16, num_labelled: 12, num_frames: 6, frame_size: 56}
negatives: [own_samples, order_swap, verbose, event_replace]
num_negatives: 3
sampling: {num_samples: 2, judge: world, max_completion_length: 8}
loss: {types: {sigmoid: 1.0, sft: 0.5}, beta: 0.2, anchor: 0.1, video_conditional: 0.1}
train: {learning_rate: 1.0e-4, per_device_train_batch_size: 4, max_steps: 6, logging_steps: 1, save_steps: 2}
guards: {every: 3, num_clips: 4}
evaluate: {num_clips: 5, max_new_tokens: 8, probe_clips: 3, controls: [blind]}
"""
BASE = """\
algorithm: sft
model: {init: qwen2_5_vl, vision: full}
data: {num_clips: 16, num_frames: 6, frame_size: 56}
train: {learning_rate: 1.0e-3, per_device_train_batch_size: 8, max_steps: 4}
evaluate: {num_clips: 0}
"""


ENVIRONMENT = {
    **os.environ,
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
}


def launch(folder, config, *overrides, recipe="mine.yaml"):
    """accelerate launch of a recipe in `folder` with one of our configs and one process."""
    start = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_processes", "1", "--config_file"]
    command = [*start, str(ROOT / f"accelerate_configs/{config}.yaml"), "-m", "rlkit", recipe, *overrides]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds mine.yaml, the base it starts from, and a plain run of it in one/."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "mine.yaml").write_text(RECIPE)
    (folder / "base.yaml").write_text(BASE)
    launch(folder, "single", "out=base", recipe="base.yaml")
    launch(folder, "single", "out=one")
    return folder


def weights(folder, name):
    return load_file(folder / name / "final/model.safetensors")


def moved(start, end):
    """Distance between two sets of weights."""
    assert start.keys() == end.keys()
    return sum(float((start[name].float() - end[name].float()).square().sum()) for name in start) ** 0.5


def losses(run):
    """The training loss of every step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("config", ["zero2", "zero3", "fsdp2"])
def test_engines_give_the_weights_of_a_plain_launch(folder, config):
    launch(folder, config, f"out={config}")
    start, plain, engine = weights(folder, "base"), weights(folder, "one"), weights(folder, config)
    assert moved(start, plain) > 0.01
    assert moved(plain, engine) < 1e-2 * moved(start, plain)
    results = [json.loads((folder / name / "results.json").read_text())["systems"] for name in ("one", config)]
    assert results[0].keys() == results[1].keys()


@pytest.mark.parametrize("config", ["zero3", "fsdp2"])
def test_an_adapter_comes_out_whole(folder, config):
    lora = ("model.lora={r: 4}", "model.vision=frozen", "train.learning_rate=1e-3")
    launch(folder, config, f"out={config}_lora", *lora)
    launch(folder, "single", "out=one_lora", *lora)
    plain, engine = (
        load_file(folder / name / "final/adapter_model.safetensors") for name in ("one_lora", f"{config}_lora")
    )
    zero = {name: torch.zeros_like(tensor) for name, tensor in plain.items() if "lora_B" in name}
    ours = {name: engine[name] for name in zero}
    theirs = {name: plain[name] for name in zero}
    assert plain.keys() == engine.keys()
    assert moved(theirs, ours) < 0.05 * moved(zero, theirs)


def test_muon_is_refused_where_matrices_are_shared_out(folder):
    with pytest.raises(AssertionError, match="muon, which needs whole matrices"):
        launch(folder, "zero2", "out=muon", "train.optim=muon")


@pytest.mark.parametrize(
    "change", ["train.bf16=true", "model.dtype=bfloat16", "model.attn_implementation=flex_attention"]
)
def test_other_precisions_and_kernels_learn_alike(folder, change):
    name = change.rpartition("=")[2] + str(len(change))
    launch(folder, "single", f"out={name}", change)
    plain, other = (losses(folder / run) for run in ("one", name))
    assert plain[-1] < 0.95 * plain[0]
    if change == "model.dtype=bfloat16":  # steps below a weight's rounding are lost: it learns, but more slowly
        assert other[-1] < 0.95 * other[0]
    else:
        assert other == pytest.approx(plain, rel=1e-3 if "flex" in change else 3e-2)


def test_a_resumed_run_gives_the_same_bytes(folder):
    exact = ("train.full_determinism=true", "guards.every=0")
    launch(folder, "single", "out=whole", *exact)
    killed = "import os, signal; from rlkit.caption import trainer; old = trainer.MarkCheckpoints.on_save\n"
    killed += "def on_save(self, *a, **k):\n    old(self, *a, **k); os.kill(os.getpid(), signal.SIGKILL)\n"
    killed += "trainer.MarkCheckpoints.on_save = on_save\nfrom rlkit.run import run; run('mine.yaml', {overrides})\n"
    command = [sys.executable, "-c", killed.format(overrides=["out=cut", *exact])]
    assert subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True).returncode == -9
    launch(folder, "single", "out=cut", *exact)
    one, two = ((folder / name / "final/model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == two
