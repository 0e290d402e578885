"""Algorithm x configuration: every cell launches a recipe with two real processes and our own accelerate config.

A cell asserts what ran (processes, engine, ZeRO stage, how much of weights and optimiser a process holds) and that the
trained weights are those of DDP within fp32 noise. `make test` runs a few cells; `make matrix` all (MATRIX=all), and
prints the table.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlkit.plugins import ROOT
from rlkit.recipe.file import load
from rlkit.rewards.run import fresh
from tests.torture import jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WHOLE = os.environ.get("MATRIX") == "all"
CONFIGS = ("ddp", "zero2", "zero3", "fsdp2", "multi_node")
ALGORITHMS = ("dpo", "grpo", "reward", "reward_heads", "diffusion_dpo", "nft", "bootstrap", "pairs")
GENERATORS = ("diffusion_dpo", "nft", "bootstrap")
IN_TESTS = {
    ("dpo", "zero3"),
    ("nft", "fsdp2"),
    ("pairs", "multi_node"),
}
CELLS = [
    (algorithm, config) for algorithm in ALGORITHMS for config in CONFIGS if WHOLE or (algorithm, config) in IN_TESTS
]
SHORT = {
    "dpo": ["train.max_steps=6"],
    "dpo_lora": ["train.max_steps=6"],
    "grpo": ["train.max_steps=4", "sampling.gate=off"],  # noise that turns over one drawn token makes other captions
    "reward": ["train.max_steps=6"],
    "reward_heads": ["train.max_steps=6"],
    "diffusion_dpo": ["train.max_steps=8"],
    "nft": ["train.max_steps=8"],
}
HANDOVERS = [
    ("nft", "ddp", "fsdp2"),
    ("nft", "fsdp2", "ddp"),
    ("nft", "zero3", "one"),
    ("nft", "one", "zero2"),
    ("dpo", "zero3", "ddp"),
    ("dpo", "ddp", "zero3"),
    ("dpo", "fsdp2", "one"),
    ("dpo", "zero2", "fsdp2"),
    ("dpo_lora", "zero3", "ddp"),
    ("dpo_lora", "ddp", "fsdp2"),
    ("reward_heads", "zero3", "fsdp2"),
]
"""(algorithm, configuration it is killed under, configuration it goes on under); `one` is a single process."""
HEADS = """\
algorithm: reward
model: {init: convnextv2, vision: frozen}
data: {source: gallery, num_clips: 6, frame_size: 72}
reward: {vetoes: [anatomy, artefact], crops: 1, features: statistics}
evaluate: {num_clips: 1, split: dev}
"""
"""Of `reward_heads`: a reward on a frozen vision encoder. `reward` is a captioner that judges."""
NOISE = 1e-3
"""Distance of the weights from DDP's over the distance that training moved DDP's: sums in another order."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what recipes start from, and the recipes."""
    place = tmp_path_factory.mktemp("matrix")
    (place / "start").mkdir()
    jobs.prepare(place / "start")
    for name, text in (jobs.RECIPES | {"reward_heads": HEADS + jobs.SLOW_STEPS}).items():
        (place / f"{name}.yaml").write_text(text.replace(jobs.START, str(place / "start")))
    dpo = (place / "dpo.yaml").read_text()
    (place / "dpo_lora.yaml").write_text(dpo.replace("start/base}", "start/base, vision: frozen, lora: {r: 4}}"))
    return place


