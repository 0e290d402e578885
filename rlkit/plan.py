"""`rlkit plan`: the arithmetic of a run before it runs, and a refusal with the nearest settings where it would fail."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlkit import plan_nodes
from rlkit.errors import PlanError
from rlkit.estimate import (
    ANSWER_TOKENS,
    GIB,
    PROMPT_TOKENS,
    checkpoint_of,
    disk_of,
    memory_of,
    seconds_of,
    shape_of,
)
from rlkit.plan_nodes import Cluster
from rlkit.recipe import Recipe
from rlkit.recipe.contradictions_generators import GENERATOR_ALGORITHMS
from rlkit.recipe.file import Step, load_chain

ENDLESS = (*GENERATOR_ALGORITHMS, "bootstrap_caption")
"""Algorithms that draw the rows of each step, of which there are always enough."""


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


def main(given: argparse.Namespace) -> int:
    """Print the plan of every recipe that would run; the exit code."""
    cluster, rows = plan_nodes.cluster_of(given), plan_nodes.rows_of(given.rows)
    chain = load_chain(given.recipe, given.overrides)
    chain[-1] = replace(chain[-1], recipe=plan_nodes.with_rows(chain[-1].recipe, rows))
    plans = [_plan(step, chain, given, cluster, rows if step is chain[-1] else None) for step in chain]
    if given.json:
        print(json.dumps(plans, indent=1))
        return 0
    for one in plans:
        print("\n".join(_lines(one, cluster)))
    total = sum(one["minutes"] for one in plans if not one["finished"] and one["minutes"] is not None)
    if cluster is not None:
        print(f"\nabout {plan_nodes.span(60 * total)} in all, without evaluation and sampling, if nothing died")
        return 0
    print(f"\nabout {total:.0f} min in all on this device, without evaluation and sampling")
    return 0


def _plan(
    step: Step, chain: list[Step], given: argparse.Namespace, cluster: Cluster | None, rows: int | None
) -> dict[str, Any]:
    """The plan of one recipe of the command line: of a data job, or of training."""
    recipe = step.recipe
    if recipe.algorithm == "pairs":
        here = cluster or Cluster(1, max(1, recipe.pairs.workers), plan_nodes.NODE_DAYS)
        counted = rows or plan_nodes.count_captions(recipe)
        made = plan_nodes.pairs_plan(recipe, counted, here, plan_nodes.measure(recipe))
        return {"name": step.name, "finished": _finished(step)} | made
    devices = (given.devices or max(_devices_here(), 1)) * (cluster.nodes if cluster else 1)
    memory = given.memory_gib or _memory_here()
    return plan(step, chain, devices, memory, given.rows_per_step if step is chain[-1] else None, cluster)


def plan(
    step: Step,
    chain: list[Step],
    devices: int,
    memory: float | None,
    rows_per_step: int | None,
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """The plan of one recipe that trains as plain values, on `devices` in all. Raises PlanError for what does not
    divide or fit."""
    recipe = step.recipe
    batches, finished = batches_of(recipe, devices), _finished(step)
    if not finished:
        try:
            refuse_uneven(batches, rows_per_step, endless=recipe.algorithm in ENDLESS)
        except PlanError as error:
            raise PlanError(f"{step.name}: {error}") from None
    rest = 0 if recipe.algorithm in ENDLESS else batches.rows % batches.rows_per_step
    result: dict[str, Any] = {
        "name": step.name,
        "finished": finished,
        "rows": batches.rows,
        "rows_per_step": batches.rows_per_step,
        "devices": devices,
        "steps": batches.steps,
        "epochs": round(batches.epochs, 2),
        "last_step_rows": rest or batches.rows_per_step,
    }
    shape, why = shape_of(recipe, chain)
    if shape is None:
        return result | {"unknown": why, "minutes": None}
    answers = answers_of(recipe)
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
    tokens = row * batches.per_device * batches.accumulation * batches.steps
    result["minutes"] = round(seconds_of(shape, tokens) * result["systems"] / 60, 2)
    if cluster is not None:
        seconds = 60 * result["minutes"]
        result["nodes"] = cluster.nodes
        result["device_hours"] = round(devices * seconds / 3600, 3)
        checkpoint = checkpoint_of(recipe, shape)
        result["faults"] = plan_nodes.training_faults(recipe, cluster, checkpoint, seconds, batches.steps)
    if not finished:
        refuse_too_big(result, recipe, memory, elsewhere=cluster is not None)
    return result


def answers_of(recipe: Recipe) -> int:
    """Answers in a row: the chosen one with its negatives, or the completions of grpo."""
    if recipe.algorithm == "grpo":
        return recipe.grpo.num_generations
    return 1 + (recipe.num_negatives if recipe.negatives else 0)


def batches_of(recipe: Recipe, devices: int) -> Batches:
    """Rows, steps and epochs; the last step of an epoch may hold fewer rows."""
    train = recipe.train
    rows = recipe.bootstrap.num_samples if recipe.algorithm == "bootstrap" else recipe.data.num_clips
    per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps * devices
    steps_per_epoch = math.ceil(rows / per_step)
    steps = train.max_steps if train.max_steps >= 0 else math.ceil(steps_per_epoch * train.num_train_epochs)
    if recipe.algorithm == "bootstrap":  # max_steps are those of one round
        steps *= recipe.bootstrap.trainings
    if recipe.algorithm == "bootstrap_caption":
        steps *= recipe.bootstrap_caption.trainings
    return Batches(
        rows,
        devices,
        train.per_device_train_batch_size,
        train.gradient_accumulation_steps,
        steps,
        steps / steps_per_epoch,
    )


def refuse_uneven(batches: Batches, rows_per_step: int | None, *, endless: bool = False) -> None:
    """Raise PlanError, with the nearest settings that work, where the batch cannot be had or rows would be repeated.

    `endless` rows are drawn one after the other, as pictures of generators are: there are always enough.
    """
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
    if endless:
        return
    if batches.rows_per_step > batches.rows:
        sizes = nearest(batches.per_device, lambda n: n * batches.accumulation * batches.devices <= batches.rows)
        advice = f" Nearest that fit: train.per_device_train_batch_size={_or(sizes[-3:])}." if sizes else ""
        raise PlanError(f"one step takes {batches.rows_per_step} rows but there are only {batches.rows} clips.{advice}")
    rest = batches.rows % batches.rows_per_step
    if 0 < rest < batches.devices:
        clips = nearest(batches.rows, lambda n: not 0 < n % batches.rows_per_step < batches.devices)
        raise PlanError(
            f"the last step of a pass has {rest} of the {batches.rows} clips for {batches.devices} devices, so that "
            f"some clips would count twice. Nearest that do not: data.num_clips={_or(clips)}."
        )


def nearest(wanted: int, works: Any) -> list[int]:
    """Up to three whole numbers nearest to `wanted`, and not it, for which `works` holds."""
    found = [n for n in range(1, 2 * wanted + 1025) if n != wanted and works(n)]
    return sorted(sorted(found, key=lambda n: abs(n - wanted))[:3])


def _or(numbers: list[int]) -> str:
    return " or ".join(str(number) for number in numbers)


def refuse_too_big(result: dict[str, Any], recipe: Recipe, memory: float | None, *, elsewhere: bool = False) -> None:
    """Raise PlanError where memory or disk cannot hold the run, with the settings that would. elsewhere: on other
    machines' disks, which this one knows nothing of."""
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
    if result["disk_gib"] > result["disk_free_gib"] and not elsewhere:
        raise PlanError(
            f"{result['name']}: {result['disk_gib']} GiB of disk, but only {result['disk_free_gib']} are free. "
            "Lower train.save_total_limit, or give out=... on a larger disk."
        )


def _lines(plan: dict[str, Any], cluster: Cluster | None) -> list[str]:
    lines = [f"{plan['name']}{'  (finished)' if plan['finished'] else ''}"]
    if "shards" in plan:
        return [*lines, *plan_nodes.pairs_lines(plan)]
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
    free = "" if cluster is not None else f" of {plan['disk_free_gib']:g} free"
    lines.append(f"  disk      {plan['disk_gib']:g} GiB{free}")
    systems = f", {plan['systems']} systems with the variants" if plan["systems"] > 1 else ""
    lines.append(f"  time      {plan['minutes']:.1f} min of training (estimate{systems})")
    if cluster is not None:
        lines.append(
            f"  cost      {plan['device_hours']:,.1f} device hours at the speed of the device here, without what "
            "processes wait for each other"
        )
        lines += plan_nodes.fault_lines(plan["faults"], plan["nodes"])
    return lines


def _finished(step: Step) -> bool:
    from rlkit.running.folder import RunFolder

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
