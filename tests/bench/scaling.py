"""Two processes on a core each against one process on one core, for pairs, scoring and DPO: seconds for the same rows.

    python tests/bench/scaling.py [--repetitions 3] [--cases pairs scoring dpo]

Each run is the product's own command, one or two processes under torchrun, each process held to a core of its own, with
one thread. ours_s (two) and peer_s (one) are seconds that the run itself measured, so that imports and the launcher are
left out; wall_s has them in.
`pairs`: `algorithm: pairs` on captions from a template, all stages but the last: take in, make, fit, finish. The last
is the audit, which one process makes of at most 10,000 pairs however many there are; with_report_s has it in.
`scoring`: `rlkit reward score` of a small ConvNeXt V2 with heads on a folder of pictures, until the file is written.
`dpo`: caption DPO on the world's clips with the same global batch, from when the model is there to the last step.
`ratio` is one over two: 2 would be perfect. `ceiling` is what the machine allows: two single processes at once, one on
each core, that know nothing of each other, against one alone; cores share caches, memory and heat. Medians over
repetitions that alternate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ROWS = "train.per_device_train_batch_size"
CAPTIONS, PICTURES, STEPS, BATCH = 8000, 2400, 24, 32
PAIRS = """\
algorithm: pairs
data: {captions: captions.jsonl}
negatives: [order_swap, truncated, verbose, attribute_swap, count_change, direction_flip]
num_negatives: 4
pairs: {parser: rules, rows_per_shard: 500, workers: 0}
"""
CLIPS = """\
data: {num_clips: 128, num_frames: null, fps: 4, frame_size: 28}
evaluate: {num_clips: 2, max_new_tokens: 4, probe_clips: 2, controls: []}
"""
BASE = f"""\
algorithm: sft
model: {{init: qwen2_5_vl, tower: world, vision: frozen}}
train: {{max_steps: 1, save_steps: 0}}
{CLIPS}"""
DPO = f"""\
algorithm: dpo
model: {{id: base/final, vision: frozen}}
negatives: [order_swap, verbose, event_replace]
num_negatives: 4
loss: {{types: {{softmax: 1.0, sft: 1.0}}, beta: 0.5}}
train: {{learning_rate: 3.0e-4, max_steps: {STEPS}, logging_steps: 10, save_steps: 0}}
guards: {{every: 0}}
{CLIPS}"""


@dataclass(frozen=True)
class Case:
    """A command of rlkit by number of processes, and what it took by its own clock."""

    wanted: float
    words: Callable[[int], list[str]]
    """(processes) -> the command's words; `OUT` stands for where it writes."""
    measured: Callable[[Path, str], dict[str, float]]
    """(what it wrote, what it printed) -> `seconds`, and further numbers to show."""


def of_pairs(out: Path, _: str) -> dict[str, float]:
    """The stages that grow with the rows."""
    stages = json.loads((out / "results.json").read_text())["cost"]["stages"]
    return {"seconds": sum(stages.values()) - stages["report"], "with_report_s": sum(stages.values()), **stages}


def of_scoring(_: Path, told: str) -> dict[str, float]:
    """What the command says of itself."""
    found = json.loads(told.splitlines()[-1])
    if found["scored"] != PICTURES:
        sys.exit(told)
    return {"seconds": found["seconds"]}


def of_dpo(out: Path, _: str) -> dict[str, float]:
    """Training alone, all steps."""
    return {"seconds": json.loads((out / "results.json").read_text())["cost"]["train_seconds"]["dpo"]}


CASES = {
    "pairs": Case(1.8, lambda _: ["run", "pairs.yaml", "out=OUT"], of_pairs),
    "scoring": Case(1.8, lambda _: ["reward", "score", "reward", "pictures", "--out", "OUT"], of_scoring),
    "dpo": Case(
        1.6, lambda n: ["run", "dpo.yaml", "out=OUT", f"train.per_device_train_batch_size={BATCH // n}"], of_dpo
    ),
}


