"""Log-probs of a group of G = 8 captions, and drawing them: ours against TRL's and transformers' own way.

Same tiny Qwen2.5-VL, fp32, same pixels (one picture of 961 tokens), captions of about 64 tokens. TRL's side is
GRPOTrainer's own _get_per_token_logps_and_entropies on eight full rows, with the pixels eight times, as its trainer
calls it: `old` and `reference` log-probs without a gradient, `policy` with one and a backward pass. Ours is one row.
Both must give the same numbers to 1e-5. `draw`: eight captions of 64 tokens by generate, ours with the prompt's cache
repeated, against num_return_sequences. Pictures that go through the tower are counted on both sides; ours keeps what
the tower saw, so that a whole step (draw, old, reference, policy) takes one.

On a GPU (`--device cuda`) seconds are of the clock; `--size 3b` has Qwen2.5-VL-3B's shapes with random weights, in bf16
on both sides, whose log-probs then agree to bf16's rounding only.

    python tests/bench/grpo_step.py [--repetitions 5] [--threads 1] [--device cuda --size 3b]
"""

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ACCELERATE_LOG_LEVEL", "error")

import torch
from dpo_step import Setup, picture, record, save_3b, save_model
from transformers import logging

from rlkit.caption import generate, one_row, rows
from rlkit.models import prepare

GROUP, TOKENS = 8, 64


class Tower:
    """Counts the pictures that go through a model's vision tower."""

    def __init__(self, model) -> None:
        self.pictures = 0
        model.model.visual.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _module, given, named) -> None:
        grid = named["grid_thw"] if "grid_thw" in named else given[1]
        self.pictures += len(grid)


def our_side(setup: Setup):
    """(name -> function of one pass, example, tower): log-probs of the group [8, tokens]."""
    model, processor = setup.load()
    captioner = prepare(model.eval(), processor, vision="frozen", sharing="on")
    example = rows.encode(captioner, record(GROUP - 1), images=[picture()], positions=True)
    batch = rows.batch_of(captioner, [example])
    tower = Tower(model)
    vision = one_row.vision_features(captioner, batch)  # once a group

    def still():
        with torch.no_grad():
            return one_row.log_probs(captioner, batch, vision)[0][0]

    def policy():
        found = one_row.log_probs(captioner, batch, vision)[0][0]
        found.sum().backward()
        model.zero_grad()
        return found.detach()

    def draw():
        options = {"num_generations": GROUP, "max_completion_length": TOKENS, "seeds": [0], "vision": vision}
        return generate.completions(captioner, [example], **options)

    return {"old or reference": still, "policy": policy, "draw": draw}, example, tower


