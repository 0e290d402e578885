"""What every trainer of a recipe shares: TrainingArguments, the optimiser, whole checkpoints, stopping and resuming."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from rlkit.errors import ModelError, RecipeError
from rlkit.muon import MuonWithAdamW
from rlkit.recipe import Recipe
from rlkit.running import interrupt, moments, ranks, rng
from rlkit.running.folder import RunFolder, write_text
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker, attach, for_transformers

MOMENTS, SCHEDULE = "moments.safetensors", "schedule.json"


class MarkCheckpoints(TrainerCallback):
    """Marks a checkpoint as whole once every file of it is written, and then drops the oldest above `keep`.

    transformers would drop them before the mark, and by the clock: after a jump back, the newest first.
    """

    def __init__(self, folder: RunFolder, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def on_save(self, args, state, control, **_: object) -> None:
        """After the last file of a checkpoint, of every process."""
        ranks.wait()
        self.folder.checkpoint_complete(state.global_step, self.keep)


class WholeCheckpoints(Trainer):
    """The loop of transformers, and of TRL, with checkpoints that every engine can go on from and that hold no pickle.

    A checkpoint holds the weights, the optimiser's state (see moments.py) and the schedule, each whole and once, where
    transformers would keep what one engine with as many processes can read; and each process's random numbers
    (rng.py). `_load_from_checkpoint` must put whole weights into a model that nothing has shared out yet.
    """

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        moments.save(self.model, self.optimizer.optimizer, Path(output_dir) / MOMENTS)
        if self.args.should_save:
            told = {key: one for key, one in self.lr_scheduler.state_dict().items() if not isinstance(one, list)}
            rate = self.lr_scheduler.get_last_lr()[0]  # one for all groups, of which DeepSpeed drops the empty ones
            write_text(Path(output_dir) / SCHEDULE, json.dumps(told | {"rate": rate}))

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        """As the parent's, which reads no checkpoint here."""
        checkpoint = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        if checkpoint is not None and (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            self._load_from_checkpoint(str(checkpoint))  # transformers has done it for the others
        rounded = checkpoint is not None and self.is_deepspeed_enabled and self.args.bf16
        whole = {name: one.detach().to("cpu", copy=True) for name, one in self.model.named_parameters() if rounded}
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if checkpoint is not None:
            moments.load(self.model, self.optimizer.optimizer, checkpoint / MOMENTS, whole)
            told = json.loads((checkpoint / SCHEDULE).read_text(encoding="utf-8"))
            rates = [told.pop("rate")] * len(self.optimizer.param_groups)
            self.lr_scheduler.load_state_dict(self.lr_scheduler.state_dict() | told | {"_last_lr": rates})
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate  # a schedule sets it at its next step only
        return prepared

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        rng.save(Path(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            rng.load(Path(checkpoint))

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)


class RecipeTrainer(WholeCheckpoints):
    """The same with metrics of our own beside the loss."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._metrics: dict[str, list[tuple[float, float]]] = {}

    def note(self, name: str, value: float, weight: float = 1.0) -> None:
        """A metric of one batch; logged is the weighted mean since the last log, over all processes."""
        self._metrics.setdefault(name, []).append((value, weight))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the metrics' means."""
        merged: dict[str, list[tuple[float, float]]] = {}
        for one in ranks.gathered(self._metrics):
            for name, values in one.items():
                merged.setdefault(name, []).extend(values)
        means = {name: sum(v * w for v, w in values) / sum(w for _, w in values) for name, values in merged.items()}
        self._metrics.clear()
        super().log({**logs, **means}, start_time)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> float:
        """transformers calls this before each step of the optimiser, which a NaN would make of every weight."""
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and not math.isfinite(norm):
            raise not_finite(self.state.global_step + 1)
        return norm

    def whole_weights(self) -> dict[str, Tensor]:
        """Of the model, trained or loaded from the last checkpoint: on the main process, the others may have fewer. A
        call of all processes."""
        if self.is_deepspeed_enabled and self.model_wrapped is self.model:  # no step was left to take
            return self.model.state_dict()
        return self.accelerator.get_state_dict(self.model_wrapped)


def not_finite(step: int, since: str = "") -> ModelError:
    """The error that ends training before a gradient that is not finite reaches the weights."""
    return ModelError(
        f"step {step}: the gradient is not finite{' ' + since if since else ''}. The weights are those of the step "
        "before, and the last whole checkpoint stands: launching again goes on from there. If it comes back: lower "
        "train.learning_rate or train.max_grad_norm, or train without train.bf16."
    )


class StopWhenAsked(TrainerCallback):
    """Ctrl-C or SIGTERM: finish the step, save, leave."""

    def on_step_end(self, args, state, control, **_: object) -> None:
        """After each optimiser step."""
        if interrupt.requested():
            control.should_save = control.should_training_stop = True


def training_arguments(
    recipe: Recipe, folder: RunFolder, make: Callable[..., TrainingArguments] = TrainingArguments
) -> TrainingArguments:
    """The recipe's `train:` section as transformers reads it; our own batches, logs and checkpoints around it. `make`
    is one of TRL's configurations with its own options, as a functools.partial."""
    train = recipe.train
    return make(
        output_dir=str(folder.checkpoints),
        learning_rate=train.learning_rate,
        per_device_train_batch_size=train.per_device_train_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        max_steps=train.max_steps,
        num_train_epochs=train.num_train_epochs,
        warmup_steps=train.warmup_steps,
        lr_scheduler_type=train.lr_scheduler_type,
        max_grad_norm=train.max_grad_norm,
        weight_decay=train.weight_decay,
        adam_beta2=train.adam_beta2,
        logging_steps=train.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps" if train.save_steps else "no",
        save_steps=train.save_steps or 500,
        save_total_limit=None,  # MarkCheckpoints drops the old ones
        activation_checkpointing=train.gradient_checkpointing,
        bf16=train.bf16,
        dataloader_num_workers=train.dataloader_num_workers,
        remove_unused_columns=False,
        report_to=for_transformers(train.report_to),
        seed=recipe.seed,
        disable_tqdm=True,
        use_cpu=ranks.on_cpu(),
        average_tokens_across_devices=False,
    )


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer | None:
    """Muon where the recipe asks for it; None leaves the choice to transformers. Raises RecipeError for Muon under
    DeepSpeed or FSDP, which hand an optimiser pieces of matrices."""
    train = recipe.train
    if train.optim != "muon":
        return None
    if ranks.sharded():
        raise RecipeError(
            "train.optim is muon, which needs whole matrices, but this launch shares them out (DeepSpeed or FSDP); "
            "use train.optim=adamw_torch, or accelerate_configs/ddp.yaml"
        )
    return MuonWithAdamW(model, lr=train.learning_rate, weight_decay=train.weight_decay, betas=(0.9, train.adam_beta2))


def fit(
    trainer: Trainer, recipe: Recipe, rows: int, folder: RunFolder, tracker: Tracker, progress: Progress, *, stage: str
) -> float:
    """Train on `rows` rows, resuming from the folder's last whole checkpoint; leaves the model in eval mode and returns
    the seconds it took."""
    attach(trainer, tracker, progress)
    arguments = trainer.args
    checkpoint = folder.last_checkpoint()
    folder.resume_at(None if checkpoint is None else int(checkpoint.name.rpartition("-")[2]))
    rows_per_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    steps = recipe.train.max_steps if recipe.train.max_steps >= 0 else None
    if steps is None:
        steps = round(-(-rows // rows_per_step) * recipe.train.num_train_epochs)
    progress.stage(stage, total=steps, samples_per_step=rows_per_step)
    began = time.monotonic()
    if checkpoint is not None and int(checkpoint.name.rpartition("-")[2]) >= steps:
        trainer._load_from_checkpoint(str(checkpoint))  # transformers would take one more step
    elif steps:
        with interrupt.held():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.model.eval()
    return time.monotonic() - began
