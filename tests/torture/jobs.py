"""What is killed: every algorithm, data job and server, small enough to end in seconds, and what they start from."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RLKIT = [sys.executable, "-c", "from rlkit.cli import main; main()"]
RUN = [sys.executable, "-m", "rlkit", "recipe.yaml"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TWO_RANKS = [*TORCHRUN, "-m", "rlkit"]

START = "START"  # stands in recipes and commands for the folder that `prepare` fills
PORT = "PORT"  # and this for the port of the job's server
REWARDS = '''\
"""Redness of a picture, number of letters of a caption: rewards that any two completions differ in."""
import numpy as np
def load(device="cpu"):
    def score(*, prompts, completions, **_):
        return [float(len(one)) if isinstance(one, str) else float(np.asarray(one, np.float64)[..., 0].mean())
                for one in completions]
    score.score_tensors = lambda *, prompts, pixels: 255 * pixels[:, 0].mean((1, 2))
    return score
'''
SERVED = '''\
"""The number at a caption's end, slowly; every seventh caption has no score."""
import time
def load(device="cpu"):
    def score(*, prompts, completions, **_):
        time.sleep(0.004 * len(completions))
        numbers = [int(one.rpartition(" ")[2]) for one in completions]
        return [None if number % 7 == 0 else float(number) for number in numbers]
    return score
