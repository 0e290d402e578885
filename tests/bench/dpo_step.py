"""One training step of DPO with reference: ours against trl.DPOTrainer's own training_step, in one process.

Same tiny Qwen2.5-VL with all weights trained, same pixels (one picture of 961 tokens), same captions of about 64
tokens, fp32, no gradient checkpointing on either side. TRL computes its reference in every step, since it refuses to
precompute it for pictures; ours looks it up in the cache that rlkit/caption/reference.py fills once. With K negatives
TRL takes K pairs, one after the other. Also timed: ours with the reference computed in the step, and our own step on
separate rows, whose ratio to one row is compared with the ratio of token counts, (K+1)(P+R) / (P+(K+1)R).

Memory is measured in one process each: resident set at its highest during a step, less that before it, where the
model, TRL's reference copy and the libraries are already loaded. TRL holds one pair at a time.

On a GPU (`--device cuda`) memory is what torch allocated; `--size 3b` has Qwen2.5-VL-3B's shapes with random weights,
in bf16 on both sides.

    python tests/bench/dpo_step.py [--repetitions 5] [--threads 2] [--device cuda --size 3b]
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ACCELERATE_LOG_LEVEL", "error")

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, logging

from rlkit import losses
from rlkit.caption import one_row, reference, rows
from rlkit.models import prepare, tiny

SIDE = 868  # 31 x 31 merged patches of 28 pixels = 961 tokens
BETA = 0.1
WORDS = "a red blue green circle square star moves left right spins grows then finally slowly".split()


def caption(seed: int) -> str:
    """About 64 tokens of nonsense."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, 62)) + "."


def turns(role: str, *parts: dict) -> list[dict]:
    """One message of a conversation."""
    return [{"role": role, "content": list(parts)}]


def text(words: str) -> dict:
    """A part of a message that is text."""
    return {"type": "text", "text": words}


def record(k: int) -> dict:
    """One picture, one chosen caption, K rejected ones."""
    return {
        "prompt": turns("user", {"type": "image"}, text("Describe the picture.")),
        "chosen": turns("assistant", text(caption(0))),
        "rejected": [turns("assistant", text(caption(1 + number))) for number in range(k)],
    }


