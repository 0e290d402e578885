"""The keys of `rewriter:`, a language model that writes prompts for a generator; see schema.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlkit.recipe.marks import Between, OnDisk
from rlkit.recipe.units import Amount, Count, Share

Stage = Literal["sft", "dpo", "grpo"]


@dataclass(frozen=True)
class Rewriter:
    """For `algorithm: rewriter`: a language model (`model`) learns to write prompts that a frozen generator follows."""

    generator: Annotated[str | None, OnDisk("model")] = None
    """Hub id or folder of the pipeline that draws; it is never trained."""
    instruction: str = "Rewrite this prompt for a picture generator and keep all that it says: {prompt}"
    """What the language model is told; `{prompt}` is the short prompt."""
    steps: dict[Stage, Count] = field(default_factory=lambda: {"sft": 300, "dpo": 100, "grpo": 60})
    """Stages in their order, with optimiser steps. dpo and grpo both start where sft ended, or from model.id where
    there is no sft; the last one is saved."""
    learning_rates: dict[Stage, Amount] = field(default_factory=lambda: {"sft": 1e-3, "dpo": 1e-4, "grpo": 1e-4})
    """Peak rate of each stage. A large model wants a tenth or less."""
    beta: dict[Literal["dpo", "grpo"], Amount] = field(default_factory=lambda: {"dpo": 0.1, "grpo": 0.02})
    """Pull towards the start: DPOConfig's and GRPOConfig's beta. grpo: 0 saves the reference. dpo's losses are those of
    `loss.types`; on few pairs give sft a weight there, which holds the chosen rewrites' likelihood up."""
    examples: Annotated[str | None, OnDisk("file")] = None
    """JSONL of `prompt` (short) and `completion` (full) for sft; null: the world's descriptions, data.num_clips of
    them."""
    noise: Share = 0.3
    """World only: share of these examples whose full prompt says something else than the short one."""
    num_prompts: Count = 128
    """Short prompts that are rewritten and judged for dpo."""
    num_rewrites: Annotated[int, Between(2, 10**4)] = 8
    """Rewrites of a short prompt that are compared: for dpo the best against the worst, for grpo the group, which must
    divide train.per_device_train_batch_size * train.gradient_accumulation_steps."""
    num_pictures: Count = 2
    """Pictures that a rewrite is judged by, from the same seeds for all rewrites of a prompt."""
    temperature: Annotated[float, Between(0.01, 100)] = 1.0
    """Of sampled rewrites; measured ones are greedy."""
    max_completion_length: Count = 48
    """Longest rewrite, in tokens."""
    keeps: str = "kept_meaning"
    """Reward of (short prompt, rewrite) for keeping what was said: a name or path, as in `rewards`."""
    keep_weight: Amount = 1.0
    """Its weight beside the pictures' reward. 0 lets the rewriter ask for what is easy to draw instead."""
    min_margin: Amount = 0.05
    """dpo: least difference of the sums between best and worst; groups below it make no pair."""
    width: Annotated[int, Between(32, 1024)] = 96
    """With model.id null: width of the fresh language model, a multiple of 32."""
    layers: Annotated[int, Between(1, 32)] = 2
    """With model.id null: its blocks."""