def trl_side(setup: Setup, example: rows.Example):
    """The same by TRL's trainer and transformers' generate."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    arguments = GRPOConfig(
        output_dir=str(setup.folder / "trl"), per_device_train_batch_size=GROUP, num_generations=GROUP, report_to=[],
        gradient_checkpointing=False, bf16=False, use_cpu=setup.device == "cpu", max_completion_length=TOKENS,
    )  # fmt: skip
    model, processor = setup.load()
    for parameter in model.model.visual.parameters():
        parameter.requires_grad_(False)
    data = Dataset.from_dict({"prompt": [record(1)["prompt"]], "images": [[picture()]]})
    trainer = GRPOTrainer(
        model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=arguments, train_dataset=data,
        processing_class=processor,
    )  # fmt: skip
    tower = Tower(model)
    longest = max(len(answer) for answer in example.answers)
    shown = {name: tensor.to(setup.device) for name, tensor in example.prompt.items()}
    prompt, pad = example.prompt["input_ids"][0], processor.tokenizer.pad_token_id
    ids = torch.full((GROUP, len(prompt) + longest), pad)
    mask = torch.zeros_like(ids)
    for row, answer in enumerate(example.answers):
        ids[row, : len(prompt) + len(answer)] = torch.cat([prompt, answer])
        mask[row, : len(prompt) + len(answer)] = 1
    ids, mask = ids.to(setup.device), mask.to(setup.device)
    kinds = torch.nn.functional.pad(shown["mm_token_type_ids"], (0, longest))
    given = {
        "pixel_values": shown["pixel_values"].repeat(GROUP, 1),
        "image_grid_thw": shown["image_grid_thw"].repeat(GROUP, 1),
        "num_images": [1] * GROUP,
        "mm_token_type_ids": kinds.repeat(GROUP, 1),
    }

    def log_probs(entropy: bool):
        options = {"compute_entropy": entropy, **given}
        return trainer._get_per_token_logps_and_entropies(model, ids, mask, longest, **options)[0]

    def still():
        with torch.no_grad():
            return log_probs(entropy=False)

    def policy():
        found = log_probs(entropy=True)
        found.sum().backward()
        model.zero_grad()
        return found.detach()

    @torch.no_grad()
    def draw():
        torch.manual_seed(0)
        inputs = dict(shown)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        return model.generate(
            **inputs, num_return_sequences=GROUP, do_sample=True, max_new_tokens=TOKENS, top_k=0,
            eos_token_id=processor.tokenizer.eos_token_id, pad_token_id=pad,
        )  # fmt: skip

    model.eval()
    return {"old or reference": still, "policy": policy, "draw": draw}, tower


def clock(device: str) -> float:
    """CPU seconds, in which other work on the machine does not count; on a GPU the time, once it has finished."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def timed(ours, theirs, repetitions: int, device: str) -> tuple[float, float]:
    """Median seconds of both, alternating."""
    spent = ([], [])
    for _ in range(repetitions):
        for seconds, one in zip(spent, (ours, theirs), strict=True):
            gc.collect()
            began = clock(device)
            one()
            seconds.append(clock(device) - began)
    return statistics.median(spent[0]), statistics.median(spent[1])


def main() -> None:
    """Print a line per case, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=["tiny", "3b"], default="tiny")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        dtype = torch.bfloat16 if arguments.size == "3b" else torch.float32
        setup = Setup(Path(folder), arguments.device, dtype)
        if arguments.size == "3b":
            save_3b(setup.folder, dtype, arguments.device)
        else:
            save_model(setup.folder)
        bound = 1e-5 if dtype == torch.float32 else 0.5
        ours, example, our_tower = our_side(setup)
        theirs, their_tower = trl_side(setup, example)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(one)) for one in example.answers], batch_first=True)
        for name in ("old or reference", "policy"):  # also the warm-up
            worst = float(((ours[name]().cpu() - theirs[name]().cpu()).abs() * mask).max())
            if not worst <= bound:
                raise SystemExit(f"{name}: log-probs differ by {worst}; no time means anything.")
            cases.append({"case": name, "largest_difference": worst})
        ours["draw"](), theirs["draw"]()
        told = {"ours": our_tower.pictures, "trl": their_tower.pictures}
        cases.append({"case": "draw"})
        for case in cases:
            name = case["case"]
            ours_s, peer_s = timed(ours[name], theirs[name], arguments.repetitions, arguments.device)
            case |= {"ours_s": round(ours_s, 4), "peer_s": round(peer_s, 4), "ratio": round(peer_s / ours_s, 2)}
            print(f"{name}: ours {ours_s:.3f} s, TRL {peer_s:.3f} s, {case['ratio']:.1f}x", flush=True)
    prompt, answers = example.positions.shape[1], sum(len(one) for one in example.answers)
    print(
        f"prompt {prompt} tokens, {GROUP} captions of {answers / GROUP:.0f}; pictures through the tower, a step: {told}"
    )
    told = {"tower_pictures": told, "prompt_tokens": prompt, "answer_tokens": answers}
    told["token_ceiling"] = round((GROUP * prompt + answers) / (prompt + answers), 2)
    on_cpu = arguments.device == "cpu"
    told |= {"clock": "cpu" if on_cpu else "wall", "device": "cpu" if on_cpu else torch.cuda.get_device_name()}
    print(json.dumps({"bench": "grpo_step", **told, "cases": cases}))


if __name__ == "__main__":
    main()
