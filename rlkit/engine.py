"""The loop that diffusion algorithms share: accumulate, clip, step, log, save; resumed, it ends with the same bytes.

An algorithm gives `losses(step)`, which yields the micro-batches' losses of one optimiser step, and draws all that is
random in it from generators seeded by (seed, step), so that a step does not depend on how the run came to it. A
checkpoint holds the policy, its companions, the optimiser, the schedule, the algorithm's own state, what was measured
since the last log, and every process's RNG; all as safetensors and JSON.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.utils import reduce
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import get_scheduler

from rlkit.models.generator import POLICY, REFERENCE, Generator
from rlkit.recipe import Recipe
from rlkit.running import interrupt, ranks, rng, sharding
from rlkit.running.folder import RunFolder, write_text
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker
from rlkit.running.training import not_finite
from rlkit.running.training import optimizer as muon

Metrics = Mapping[str, float]
MOST_SKIPPED = 10
"""Steps without a finite gradient, one after the other, at which training ends."""
Losses = Callable[[int], Iterator[tuple[Tensor, Metrics]]]
"""step -> (scalar loss, metrics) of each micro-batch of this process; the step's loss is their mean."""


class Stateful(Protocol):
    """What an algorithm must remember beside weights, as JSON takes it."""

    def state_dict(self) -> dict[str, Any]:
        """All of it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


class Watch(Stateful, Protocol):
    """What looks at the weights between steps, and may end training: rlkit/generators/guard.py."""

    @property
    def ended(self) -> bool:
        """Whether training is over."""

    def watch(self, step: int) -> None:
        """After `step` steps; 0 is before the first."""

    def settle(self) -> None:
        """After the last step."""


def seed_of(*parts: object) -> int:
    """A 63-bit seed that follows from its parts alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8]) >> 1


def train(
    generator: Generator,
    recipe: Recipe,
    folder: RunFolder,
    tracker: Tracker,
    progress: Progress,
    losses: Losses,
    *,
    stage: str,
    after_step: Callable[[int], None] | None = None,
    memory: Stateful | None = None,
    guard: Watch | None = None,
) -> float:
    """Take train.max_steps optimiser steps, from the folder's last whole checkpoint; returns the seconds it took.

    `after_step(step)` is called with the steps taken so far, for companions, and then `guard`. A step whose gradient is
    not finite is left out and counted (`skipped_steps`). Raises ModelError after ten such steps running.
    """
    settings = recipe.train
    loop = Loop(generator, recipe, memory, guard)
    checkpoint = folder.last_checkpoint()
    if checkpoint is not None:
        loop.load(checkpoint)
    folder.resume_at(loop.step if checkpoint is not None else None)
    per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * ranks.count()
    progress.stage(stage, total=settings.max_steps, samples_per_step=per_step)
    began = time.monotonic()
    with interrupt.held():
        if guard is not None and loop.step == 0:
            guard.watch(0)
        while loop.step < settings.max_steps and not (guard is not None and guard.ended):
            loop.take(losses(loop.step))
            if after_step is not None:
                after_step(loop.step)
            if guard is not None:
                guard.watch(loop.step)
            progress.step(loop.step)
            last = loop.step == settings.max_steps or (guard is not None and guard.ended)
            if loop.step % settings.logging_steps == 0 or last:
                means = loop.means()
                tracker.log(means, loop.step)
                progress.metrics(means, loop.step)
            asked = interrupt.requested()
            due = settings.save_steps and (loop.step % settings.save_steps == 0 or last)
            if asked or due:
                loop.save(folder)
            if asked:
                break
    if guard is not None:
        guard.settle()
    return time.monotonic() - began