def picture() -> Image.Image:
    """Noise of SIDE x SIDE pixels."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))


@dataclass(frozen=True)
class Setup:
    """Where the model lies and what it computes on."""

    folder: Path
    device: str
    dtype: torch.dtype

    def load(self):
        """A model with gradients for all weights, and its processor."""
        model = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=self.dtype)
        return model.to(self.device), AutoProcessor.from_pretrained(self.folder)


def save_3b(folder: Path, dtype: torch.dtype, device: str) -> None:
    """Qwen2.5-VL-3B's shapes (its config.json) with random weights and the tiny model's processor."""
    texts = [caption(seed) for seed in range(20)] + ["Describe the picture."]
    model, processor = tiny.build("qwen2_5_vl", texts, frame_size=SIDE, patch_size=14)
    config = model.config
    text = {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
    text |= {"num_key_value_heads": 2, "vocab_size": 151936, "max_window_layers": 36, "layer_types": None}
    vision = {"hidden_size": 1280, "depth": 32, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 2048}
    vision |= {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
    text = {**config.text_config.to_dict(), **text, "layer_types": ["full_attention"] * 36}
    text["initializer_range"] = vision["initializer_range"] = 0.02  # the tiny model's 0.1 is chaos at this size
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    whole = {**config.to_dict(), "text_config": text, "vision_config": {**config.vision_config.to_dict(), **vision}}
    with torch.device(device):
        big = AutoModelForImageTextToText.from_config(type(config).from_dict(whole), dtype=dtype)
    big.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_model(folder: Path) -> None:
    """The tiny model and its processor, as TRL and we load them."""
    sizes = {"hidden_size": 256, "num_layers": 6, "num_heads": 8, "vision_hidden_size": 64, "vision_depth": 2}
    sizes["patch_size"] = 14  # without it the picture would be four patches a side
    texts = [caption(seed) for seed in range(20)] + ["Describe the picture."]
    model, processor = tiny.build("qwen2_5_vl", texts, frame_size=SIDE, **sizes)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def our_captioner(setup: Setup, sharing: str):
    """The model as we train it, in one row or on separate rows."""
    model, processor = setup.load()
    return prepare(model.train(), processor, sharing=sharing)


def our_step(captioner, setup: Setup, k: int, mode: str):
    """A function that makes one step and returns (loss, rows.collate's batch); mode: cached, uncached or separate."""
    example = rows.encode(captioner, record(k), images=[picture()], positions=True)
    kept = reference.precompute(captioner, [example], setup.folder / f"reference-{k}", data=f"{k}", num_checked=0)
    batch = rows.batch_of(captioner, [example])

    def step():
        if mode == "uncached":
            with reference.reference_mode(captioner):
                ref_log_probs, _ = one_row.log_probs(captioner, batch)
        else:
            ref_log_probs = kept.lookup(batch).to(setup.device)
        log_probs, mask = one_row.log_probs(captioner, batch)
        options = losses.Options(beta=BETA)
        loss, _ = losses.preference_loss(log_probs, ref_log_probs, mask, types={"sigmoid": 1.0}, options=options)
        loss.mean().backward()
        captioner.model.zero_grad()  # afterwards, so that one model at a time holds gradients
        return loss.mean().item(), batch

    return step


def trl_step(setup: Setup, k: int):
    """A function that makes TRL's training_step on each of K pairs."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    one = record(k)
    pairs = {
        "images": [[picture()]] * k,
        "prompt": [one["prompt"]] * k,
        "chosen": [one["chosen"]] * k,
        "rejected": one["rejected"],
    }
    arguments = DPOConfig(
        output_dir=str(setup.folder / "trl"), max_length=None, beta=BETA, per_device_train_batch_size=1,
        gradient_accumulation_steps=k, gradient_checkpointing=False, report_to=[], bf16=False,
        use_cpu=setup.device == "cpu", seed=0, dataloader_pin_memory=False,
    )  # fmt: skip
    model, processor = setup.load()
    trainer = DPOTrainer(model, args=arguments, train_dataset=Dataset.from_dict(pairs), processing_class=processor)
    trainer.current_gradient_accumulation_steps = k
    batches = list(trainer.get_train_dataloader())

    def step():
        loss = sum(float(trainer.training_step(trainer.model, dict(batch))) for batch in batches)
        trainer.model.zero_grad()
        return loss, None

    return step


def timed(steps: dict, repetitions: int) -> tuple[dict, dict]:
    """Median wall and CPU seconds of each step, alternating; ours and TRL's in every round, the others in three."""
    wall, cpu = {name: [] for name in steps}, {name: [] for name in steps}
    for round_number in range(repetitions):
        for name, step in steps.items():
            if name in ("uncached", "separate") and round_number >= 3:
                continue
            gc.collect()
            began, began_cpu = time.perf_counter(), time.process_time()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - began_cpu)
    return tuple({name: statistics.median(values) for name, values in table.items()} for table in (wall, cpu))


def peak_mib(setup: Setup, name: str, k: int, threads: int) -> float:
    """Peak memory of one step above what was held before it, in a process of its own."""
    command = [sys.executable, __file__, "--measure", name, "--k", str(k), "--folder", str(setup.folder)]
    command += ["--device", setup.device, "--dtype", str(setup.dtype).removeprefix("torch.")]
    # glibc keeps freed blocks below 32 MiB; with a fixed threshold the resident set is what is really in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command += ["--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def measure(setup: Setup, name: str, k: int) -> float:
    """Peak memory of one step in this process, in MiB."""
    step = trl_step(setup, k) if name == "trl" else our_step(our_captioner(setup, "on"), setup, k, name)
    gc.collect()
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = status_mib("VmRSS")
    step()
    # Not ru_maxrss: a process started from a larger one inherits its parent's.
    return status_mib("VmHWM") - before


