"""`rlkit plan`: the arithmetic of a run before it runs: rows, steps, tokens, memory per component, disk, time.

Weights are counted on torch's meta device, so a 72 B model plans in seconds on a laptop. Activations, disk and time are
estimates and say so; the formulas are in this file.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlkit.errors import PlanError
from rlkit.recipe import Recipe
from rlkit.recipe_file import Step, load_chain

GIB = 2**30
PROMPT_TOKENS = 30  # a short question with the chat template's own tokens
ANSWER_TOKENS = 40  # three short sentences; plan says so
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MATMUL_SHARE = (
    0.35  # of the speed of a large matrix product that a training step reaches, embedding and attention included
)
CLIP_BYTES = 30_000  # a rendered clip of the world


@dataclass(frozen=True)
class Batches:
    """How rows become optimiser steps."""

    rows: int
    """Clips to train on; each is one row with all its answers."""
    devices: int
    per_device: int
    accumulation: int
    steps: int
    epochs: float

    @property
    def rows_per_step(self) -> int:
        """The global batch."""
        return self.per_device * self.accumulation * self.devices


@dataclass(frozen=True)
class Shape:
    """Sizes of a model, counted on the meta device; parameters, not bytes."""

    language: int
    vision: int
    trainable: int
    hidden_size: int
    intermediate_size: int
    layers: int
    vocab_size: int
    tokens_per_clip: int


def main(given: argparse.Namespace) -> int:
    """Print the plan of every recipe that would run; the exit code."""
    chain = load_chain(given.recipe, given.overrides)
    devices = given.devices or max(_devices_here(), 1)
    memory = given.memory_gib or _memory_here()
    plans = [plan(step, chain, devices, memory, given.rows_per_step if step is chain[-1] else None) for step in chain]
    if given.json:
        print(json.dumps(plans, indent=1))
        return 0
    for one in plans:
        print("\n".join(_lines(one)))
    total = sum(one["minutes"] for one in plans if not one["finished"] and one["minutes"] is not None)
    print(f"\nabout {total:.0f} min in all on this device, without evaluation and sampling")
    return 0


def plan(
    step: Step, chain: list[Step], devices: int, memory: float | None, rows_per_step: int | None
) -> dict[str, Any]:
    """The plan of one recipe as plain values. Raises PlanError for what does not divide or fit."""
    recipe = step.recipe
    batches, finished = batches_of(recipe, devices), _finished(step)
    if not finished:
        try:
            refuse_uneven(batches, rows_per_step)
        except PlanError as error:
            raise PlanError(f"{step.name}: {error}") from None
    result: dict[str, Any] = {
        "name": step.name,
        "finished": finished,
        "rows": batches.rows,
        "rows_per_step": batches.rows_per_step,
        "devices": devices,
        "steps": batches.steps,
        "epochs": round(batches.epochs, 2),
        "last_step_rows": batches.rows % batches.rows_per_step or batches.rows_per_step,
    }
    shape, why = shape_of(recipe, chain)
    if shape is None:
        return result | {"unknown": why, "minutes": None}
    answers = 1 + (recipe.num_negatives if recipe.negatives else 0)
    prefix = shape.tokens_per_clip + PROMPT_TOKENS
    row = prefix + answers * ANSWER_TOKENS
    result["tokens"] = {
        "clip": shape.tokens_per_clip,
        "prompt": PROMPT_TOKENS,
        "answers": answers,
        "answer": ANSWER_TOKENS,
        "row": row,
    }
    result["sharing"] = round(answers * (prefix + ANSWER_TOKENS) / row, 2)
    result["memory_gib"] = {name: round(size / GIB, 4) for name, size in memory_of(recipe, shape, row, answers).items()}
    result["disk_gib"] = round(disk_of(recipe, shape) / GIB, 3)
    result["disk_free_gib"] = round(shutil.disk_usage(_nearest(step.out)).free / GIB, 1)
    result["systems"] = 1 + len(recipe.variants)
    result["minutes"] = round(seconds_of(shape, row, batches) * result["systems"] / 60, 2)
    if not finished:
        refuse_too_big(result, recipe, memory)
    return result


def batches_of(recipe: Recipe, devices: int) -> Batches:
    """Rows, steps and epochs; the last step of an epoch may hold fewer rows."""
    train = recipe.train
    rows = recipe.data.num_clips
    per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps * devices
    steps_per_epoch = math.ceil(rows / per_step)
    steps = train.max_steps if train.max_steps >= 0 else math.ceil(steps_per_epoch * train.num_train_epochs)
    return Batches(
        rows,
        devices,
        train.per_device_train_batch_size,
        train.gradient_accumulation_steps,
        steps,
        steps / steps_per_epoch,
    )


def refuse_uneven(batches: Batches, rows_per_step: int | None) -> None:
    """Raise PlanError, with the nearest settings that work, where the batch cannot be had or rows would be repeated."""
    at_once = batches.per_device * batches.devices
    if rows_per_step is not None and rows_per_step % at_once:
        fitting = nearest(rows_per_step, lambda n: n % at_once == 0)
        sizes = nearest(batches.per_device, lambda n: rows_per_step % (n * batches.devices) == 0)
        advice = f"or train.per_device_train_batch_size={_or(sizes)} for {rows_per_step}" if sizes else ""
        raise PlanError(
            f"{rows_per_step} rows per step cannot be made of {batches.devices} devices x {batches.per_device} rows. "
            f"Nearest that can: {_or(fitting)} rows per step {advice}".rstrip()
            + "."
        )
    if rows_per_step is not None and rows_per_step != batches.rows_per_step:
        raise PlanError(
            f"the recipe makes {batches.rows_per_step} rows per step, not {rows_per_step}. "
            f"Set train.gradient_accumulation_steps={rows_per_step // at_once}."
        )
    if batches.rows_per_step > batches.rows:
        sizes = nearest(batches.per_device, lambda n: n * batches.accumulation * batches.devices <= batches.rows)
        advice = f" Nearest that fit: train.per_device_train_batch_size={_or(sizes[-3:])}." if sizes else ""
        raise PlanError(f"one step takes {batches.rows_per_step} rows but there are only {batches.rows} clips.{advice}")
    if batches.devices > 1 and batches.rows % at_once:
        clips = nearest(batches.rows, lambda n: n % at_once == 0)
        sizes = nearest(batches.per_device, lambda n: batches.rows % (n * batches.devices) == 0)
        advice = f" or train.per_device_train_batch_size={_or(sizes)}" if sizes else ""
        raise PlanError(
            f"{batches.rows} clips do not divide among {batches.devices} devices x {batches.per_device} rows: the last "
            f"batch would be filled with clips seen before. Nearest that divide: data.num_clips={_or(clips)}{advice}."
        )


def nearest(wanted: int, works: Any) -> list[int]:
    """Up to three whole numbers nearest to `wanted`, and not it, for which `works` holds."""
    found = [n for n in range(1, 2 * wanted + 1025) if n != wanted and works(n)]
    return sorted(sorted(found, key=lambda n: abs(n - wanted))[:3])


def _or(numbers: list[int]) -> str:
    return " or ".join(str(number) for number in numbers)


def shape_of(recipe: Recipe, chain: list[Step]) -> tuple[Shape | None, str]:
    """Sizes of the recipe's model, or None and why. A model that a needed recipe will make has that recipe's sizes."""
    source = recipe
    while source.model.id is not None:
        made_by = [step for step in chain if Path(source.model.id).resolve().is_relative_to(step.out)]
        if not made_by or made_by[0].recipe is source:
            break
        source = made_by[0].recipe
    model, why = _on_meta(source)
    if model is None:
        return None, why
    return _measured(model, recipe), ""


def _on_meta(recipe: Recipe) -> tuple[Any, str]:
    """The model without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    if recipe.model.id is None and recipe.model.init is None:
        return None, "the recipe names no model"
    with torch.device("meta"):
        if recipe.model.id is None:
            from rlkit.models import tiny

            config = tiny.build(recipe.model.init, ["A red circle moves left. Then a blue square spins."] * 50)[
                0
            ].config
        else:
            try:
                config = AutoConfig.from_pretrained(recipe.model.id, revision=recipe.model.revision)
            except (OSError, ValueError) as error:
                first = str(error).strip().splitlines()[0]
                return None, f"the configuration of {recipe.model.id} is not at hand ({first})"
        try:
            return AutoModelForImageTextToText.from_config(config), ""
        except ValueError:
            return None, f"{recipe.model.id} is no image-text model that transformers knows"