class Loop:
    """Optimiser, schedule and what is measured, around the weights of one generator."""

    def __init__(
        self, generator: Generator, recipe: Recipe, memory: Stateful | None, guard: Watch | None = None
    ) -> None:
        settings = recipe.train
        self.generator, self.settings, self.memory, self.guard = generator, settings, memory, guard
        self.parameters = generator.parameters()
        self.optimizer = muon(generator.denoiser, recipe) or _adamw(generator, settings)
        warmup = settings.warmup_steps
        self.scheduler = get_scheduler(
            settings.lr_scheduler_type,
            self.optimizer,
            num_warmup_steps=round(warmup * settings.max_steps if 0 < warmup < 1 else warmup),
            num_training_steps=settings.max_steps,
        )
        self.step = self.skipped = 0
        self.measured: dict[str, list[float]] = {}

    def take(self, losses: Iterator[tuple[Tensor, Metrics]]) -> None:
        """One optimiser step."""
        parts = self.settings.gradient_accumulation_steps
        with torch.autocast(self.parameters[0].device.type, torch.bfloat16, enabled=self.settings.bf16):
            for loss, metrics in losses:
                (loss / parts).backward()
                self.note({"loss": loss.item(), **metrics})
        if ranks.count() > 1 and not ranks.sharded():
            for parameter in self.parameters:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = reduce(gradient, "mean")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm or math.inf)
        norm = sharding.whole(norm)
        finite = bool(norm.isfinite())
        if finite:
            self.optimizer.step()
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped >= MOST_SKIPPED:
            raise not_finite(self.step + 1, f"for {MOST_SKIPPED} steps running")
        self.note({"grad_norm": norm.item(), "learning_rate": self.optimizer.param_groups[0]["lr"]})
        self.note({"skipped_steps": float(not finite)})
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self.parameters:
            parameter.grad = None
        self.step += 1

    def note(self, metrics: Metrics) -> None:
        """Remember numbers until the next log; what is not finite is not averaged."""
        for name, value in metrics.items():
            if math.isfinite(value):
                self.measured.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Means since the last log, over all processes; counts (`.../missing` and the like) are means per step."""
        merged: dict[str, list[float]] = {}
        for one in ranks.gathered(self.measured):
            for name, values in one.items():
                merged.setdefault(name, []).extend(values)
        self.measured = {}
        return {name: sum(values) / len(values) for name, values in merged.items()}

    def save(self, folder: RunFolder) -> None:
        """Write checkpoints/checkpoint-<step> and drop those above save_total_limit."""
        path = folder.checkpoints / f"checkpoint-{self.step}"
        path.mkdir(parents=True, exist_ok=True)
        for name in _names(self.generator):
            weights = {key: one.contiguous() for key, one in self.generator.weights(name).items()}
            if folder.main:
                save_file(weights, path / f"{name}.safetensors")
        found: dict[str, Tensor] = {}
        optimizer = pack(self.optimizer.state_dict(), found, "state")
        if folder.main:
            told = {"step": self.step, "optimizer": optimizer}
            told["scheduler"] = pack(self.scheduler.state_dict(), found, "scheduler")
            told["memory"] = self.memory.state_dict() if self.memory is not None else None
            told["guard"] = self.guard.state_dict() if self.guard is not None else None
            save_file(found, path / "optimizer.safetensors")
            write_text(path / "state.json", json.dumps(told))
        rng.save(path, {"measured": self.measured})
        ranks.wait()
        folder.checkpoint_complete(self.step, self.settings.save_total_limit)

    def load(self, path: Path) -> None:
        """Go on where `save` left off."""
        for name in _names(self.generator):
            self.generator.load_weights(load_file(path / f"{name}.safetensors"), name)
        told = json.loads((path / "state.json").read_text(encoding="utf-8"))
        found = load_file(path / "optimizer.safetensors")
        self.step = told["step"]
        self.optimizer.load_state_dict(self._shared(unpack(told["optimizer"], found)))
        self.scheduler.load_state_dict(unpack(told["scheduler"], found))
        if self.memory is not None:
            self.memory.load_state_dict(told["memory"])
        if self.guard is not None:
            self.guard.load_state_dict(told["guard"])
        own = rng.load(path)
        if own is not None:
            self.measured = own["measured"]

    def _shared(self, state: dict[str, Any]) -> dict[str, Any]:
        """An optimiser's state with what is of a weight's shape shared out as that weight is. Muon's has parts, and
        comes back as it is: it is refused where weights are shared out."""
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for number, kept in state.get("state", {}).items():
            for name, value in kept.items():
                if isinstance(value, Tensor) and value.shape == weights[number].shape:
                    kept[name] = sharding.like(value, weights[number].detach())
        return state


def _names(generator: Generator) -> list[str]:
    """The weights of a generator that move."""
    return [POLICY, *(name for name in generator.keep if name != REFERENCE)]


def _adamw(generator: Generator, settings: Any) -> torch.optim.AdamW:
    """Weight decay on matrices alone."""
    parameters = generator.parameters()
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.adam_beta2))


# ---- state as safetensors and JSON ----------------------------------------------------------------------------------


def pack(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """A nested state as JSON, its tensors moved into `tensors`; keys that are no text survive."""
    if isinstance(value, Tensor):
        tensors[path] = sharding.whole(value.detach()).clone().contiguous()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[key, pack(one, tensors, f"{path}.{key}")] for key, one in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [pack(one, tensors, f"{path}.{at}") for at, one in enumerate(value)]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{path} is a {type(value).__name__}, which a checkpoint cannot hold.")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {key: unpack(one, tensors) for key, one in inner}
    made = [unpack(one, tensors) for one in inner]
    return made if kind == "list" else tuple(made)
