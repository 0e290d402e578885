"""What a model takes: parameters, tokens per clip, memory per component, disk, time.

Weights are counted on torch's meta device, so a 72 B model is measured in seconds on a laptop. Activations, disk and
time are estimates; the formulas are in this file.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlkit.recipe import Recipe
from rlkit.recipe.contradictions_generators import GENERATOR_ALGORITHMS
from rlkit.recipe.file import Step

GIB = 2**30
PROMPT_TOKENS = 30  # a short question with the chat template's own tokens
ANSWER_TOKENS = 40  # three short sentences; plan says so
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MATMUL_SHARE = (
    0.35  # of the speed of a large matrix product that a training step reaches, embedding and attention included
)
CLIP_BYTES = 30_000  # a rendered clip of the world


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

    if recipe.algorithm in GENERATOR_ALGORITHMS:
        return None, "a generator is not estimated"
    if recipe.reward is not None:
        return None, "an encoder with heads is not estimated"
    if recipe.model.id is None and recipe.model.init is None:
        return None, "the recipe names no model"
    with torch.device("meta"):
        if recipe.model.id is None:
            from rlkit.models import tiny

            texts = ["A red circle moves left. Then a blue square spins."] * 50
            network, _ = tiny.build(recipe.model.init, texts, frame_size=recipe.data.frame_size or 56)
            config = network.config
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
    """Bytes per device and component. The reference costs none, its log-probs are on disk before training starts; but
    that of grpo scores what the policy draws, so without an adapter it is a second model."""
    width = BYTES[recipe.model.dtype]
    compute = 2 if recipe.train.bf16 else width
    rows = recipe.train.per_device_train_batch_size
    second = recipe.algorithm == "grpo" and recipe.grpo.beta > 0 and recipe.model.lora is None
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
        "reference": (shape.language + shape.vision) * width if second else 0,
        "gradients": shape.trainable * width,
        "optimiser": 2 * shape.trainable * width,
        "activations (estimate)": layers + logits,
        "mask": rows * row * row,
    }


def checkpoint_of(recipe: Recipe, shape: Shape) -> float:
    """Bytes of one checkpoint: what is saved of the model, and the optimiser's state."""
    return _saved(recipe, shape) + 2 * shape.trainable * BYTES[recipe.model.dtype]


def _saved(recipe: Recipe, shape: Shape) -> float:
    kept = shape.trainable if recipe.model.lora is not None else shape.language + shape.vision
    return kept * BYTES[recipe.model.dtype]


def disk_of(recipe: Recipe, shape: Shape) -> float:
    """Bytes: checkpoints with optimiser state, the final model, the world's clips."""
    kept = (
        recipe.train.save_total_limit + 1 if recipe.train.save_steps else 0
    )  # the newest is written before the oldest goes
    clips = recipe.data.num_clips * CLIP_BYTES if recipe.data.source == "world" else 0
    rounds = recipe.bootstrap_caption.trainings if recipe.algorithm == "bootstrap_caption" else 0  # each keeps its own
    return kept * checkpoint_of(recipe, shape) + (1 + rounds) * _saved(recipe, shape) + clips


def seconds_of(shape: Shape, tokens: int) -> float:
    """Time to train on `tokens` tokens of one device: 6 operations per weight and token, 4 where the weight is frozen,
    at this device's speed."""
    operations = (4 * (shape.language + shape.vision) + 2 * shape.trainable) * tokens
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