def launch(place: Path, algorithm: str, config: str, out: str, *, kill_at: int | None = None) -> list[dict]:
    """Run a recipe with two processes under a config; what each of them wrote down. With `kill_at` it dies after the
    checkpoint of this step."""
    ran = place / f"ran-{out}"
    shutil.rmtree(ran, ignore_errors=True)
    ran.mkdir()
    environment = jobs.environment() | {"RAN": str(ran), "DS_ACCELERATOR": "cpu"}
    if kill_at is not None:
        environment["KILL_AT"] = str(kill_at)
    if config in ("zero2", "zero3", "fsdp2"):
        environment.pop("ACCELERATE_USE_CPU")
    name, count = ("single", "1") if config == "one" else (config, "2")
    start = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_processes", count]
    start += ["--config_file", str(ROOT / f"accelerate_configs/{name}.yaml"), "--main_process_port", str(free_port())]
    tail = ["-m", "tests.matrix.on_cpu", f"{algorithm}.yaml", f"out={out}", *SHORT.get(algorithm, [])]
    machines = [["--machine_rank", str(rank)] for rank in (0, 1)] if config == "multi_node" else [[]]
    logs = [(ran / f"log-{at}.txt").open("w") for at in range(len(machines))]
    started = [
        subprocess.Popen([*start, *machine, *tail], cwd=place, env=environment, stdout=log, stderr=log)
        for machine, log in zip(machines, logs, strict=True)
    ]
    codes = [one.wait(600) for one in started]
    said = "\n".join((ran / f"log-{at}.txt").read_text()[-3000:] for at in range(len(machines)))
    assert (codes == [0] * len(machines)) == (kill_at is None), said
    return [json.loads(path.read_text()) for path in sorted(ran.glob("ran-*.json"))]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def ddp(place):
    """Algorithm -> what its DDP run wrote down; made once, in <algorithm>-ddp."""
    made = {}

    def of(algorithm: str) -> list[dict]:
        if algorithm not in made:
            made[algorithm] = launch(place, algorithm, "ddp", f"{algorithm}-ddp")
        return made[algorithm]

    return of


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of final/, by file and name."""
    paths = sorted((folder / "final").rglob("*.safetensors"))
    assert paths
    return {f"{path.name}/{name}": one.float() for path in paths for name, one in load_file(path).items()}


def apart(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() == two.keys()
    return sum(float((one[name] - two[name]).square().sum()) for name in one) ** 0.5


@pytest.mark.parametrize(("algorithm", "config"), CELLS)
def test_cell(place, ddp, algorithm, config):
    out, whole = f"{algorithm}-{config}", place / f"{algorithm}-ddp"
    ran = ddp(algorithm)
    if config != "ddp":
        ran = launch(place, algorithm, config, out)
    if algorithm == "pairs":
        names = [path.relative_to(whole) for path in sorted(whole.rglob("*.parquet"))]
        assert len(names) > 4
        for name in names:
            assert (place / out / name).read_bytes() == (whole / name).read_bytes()
        return
    assert [one["processes"] for one in ran] == [2, 2]
    for one in ran:
        check(one, algorithm, config)
    moved = way(place, algorithm, weights(whole))
    distance = apart(weights(place / out), weights(whole))
    print(f"| {algorithm} | {config} | {ran[0]['engine']} {ran[0]['zero'] or ''} | {distance / moved:.1e} |")
    assert moved > 1e-3
    assert distance < NOISE * moved


def way(place: Path, algorithm: str, trained: dict[str, torch.Tensor]) -> float:
    """How far training moved the weights; an adapter starts with an up matrix of zeros."""
    if algorithm in (*GENERATORS, "dpo_lora"):
        start = {name: one * (".lora_B." not in name) for name, one in trained.items()}
    elif algorithm == "reward_heads":
        heads = fresh(load(place / "reward_heads.yaml")).heads.named_parameters()
        start = {f"heads.safetensors/heads.{name}": one.detach() for name, one in heads}
    else:
        base = load_file(place / "start/base/model.safetensors")
        start = {name: base[name.partition("/")[2]].float() for name in trained if name.partition("/")[2] in base}
    return apart(start, {name: trained[name] for name in start})


def check(ran: dict, algorithm: str, config: str) -> None:
    """What a process wrote down is what the configuration promises."""
    half = pytest.approx(0.5, abs=0.02)
    held, moved = ran["held"] / ran["whole"], ran["moved"] / ran["whole"]
    if config in ("ddp", "multi_node"):
        assert ran["engine"] in ("MULTI_CPU", "DDP") and held == moved == 1
    elif algorithm in GENERATORS or config == "fsdp2":
        assert ran["engine"] == "FSDP" and held == half and moved == half
    else:
        assert (ran["engine"], ran["zero"]) == ("DEEPSPEED", int(config[-1]))
        assert held == (1 if config == "zero2" else half)
        assert moved == half


@pytest.mark.parametrize(("algorithm", "before", "after"), HANDOVERS if WHOLE else [])
def test_a_killed_run_goes_on_under_another_configuration(place, ddp, algorithm, before, after):
    """On as many processes it goes on as if nothing had happened; on another number each step sees other rows."""
    out = f"{algorithm}-{before}-then-{after}"
    launch(place, algorithm, before, out, kill_at=3)
    assert not (place / out / "final").exists()
    launch(place, algorithm, after, out)
    steps = [line["step"] for line in map(json.loads, (place / out / "metrics.jsonl").open()) if "loss" in line]
    assert steps == list(range(1, steps[-1] + 1)) and steps[-1] == (8 if algorithm == "nft" else 6)
    assert all(one.isfinite().all() for one in weights(place / out).values())
    if "one" not in (before, after):
        ddp(algorithm)
        whole = weights(place / f"{algorithm}-ddp")
        distance, moved = apart(weights(place / out), whole), way(place, algorithm, whole)
        print(f"| {algorithm} | {before}, then {after} | {distance / moved:.1e} |")
        assert moved > 1e-3
        assert distance < NOISE * moved
