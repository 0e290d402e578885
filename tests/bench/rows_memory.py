"""Start-up time and memory, 1,000 rows against 20,000: they should not depend on the number.

python tests/bench/rows_memory.py [--sizes 1000 20000] [--repetitions 9]
Reading: a fresh process imports, opens the pairs, takes the first row (first_row_cpu_s, of which open_cpu_s is after
the imports) and then 500 rows at random. peak_mib is resident memory at its highest until the first row; held_mib is
the process's own memory (RssAnon) at the end, without pages of the memory map, which the system may drop.
Training: a fresh process is launched on a DPO recipe of these pairs, whose reference log-probs a first launch has
computed, and stopped after three steps: first_step_s and first_step_cpu_s are wall and CPU seconds until the first
step is done; peak_mib and held_mib as above, at the end. CPU seconds are not stretched by other load.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from data_synth.records import make_record, text_of, write_records
from data_synth.video import write_mp4
from rlkit.models import tiny

CHILD = """
import time
start = time.process_time()
import json, random, sys
from pathlib import Path
from data_synth.records import read_records

opening = time.process_time()
rows = read_records(sys.argv[1])
first = rows[0]
end = time.process_time()

def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

peak = kib("VmHWM")
draw = random.Random(0)
for _ in range(500):
    rows[draw.randrange(len(rows))]
held = kib("RssAnon")
print(json.dumps({"first_row_cpu_s": end - start, "open_cpu_s": end - opening, "peak_mib": peak, "held_mib": held}))
"""


TRAINING = """
import time
start = time.process_time()
import json, os, sys
from transformers import TrainerCallback
from rlkit.caption import trainer
from rlkit.run import run

first = []

class Clock(TrainerCallback):
    def on_step_end(self, *_, **__):
        first.append((time.time() - float(sys.argv[1]), time.process_time()))

inner = trainer.train
trainer.train = lambda *given, callbacks, **named: inner(*given, callbacks=[*callbacks, Clock()], **named)
run("dpo.yaml")
lines = open("/proc/self/status").read().splitlines()
peak, held = (int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmHWM", "RssAnon")))
print(json.dumps({"first_step_s": first[0][0], "first_step_cpu_s": first[0][1], "peak_mib": peak, "held_mib": held}))
"""

RECIPE = """
algorithm: dpo
model: {{id: {model}}}
data: {{source: pairs, pairs: {pairs}, folder: ., num_frames: 2, frame_size: 28, cache_gib: 0.1}}
negatives: [order_swap]
num_negatives: 4
loss: {{types: {{softmax: 1.0}}}}
train: {{max_steps: 3, per_device_train_batch_size: 8}}
evaluate: {{num_clips: 0}}
"""


def row(i: int) -> dict:
    """Pair number i."""
    sentence = "A person in a red coat walks to the left and picks up box number {}. "
    chosen = "".join(sentence.format(i * 7 + k) for k in range(6))
    rejected = [(f"kind_{k}", chosen.replace(f"number {i * 7 + k}", "number 0")) for k in range(4)]
    return make_record("Describe the clip.", chosen, rejected, videos=["clips/0.mp4"], source_id=str(i), seed=i)


def clip_and_model(folder: Path) -> None:
    """One short clip, which every row shows, and a tiny captioner to start from."""
    clip = folder / "clips/0.mp4"
    clip.parent.mkdir()
    write_mp4(clip, np.random.default_rng(0).integers(0, 255, (8, 56, 56, 3), dtype=np.uint8), 4)
    sizes = {"hidden_size": 32, "num_layers": 1, "vision_hidden_size": 32, "vision_depth": 1}
    texts = ["Describe the clip.", *(text_of(row(i)["chosen"]) for i in range(40))]
    network, processor = tiny.build("qwen2_5_vl", texts, **sizes)
    network.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")


def launch(folder: Path, size: int) -> dict[str, float]:
    """Start the training of `size` rows in a run folder that has its reference and no checkpoint."""
    at = folder / f"train-{size}"
    at.mkdir(exist_ok=True)
    (at / "dpo.yaml").write_text(RECIPE.format(model=folder / "model", pairs=folder / str(size)))
    (at / "clips").unlink(missing_ok=True)
    (at / "clips").symlink_to(folder / "clips")
    for name in ("results.json", "metrics.jsonl", "checkpoints", "final"):
        path = at / "runs/dpo" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    command = [sys.executable, "-c", TRAINING, str(time.time())]
    answer = subprocess.run(command, cwd=at, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(answer.stdout + answer.stderr)
    return json.loads(answer.stdout.splitlines()[-1])


def measure(folder: Path) -> dict[str, float]:
    """What one start in a process of its own took."""
    answer = subprocess.run([sys.executable, "-c", CHILD, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def medians(runs: dict[int, list[dict[str, float]]], what: str) -> tuple[list[dict], dict[str, float]]:
    """The middle value of every number for each size, and how much larger it is for the last size than the first."""
    cases = []
    for size, measured in runs.items():
        middle = {name: statistics.median(run[name] for run in measured) for name in measured[0]}
        cases.append({"case": f"{what}, rows={size}", **{name: round(value, 4) for name, value in middle.items()}})
    growth = {name: round(cases[-1][name] / cases[0][name], 3) for name in cases[0] if name != "case"}
    print(f"{what}, {list(runs)[-1]} rows over {next(iter(runs))} rows: {growth}", flush=True)
    return cases, growth


def main() -> None:
    """Compare a start at two sizes; print the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs=2, default=[1_000, 20_000])
    parser.add_argument("--repetitions", type=int, default=9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip_and_model(folder)
        for size in given.sizes:
            write_records(map(row, range(size)), folder / str(size))
            launch(folder, size)  # computes the reference log-probs
        reading: dict[int, list[dict[str, float]]] = {size: [] for size in given.sizes}
        training: dict[int, list[dict[str, float]]] = {size: [] for size in given.sizes}
        for _ in range(given.repetitions):
            for size in given.sizes:  # in turn, so that a busy machine slows both
                reading[size].append(measure(folder / str(size)))
                training[size].append(launch(folder, size))
        read_cases, read_growth = medians(reading, "reading")
        train_cases, train_growth = medians(training, "training")
    growth = {"reading": read_growth, "training": train_growth}
    print(json.dumps({"bench": "rows_memory", "cases": read_cases + train_cases, "growth": growth}))


if __name__ == "__main__":
    main()