def _measured(model: Any, recipe: Recipe) -> Shape:
    """Count a model on the meta device, frozen and adapted as the run will have it."""
    import torch

    from rlkit import models

    text = model.config.get_text_config().to_dict()
    vision_name = models.family_module(model.config.model_type).VISION
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    vision = sum(size for name, size in sizes.items() if re.match(vision_name, name))
    clip = tokens_per_clip(model.config.to_dict(), recipe)
    with torch.device("meta"):
        asked = recipe.model
        adapted = models.prepare(model, None, vision=asked.vision, sharing="auto", lora=asked.lora).model
    return Shape(
        language=sum(sizes.values()) - vision,
        vision=vision,
        trainable=sum(one.numel() for one in adapted.parameters() if one.requires_grad),
        hidden_size=text["hidden_size"],
        intermediate_size=text["intermediate_size"],
        layers=text["num_hidden_layers"],
        vocab_size=text["vocab_size"],
        tokens_per_clip=clip,
    )


def tokens_per_clip(config: dict[str, Any], recipe: Recipe) -> int:
    """Vision tokens of one clip: (frames / temporal patch) x (height / patch / merge) x (width / patch / merge).

    Without `frame_size` frames are taken as 448 x 448. LLaVA-OneVision pools each frame by 2.
    """
    vision = config.get("vision_config") or {}
    data = recipe.data
    frames = data.num_frames or math.ceil((data.fps or 1) * 8)  # a clip of 8 s where only fps is known
    patch = vision.get("patch_size", 14)
    if "spatial_merge_size" in vision:
        side = data.frame_size or 448
        cells = max(round(side / patch / vision["spatial_merge_size"]), 1) ** 2
        return math.ceil(frames / vision.get("temporal_patch_size", 1)) * cells
    side = vision.get("image_size", 384) // patch
    return frames * math.ceil(side / 2) ** 2 + 1


