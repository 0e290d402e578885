"""The keys of `train`, named as in transformers' TrainingArguments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlkit.recipe.marks import Between
from rlkit.recipe.units import Amount, Count, CountOrZero, Share

Tracker = Literal["wandb", "tensorboard", "trackio", "mlflow", "comet_ml", "swanlab"]


@dataclass(frozen=True)
class Train:
    """The optimiser and its schedule; names and meanings of transformers' TrainingArguments."""

    learning_rate: Annotated[float, Between(0, 10)] = 1e-5
    """Peak rate. Preference training wants 5 to 20 times less than SFT."""
    optim: Literal["adamw_torch", "muon"] = "adamw_torch"
    """`muon` learns several times faster from nothing (matrices by Muon, the rest by AdamW, one rate for both); adamw
    for fine-tuning."""
    per_device_train_batch_size: Count = 8
    """Rows per device and forward pass; a row is a clip with all its answers. Lower this first when memory runs out."""
    gradient_accumulation_steps: Count = 1
    """Forward passes per optimiser step. Rows per step = per_device_train_batch_size * this * devices."""
    max_steps: Annotated[int, Between(-1, 10**9)] = -1
    """Optimiser steps; -1 follows num_train_epochs. 0 trains nothing and evaluates."""
    num_train_epochs: Annotated[float, Between(0, 10**6)] = 1.0
    """Passes over the data, when max_steps is -1."""
    warmup_steps: Amount = 0.0
    """Steps from 0 to the peak rate; below 1 it is a share of all steps."""
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup", "cosine_with_min_lr", "inverse_sqrt"
    ] = "linear"
    """What the rate does after the warm-up."""
    max_grad_norm: Amount = 1.0
    """Gradients longer than this are scaled down to it; 0 leaves them."""
    weight_decay: Share = 0.0
    """AdamW's, on weight matrices only."""
    adam_beta2: Share = 0.999
    """AdamW's memory of squared gradients; 0.95 to 0.99 suits short runs."""
    logging_steps: Count = 10
    """A line in metrics.jsonl every so many optimiser steps."""
    save_steps: CountOrZero = 0
    """A checkpoint every so many optimiser steps; 0 keeps none, and an interrupted run starts over."""
    save_total_limit: Count = 1
    """Checkpoints kept; older ones go."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more time, far less memory."""
    bf16: bool = False
    """Mixed precision on top of float32 weights; leave false with `model.dtype: bfloat16`."""
    dataloader_num_workers: CountOrZero = 0
    """Processes that decode clips; 0 decodes in the training process."""
    ddp_timeout: CountOrZero = 1800
    """Seconds after which several processes that all stand still are ended, with the name of the one that holds them
    up; 0 waits for ever. In TrainingArguments the limit of one collective."""
    full_determinism: bool = False
    """Deterministic kernels on a GPU, at a price in speed. On a CPU they are always used."""
    report_to: list[Tracker] = field(default_factory=list)
    """Trackers beside the run folder. Without a login wandb records offline and says so."""