def status_mib(field: str) -> float:
    """A field of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


def case(setup: Setup, k: int, repetitions: int, threads: int) -> dict:
    """One line of the result."""
    shared, separate = our_captioner(setup, "on"), our_captioner(setup, "off")
    steps = {name: our_step(shared, setup, k, name) for name in ("cached", "uncached")}
    steps |= {"separate": our_step(separate, setup, k, "separate"), "trl": trl_step(setup, k)}
    results = {name: step() for name, step in steps.items()}  # also the warm-up
    (loss, batch), (trl_loss, _) = results["cached"], results["trl"]
    if abs(loss - trl_loss) > (1e-4 if setup.dtype == torch.float32 else 2e-2):
        raise SystemExit(
            f"k={k}: our loss is {loss}, TRL's is {trl_loss}; the steps differ and no time means anything."
        )
    wall, cpu = timed(steps, repetitions)
    del steps, shared, separate
    if setup.device == "cuda":
        torch.cuda.empty_cache()  # the processes that measure memory need room
    prompt, answers = int(batch["prompt_lengths"]), batch["answer_lengths"].sum().item()
    ceiling = ((k + 1) * prompt + answers) / (prompt + answers)
    ours_peak, peer_peak = (peak_mib(setup, name, k, threads) for name in ("cached", "trl"))
    return {
        "case": f"k={k}",
        "ours_s": round(wall["cached"], 4),
        "peer_s": round(wall["trl"], 4),
        "ratio": round(wall["trl"] / wall["cached"], 2),
        "ratio_cpu_time": round(cpu["trl"] / cpu["cached"], 2),
        "ratio_reference_in_step": round(wall["trl"] / wall["uncached"], 2),
        "ours_peak_mib": round(ours_peak, 1),
        "peer_peak_mib": round(peer_peak, 1),
        "peak_share": round(ours_peak / peer_peak, 3),
        "separate_s": round(wall["separate"], 4),
        "token_ceiling": round(ceiling, 3),
        "share_of_token_ceiling": round(wall["separate"] / wall["cached"] / ceiling, 3),
        "share_of_token_ceiling_cpu_time": round(cpu["separate"] / cpu["cached"] / ceiling, 3),
        "prompt_tokens": prompt,
        "answer_tokens": answers,
    }


def sentence(result: dict) -> str:
    """One case for people."""
    return (
        f"{result['case']}: ours {result['ours_s']:.3f} s, TRL {result['peer_s']:.3f} s, {result['ratio']:.1f}x "
        f"({result['ratio_cpu_time']:.1f}x in CPU time; {result['ratio_reference_in_step']:.1f}x with the reference in "
        f"the step); peak memory {result['ours_peak_mib']:.0f} of {result['peer_peak_mib']:.0f} MiB; "
        f"{result['share_of_token_ceiling']:.0%} of the token ceiling {result['token_ceiling']:.2f}"
    )


def main() -> None:
    """Print a line per K, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=["tiny", "3b"], default="tiny")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=["cached", "uncached", "trl"], help=argparse.SUPPRESS)
    parser.add_argument("--k", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if arguments.size == "3b" else "float32"))
    if arguments.measure:
        setup = Setup(arguments.folder, arguments.device, dtype)
        print(measure(setup, arguments.measure, arguments.k))
        return
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(Path(folder), arguments.device, dtype)
        if arguments.size == "3b":
            save_3b(setup.folder, dtype, arguments.device)
        else:
            save_model(setup.folder)
        cases = []
        for k in (1, 4):
            cases.append(case(setup, k, arguments.repetitions, arguments.threads))
            print(sentence(cases[-1]), flush=True)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
    print(json.dumps({"bench": "dpo_step", "device": device, "size": arguments.size, "cases": cases}))


if __name__ == "__main__":
    main()