def memory_of(recipe: Recipe, shape: Shape, row: int, answers: int) -> dict[str, float]:
    """Bytes per device and component. The reference costs none: its log-probs are on disk before training starts."""
    width = BYTES[recipe.model.dtype]
    compute = 2 if recipe.train.bf16 else width
    rows = recipe.train.per_device_train_batch_size
    adapter = shape.trainable if recipe.model.lora is not None else 0
    tokens = rows * row
    # Kept for the backward pass, per token and layer: inputs of the norms and projections, q, k, v, attention output,
    # and four tensors of the gated MLP; with checkpointing only each layer's input, and one layer in full.
    full_layer = tokens * (14 * shape.hidden_size + 4 * shape.intermediate_size) * compute
    checkpointed = tokens * shape.hidden_size * compute * shape.layers + full_layer
    layers = checkpointed if recipe.train.gradient_checkpointing else full_layer * shape.layers
    logits = rows * answers * ANSWER_TOKENS * shape.vocab_size * 4 * 3  # fp32 logits, their log-softmax, their gradient
    return {
        "policy": (shape.language + adapter) * width,
        "vision": shape.vision * width,
        "reference": 0,
        "gradients": shape.trainable * width,
        "optimiser": 2 * shape.trainable * width,
        "activations (estimate)": layers + logits,
        "mask": rows * row * row,
    }


def disk_of(recipe: Recipe, shape: Shape) -> float:
    """Bytes: checkpoints with optimiser state, the final model, the world's clips."""
    width = BYTES[recipe.model.dtype]
    weights = (shape.trainable if recipe.model.lora is not None else shape.language + shape.vision) * width
    kept = (
        recipe.train.save_total_limit + 1 if recipe.train.save_steps else 0
    )  # the newest is written before the oldest goes
    clips = recipe.data.num_clips * CLIP_BYTES if recipe.data.source == "world" else 0
    return kept * (weights + 2 * shape.trainable * width) + weights + clips