'''
CAPTION = """\
data: {num_clips: 24, num_frames: 6, frame_size: 56}
evaluate: {num_clips: 4, max_new_tokens: 8, probe_clips: 2, controls: [blind]}
"""
GENERATOR = """\
model: {id: START/flow, lora: {r: 4, lora_alpha: 8.0}}
rewards: [START/own.py]
generation: {resolution: 16, num_inference_steps: 3, num_generations: 4, eval_inference_steps: 2, eval_samples: 2}
evaluate: {num_clips: 2}
guard: {every: 4, num_prompts: 2, num_samples: 2}
"""
STEPS = (
    "train: {learning_rate: 1.0e-2, per_device_train_batch_size: 4, max_steps: 12, logging_steps: 1, save_steps: 3}\n"
)
SLOW_STEPS = STEPS.replace("1.0e-2", "1.0e-3")
PAIRS = "data: {source: pairs, pairs: START/pairs}\n"

RECIPES = {
    "sft": "algorithm: sft\nmodel: {init: qwen2_5_vl, vision: full}\n" + CAPTION + SLOW_STEPS,
    "dpo": "algorithm: dpo\nmodel: {id: START/base}\nnegatives: [own_samples, order_swap, verbose]\nnum_negatives: 3\n"
    "sampling: {num_samples: 2, judge: world, max_completion_length: 8}\nguards: {every: 4, num_clips: 4}\n"
    + CAPTION.replace("num_clips: 24", "num_clips: 24, num_labelled: 16")
    + SLOW_STEPS,
    "grpo": "algorithm: grpo\nmodel: {id: START/base, vision: frozen}\nrewards: [START/own.py]\n"
    "sampling: {max_completion_length: 6, gate: off}\ngrpo: {num_generations: 4, num_iterations: 2}\n"
    "guards: {every: 4, num_clips: 2}\n" + CAPTION + SLOW_STEPS,
    "reward": "algorithm: reward\nmodel: {id: START/base, vision: frozen}\nnegatives: [order_swap, event_replace]\n"
    "num_negatives: 3\n" + CAPTION.partition("evaluate")[0] + "evaluate: {num_clips: 4}\n" + SLOW_STEPS,
    "pairs": "algorithm: pairs\ndata: {captions: START/captions.jsonl}\nnegatives: [order_swap, truncated, verbose]\n"
    "num_negatives: 3\npairs: {balance: both, parser: rules, rows_per_shard: 100, workers: 1}\n",
    "pairs_image": "algorithm: pairs_image\n"
    + GENERATOR.partition("guard")[0].replace(", lora: {r: 4, lora_alpha: 8.0}", "").partition("evaluate")[0]
    + "image_pairs: {num_groups: 48, rows_per_shard: 4, batch_size: 8, redraw: 2}\n",
    "diffusion_sft": "algorithm: diffusion_sft\nmodel: {init: stable_diffusion_3}\ndata: {num_clips: 24}\n"
    "rewards: [world_picture]\nevaluate: {num_clips: 2}\n"
    "generation: {resolution: 16, width: 64, layers: 1, patch_size: 4, eval_inference_steps: 2, eval_samples: 2}\n"
    + STEPS,
    "diffusion_dpo": "algorithm: diffusion_dpo\n" + GENERATOR + PAIRS + STEPS,
    "diffusion_kto": "algorithm: diffusion_kto\n" + GENERATOR + PAIRS + STEPS,
    "nft": "algorithm: nft\nonline: {num_iterations: 2}\n" + GENERATOR + STEPS,
    "flow_grpo": "algorithm: flow_grpo\nonline: {num_iterations: 2}\n" + GENERATOR + STEPS,
    "ddpo": "algorithm: ddpo\nonline: {num_iterations: 2}\n" + GENERATOR.replace("START/flow", "START/epsilon") + STEPS,
    "online_dpo": "algorithm: online_dpo\nonline: {num_iterations: 2}\n" + GENERATOR + STEPS,
    "reward_backprop": "algorithm: reward_backprop\nreward_backprop: {grad_steps: 1}\n" + GENERATOR + STEPS,
    "distill": "algorithm: distill\ndistill: {teacher_steps: 4, num_targets: 24}\n"
    + GENERATOR.replace("num_inference_steps: 3", "num_inference_steps: 1, guidance_scale: 2.0")
    + STEPS,
    "bootstrap": "algorithm: bootstrap\nsampling: {gate: off}\n"
    "bootstrap: {rounds: 2, num_samples: 24, keep_share: 0.25, clusters: 3, rows_per_shard: 8, num_class_images: 12,\n"
    "  max_diversity_drop: 1.0, patience: 9, trigger: null}\ndata: {num_clips: 8}\n"
    + GENERATOR.replace("every: 4, ", "")
    + STEPS.replace("12", "6").replace("save_steps: 3", "save_steps: 2"),
    "bootstrap_caption": "algorithm: bootstrap_caption\nmodel: {id: START/base}\nrewards: [START/own.py]\n"
    "sampling: {num_samples: 3, max_completion_length: 6, gate: off, gate_clips: 4}\n"
    "bootstrap_caption: {rounds: 2, max_diversity_drop: 1.0, patience: 9}\n"
    + CAPTION.replace("num_clips: 24", "num_clips: 24, num_labelled: 4")
    + SLOW_STEPS.replace("12", "6").replace("save_steps: 3", "save_steps: 2"),
    "rewriter": "algorithm: rewriter\nsampling: {gate: off}\n"
    'rewriter: {generator: START/flow, instruction: "{prompt}", steps: {sft: 4, dpo: 4, grpo: 4}, num_prompts: 24,\n'
    "  num_rewrites: 2, num_pictures: 1, max_completion_length: 5, min_margin: 0.0, width: 32, layers: 1}\n"
    "data: {num_clips: 40}\nrewards: [START/own.py]\nevaluate: {num_clips: 3}\n"
    "generation: {resolution: 16, num_inference_steps: 1, eval_inference_steps: 1, eval_samples: 2}\n"
    "train: {per_device_train_batch_size: 4, logging_steps: 1, save_steps: 1}\n",
    "feedback": "algorithm: feedback\ndata: {log: START/clicks.parquet}\nfeedback: {min_ess: 5}\n",
    "compare": "algorithm: compare\nevaluate: {num_clips: 2, controls: []}\ncompare:\n  seeds: [0, 1]\n  systems:\n"
    "    base: {recipe: START/nft.yaml, seeds: [0], set: {train.max_steps: 0}}\n"
    "    nft: {recipe: START/nft.yaml, set: {train.max_steps: 8}}\n",
}
SCORE = ["reward", "score", "http://127.0.0.1:PORT", "START/numbers.jsonl", "--out", "out/scores.parquet"]
SCORE += ["--batch-size", "16", "--option", "batch_size=4"]
PICK = ["pick", "START/flow", "world", "--make", "4", "--keep", "2", "--rewards", "START/own.py", "--out", "out"]
PICK += ["--resolution", "16", "--num-inference-steps", "4", "--batch-size", "4"]
NEGATIVES = ["negatives", "START/captions.jsonl", "--kinds", "order_swap,verbose", "--out", "out/negatives.jsonl"]


@dataclass(frozen=True)
class Job:
    """One thing to kill; `recipe` is written to recipe.yaml in its folder, and `command` run there, beside `server`."""

    name: str
    recipe: str
    command: list[str]
    ranks: int = 1
    server: list[str] | None = None


def all_jobs() -> list[Job]:
    """Every algorithm alone, some of each kind with several processes, the command line's data jobs, and a server."""
    alone = [Job(name, text, [*RUN, "out=out"]) for name, text in RECIPES.items()]
    both = [
        Job(f"{name}, 2 ranks", RECIPES[name], [*TWO_RANKS, "recipe.yaml", "out=out"], 2)
        for name in ("dpo", "grpo", "pairs", "diffusion_dpo", "nft", "bootstrap")
    ]
    workers = [
        Job(f"{name}, 2 workers", RECIPES[name], [*RUN, "out=out", f"{name}.workers=2"])
        for name in ("pairs", "compare")
    ]
    lines = [Job(words[0], "", [*RLKIT, *words]) for words in (NEGATIVES, PICK)]
    server = [*RLKIT, "reward", "serve", "START/rewards.yaml", "--port", PORT]
    two = [*TORCHRUN, "--no-python", *RLKIT, *SCORE]
    served = [
        Job("score, server", "", [*RLKIT, *SCORE], 1, server),
        Job("score, server, 2 ranks", "", two, 2, server),
    ]
    return [*lines, *served, *alone, *workers, *both]


def environment() -> dict[str, str]:
    """Of every process here: one thread, no network, the CPU."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    more = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": paths}
    return os.environ | more


def prepare(start: Path) -> None:
    """The captioner, generators, pairs, captions, clicks and rewards that the jobs start from; made once, the
    trained ones not again where they are there."""
    import pyarrow.parquet as pq

    from data_synth.feedback.simulate import World, simulate
    from data_synth.world import pictures
    from rlkit.models import tiny_pipelines

    (start / "own.py").write_text(REWARDS)
    (start / "served.py").write_text(SERVED)
    (start / "rewards.yaml").write_text(f"served: {{reward: {start}/served.py}}\n")
    texts = [pictures.prompt(one) for one in pictures.descriptions()[::9]]
    tiny_pipelines.flow_default(texts, size=16, patch_size=8, width=32, layers=1).save_pretrained(start / "flow")
    tiny_pipelines.epsilon_default(texts, size=16, widths=(8, 16)).save_pretrained(start / "epsilon")
    pq.write_table(simulate(World(prompts=6, sessions=3_000), seed=0).table(), start / "clicks.parquet")
    people, things = ("man", "woman", "boy", "girl", "chef"), ("box", "cup", "rope", "door")
    captions = (
        f"A {people[n % 5]} with badge {n} opens a red {things[n % 4]}. Then the {people[n % 5]} turns to the left. "
        f"Finally the {people[n % 5]} throws {n} balls into the sea."
        for n in range(1200)
    )
    write_rows(start / "captions.jsonl", ({"id": f"c{n}", "caption": text} for n, text in enumerate(captions)))
    write_rows(start / "numbers.jsonl", ({"id": f"n{n}", "completion": f"number {n}"} for n in range(1500)))
    for name, text in RECIPES.items():
        (start / f"{name}.yaml").write_text(text.replace(START, str(start)))
    for name, out in (("sft", "base"), ("pairs_image", "pairs")):
        if (start / out).exists():
            continue
        made = start / "made" / name
        command = [*RUN[:-1], str(start / f"{name}.yaml"), f"out={made}"]
        done = subprocess.run(command, cwd=start, env=environment(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        (start / out).symlink_to(made / "final" if name == "sft" else made)


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
