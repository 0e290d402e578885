"""A small but complete run folder, made up from the world, for the tests of everything that reads one."""

import json
import random
from pathlib import Path

import numpy as np
import yaml

from data_synth.world.captions import PROMPTS, caption, parse
from data_synth.world.render import render
from data_synth.world.script import draw_script
from rlkit.evaluate.caption_metrics import score, summarise
from rlkit.report import compare_table
from rlkit.report.film_strip import film_strip, save

PADDING = ("The scene is calm.", "It is a wonderful moment to look at.", "Everything fits together nicely.")
# How often a system tells the events in order, and how many padding sentences it adds.
SYSTEMS = {
    "base": (0.53, 1.5),
    "sft": (0.84, 0.1),
    "dpo_k1": (0.86, 0.05),
    "dpo": (0.94, 0.02),
    "dpo_shuffled": (0.45, 0.1),
}


def write_fake_run(path: Path, *, clips: int = 60, strips: int = 12, steps: int = 120, seed: int = 0) -> Path:
    """Write the folder and return its path; numbers are made up, their shapes and names are those of a real run."""
    rng = random.Random(seed)
    path.mkdir(parents=True, exist_ok=True)
    eval_rows, per_system = [], {name: [] for name in SYSTEMS}
    for index in range(clips):
        script = draw_script(seed, index, split="test")
        captions = {name: _caption(script.events, *how, rng) for name, how in SYSTEMS.items()}
        events = {"truth": [list(e) for e in script.events]}
        for name, text in captions.items():
            parsed = parse(text, "en")
            events[name] = [list(event) for event in parsed.events]
            row = score(script.events, parsed.events, len(parsed.extra), text)
            row["skill_colour"], row["skill_count"] = float(rng.random() < 0.95), float(rng.random() < 0.9)
            row["skill_probe"] = (row["skill_colour"] + row["skill_count"]) / 2
            row["blind_order_exact"] = float(rng.random() < 0.02)
            row["shuffled_order_exact"] = float(rng.random() < 0.2)
            per_system[name].append({"clip": str(index), **row})
        row = {"clip": f"{index:05}.mp4", "prompt": PROMPTS["en"], "truth": caption(script.events)}
        if index < strips:
            row["frames"] = f"samples/strips/{index:05}.jpg"
            frames = render(script)
            save(film_strip(frames, np.arange(len(frames)) / 8), path / row["frames"])
        eval_rows.append(row | {"captions": captions, "events": events})
    _lines(path / "samples/eval.jsonl", eval_rows)
    _lines(path / "samples/pairs.jsonl", [_pair(row) for row in eval_rows[:6]])
    _lines(path / "metrics.jsonl", _metrics(steps, rng))
    results = {
        "complete": True,
        "systems": {name: summarise(rows, resamples=300) for name, rows in per_system.items()},
        "differences": compare_table.differences({name: [rows] for name, rows in per_system.items()}),
        "cost": {"train_s": 203.4, "evaluate_s": 41.2, "peak_mib": 1530, "clips_per_second": 58.1},
    }
    (path / "results.json").write_text(json.dumps(results))
    recipe = {
        "algorithm": "dpo",
        "needs": ["sft_caption.yaml"],
        "seed": seed,
        "model": {"id": "runs/sft_caption/final", "dtype": "float32"},
        "data": {"source": "world", "num_clips": 400},
        "train": {"learning_rate": 1e-5, "max_steps": steps},
    }
    (path / "recipe.yaml").write_text("# dpo_caption, as it ran.\n" + yaml.safe_dump(recipe, sort_keys=False))
    env = {"started": "2026-01-02T03:04:05Z", "python": "3.11.2", "packages": {"torch": "2.14.1", "trl": "1.16.0"}}
    (path / "env.json").write_text(json.dumps(env))
    return path


def _caption(events, right, padding, rng):
    told = list(events)
    if rng.random() > right:
        if rng.random() < 0.2:
            told[rng.randrange(len(told))] = told[0]._replace(action="blinks")
        first, second = rng.sample(range(len(told)), 2)
        told[first], told[second] = told[second], told[first]
    text = caption(told)
    for _ in range(int(padding) + (rng.random() < padding % 1)):
        text += " " + rng.choice(PADDING)
    return text


def _pair(row):
    sentences = row["truth"].split(". ")
    swapped = ". ".join([sentences[1], sentences[0], *sentences[2:]])
    return {key: row[key] for key in ("clip", "prompt", "frames") if key in row} | {
        "chosen": row["truth"],
        "rejected": [swapped, row["truth"] + " " + PADDING[0], row["captions"]["base"]],
        "rejected_kind": ["order_swap", "verbose", "own_samples"],
        "margin": [1.32, 0.4, -0.21],
    }


def _metrics(steps, rng):
    rows = []
    for step in range(1, steps + 1):
        share = step / steps
        row = {
            "step": step,
            "loss": 0.69 * (1 - 0.8 * share) + 0.08 * rng.gauss(0, 1),
            "rewards/chosen": 0.6 * share + 0.1 * rng.gauss(0, 1),
            "rewards/rejected": -1.8 * share + 0.2 * rng.gauss(0, 1),
            "rewards/accuracies": min(1.0, 0.5 + 0.5 * share + 0.05 * rng.gauss(0, 1)),
            "logps/chosen": -14 - 2 * share + rng.gauss(0, 0.5),
            "logps/rejected": -16 - 9 * share + rng.gauss(0, 0.8),
            "grad_norm": 2 + abs(rng.gauss(0, 0.6)) + (40 if step == 31 else 0),
            "learning_rate": 1e-5 * (1 - share),
            "epoch": share,
            "time": 1.7e9 + step,
        }
        row["rewards/margins"] = row["rewards/chosen"] - row["rewards/rejected"]
        if step % 20 == 0:
            row |= {"order_accuracy": 0.84 + 0.1 * share, "grounding/blind": 1.1 + share, "eval_loss": row["loss"]}
        rows.append(row)
        if step == 70:
            rows.append({"step": 70, "alarm/displacement": -3.125, "time": 1.7e9 + step})
    return rows


def _lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