def seconds_of(shape: Shape, row: int, batches: Batches) -> float:
    """Time of the training steps: 6 operations per weight and token, 4 where the weight is frozen, at this device's
    speed."""
    size = shape.language + shape.vision
    operations = (4 * size + 2 * shape.trainable) * row * batches.per_device * batches.accumulation * batches.steps
    return operations / (matmul_speed() * MATMUL_SHARE)


def matmul_speed() -> float:
    """Operations per second of a float32 matrix product on this device, the best of many short ones.

    On a CPU one thread is timed and multiplied: threads that wait for each other on a busy machine would say nothing.
    """
    import torch

    device, size = ("cuda", 4096) if torch.cuda.is_available() else ("cpu", 256)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    matrix = torch.ones(size, size, device=device)
    best, end = math.inf, time.perf_counter() + 0.3
    while time.perf_counter() < end:
        start = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(threads)
    return 2 * size**3 / best * (threads if device == "cpu" else 1)


def refuse_too_big(result: dict[str, Any], recipe: Recipe, memory: float | None) -> None:
    """Raise PlanError where memory or disk cannot hold the run, with the settings that would."""
    needed = sum(result["memory_gib"].values())
    if memory is not None and needed > memory:
        fixed = needed - result["memory_gib"]["activations (estimate)"] - result["memory_gib"]["mask"]
        per_row = (needed - fixed) / recipe.train.per_device_train_batch_size
        fitting = int((memory - fixed) / per_row) if memory > fixed else 0
        if fitting >= 1:
            rest = (
                math.ceil(recipe.train.per_device_train_batch_size / fitting) * recipe.train.gradient_accumulation_steps
            )
            advice = f"train.per_device_train_batch_size={fitting} train.gradient_accumulation_steps={rest}"
        elif recipe.model.lora is None:
            advice = "model.lora={} (weights, gradients and optimiser alone are too much)"
        else:
            advice = "model.dtype=bfloat16, or a config that shards the weights (zero3, fsdp2)"
        raise PlanError(
            f"{result['name']}: about {needed:.1f} GiB per device, but there are {memory:.1f}. Try {advice}."
        )
    if result["disk_gib"] > result["disk_free_gib"]:
        raise PlanError(
            f"{result['name']}: {result['disk_gib']} GiB of disk, but only {result['disk_free_gib']} are free. "
            "Lower train.save_total_limit, or give out=... on a larger disk."
        )


def _lines(plan: dict[str, Any]) -> list[str]:
    lines = [f"{plan['name']}{'  (finished)' if plan['finished'] else ''}"]
    steps = f"{plan['steps']:,} steps of {plan['rows_per_step']} rows on {plan['devices']} device(s)"
    lines.append(f"  steps     {steps}: {plan['epochs']:g} passes over {plan['rows']:,} clips")
    if plan["last_step_rows"] != plan["rows_per_step"]:
        lines.append(f"            the last step of a pass has {plan['last_step_rows']} rows")
    if "unknown" in plan:
        return [*lines, f"  memory    not known: {plan['unknown']}"]
    tokens = plan["tokens"]
    row = f"{tokens['clip']} clip + {tokens['prompt']} prompt + {tokens['answers']} x {tokens['answer']} answer"
    shared = f"; separate rows would be {plan['sharing']:g} x as many" if tokens["answers"] > 1 else ""
    lines.append(f"  tokens    about {tokens['row']} per row: {row}{shared}")
    lines.append(f"  memory    {sum(plan['memory_gib'].values()):.2f} GiB per device")
    lines += [f"              {name:<24}{size:9.3f}" for name, size in plan["memory_gib"].items()]
    lines.append(f"  disk      {plan['disk_gib']:g} GiB of {plan['disk_free_gib']:g} free")
    systems = f", {plan['systems']} systems with the variants" if plan["systems"] > 1 else ""
    lines.append(f"  time      {plan['minutes']:.1f} min of training (estimate{systems})")
    return lines


def _finished(step: Step) -> bool:
    from rlkit.run_folder import RunFolder

    return RunFolder(step.out).finished


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return path if path.exists() else _nearest(path.parent)


def _devices_here() -> int:
    import torch

    return torch.cuda.device_count()


def _memory_here() -> float | None:
    """GiB of the first GPU, else of this machine."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / GIB
    return psutil.virtual_memory().total / GIB