def prepare(folder: Path, cases: list[str]) -> None:
    """What the runs read."""
    if "pairs" in cases:
        from pairs_scale import write_captions

        write_captions(folder / "captions.jsonl", CAPTIONS)
        (folder / "pairs.yaml").write_text(PAIRS)
    if "scoring" in cases:
        from scoring import backbones, save_reward

        save_reward(folder / "reward", *backbones()["recipe's convnextv2, statistics"])
        (folder / "pictures").mkdir()
        draw = np.random.default_rng(0)
        for number in range(PICTURES):
            small = Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            small.resize((160, 160)).save(folder / "pictures" / f"{number:05}.jpg")
    if "dpo" in cases:
        (folder / "base.yaml").write_text(BASE)
        (folder / "dpo.yaml").write_text(DPO)
        command(folder, 1, ["run", "base.yaml", "out=base"])


def command(folder: Path, processes: int, words: list[str]) -> str:
    """A command of rlkit with so many processes; what it printed."""
    return finished(started(folder, processes, words))


def started(folder: Path, processes: int, words: list[str], core: int = 0) -> subprocess.Popen:
    """A command of rlkit that runs; one process alone on the core of this number."""
    launcher = [sys.executable] if processes == 1 else TORCHRUN
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    if processes == 1:
        environment["CORE"] = str(core)
    full = [*launcher, str(Path(__file__).resolve()), "--held", *words]
    return subprocess.Popen(
        full, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen) -> str:
    """What it printed."""
    told, complained = process.communicate()
    if process.returncode:
        sys.exit(told + complained)
    return told


def run(folder: Path, case: Case, out: str, processes: int) -> dict[str, float]:
    """One run; its numbers and the wall time of the whole command."""
    words = [word.replace("OUT", out) for word in case.words(processes)]
    began = time.perf_counter()
    told = command(folder, processes, words)
    wall = time.perf_counter() - began
    return case.measured(folder / out, told) | {"wall_s": wall}


def side_by_side(folder: Path, case: Case, out: str) -> float:
    """Seconds of two single processes at once, the mean of both."""
    outs = [f"{out}-{core}" for core in (0, 1)]
    words = [[word.replace("OUT", one) for word in case.words(1)] for one in outs]
    both = [started(folder, 1, one, core) for core, one in enumerate(words)]
    told = [finished(one) for one in both]
    return statistics.fmean(case.measured(folder / one, said)["seconds"] for one, said in zip(outs, told, strict=True))


def held(words: list[str]) -> None:
    """Be one process of a run, held to a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ.get("CORE", os.environ.get("LOCAL_RANK", "0")))]})
    if words[0] == "run":  # `rlkit run` would start a launcher of its own
        from rlkit.run import main as recipe

        recipe(words[1], words[2:])
    else:
        from rlkit.cli import main as verb

        verb(words)


def main() -> None:
    """Print a line per case, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=list(CASES))
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two processes on a core each need two cores; this process may use one.")
    cases = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.cases)
        for kind in options.cases:
            taken: dict[int, list[dict[str, float]]] = {1: [], 2: []}
            apart = []
            for number in range(options.repetitions):
                for processes in (1, 2) if number % 2 else (2, 1):
                    taken[processes].append(run(folder, CASES[kind], f"{kind}-{number}-{processes}", processes))
                apart.append(side_by_side(folder, CASES[kind], f"{kind}-{number}-apart"))
            one, two = ({key: statistics.median(row[key] for row in taken[n]) for key in taken[n][0]} for n in (1, 2))
            case = {"case": kind, "ours_s": round(two["seconds"], 2), "peer_s": round(one["seconds"], 2)}
            case |= {"ratio": round(one["seconds"] / two["seconds"], 3), "wanted": CASES[kind].wanted}
            case["ceiling"] = round(2 * one["seconds"] / statistics.median(apart), 3)
            case |= {
                f"{key}_{n}": round(row[key], 2) for n, row in ((1, one), (2, two)) for key in row if key != "seconds"
            }
            cases.append(case)
            print(case, flush=True)
    print(json.dumps({"bench": "scaling", "cases": cases}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--held"]:
        held(sys.argv[2:])
    else:
        main()
