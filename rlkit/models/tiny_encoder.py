"""Tiny vision encoders of real architectures with their real image processors, to be trained on the spot."""

from typing import Any

import torch
from torch import nn
from transformers import (
    BitImageProcessor,
    ConvNextV2Config,
    ConvNextV2Model,
    Dinov2Config,
    Dinov2Model,
)

from rlkit.errors import ModelError

FAMILIES = ("convnextv2", "dinov2")
INITIALIZER_RANGE = 0.1  # about 1 / sqrt(width): with the 0.02 of large models a tiny one sees nothing for long


def build(
    family: str, *, window: int = 64, hidden_sizes: tuple[int, ...] = (32, 64, 128), patch_size: int = 4, seed: int = 0
) -> tuple[nn.Module, Any]:
    """A randomly initialised encoder of `family` and its processor for windows of `window` x `window` pixels.

    ConvNeXt V2 has one block a stage and a stage per entry of hidden_sizes; DINOv2 as many blocks, of the last width,
    on patches of 2 * patch_size. Deterministic in all arguments. Raises ModelError for an unknown family.
    """
    if family not in FAMILIES:
        raise ModelError(f"model.init names {family!r}; the tiny encoders are {', '.join(FAMILIES)}.")
    square = {"height": window, "width": window}
    processor = BitImageProcessor(size=square, crop_size=square)  # squeezes: nothing of a picture's border is lost
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "convnextv2":
            config = ConvNextV2Config(
                hidden_sizes=list(hidden_sizes),
                depths=[1] * len(hidden_sizes),
                num_stages=len(hidden_sizes),
                patch_size=patch_size,
                image_size=window,
                initializer_range=INITIALIZER_RANGE,
            )
            return ConvNextV2Model(config), processor
        config = Dinov2Config(
            hidden_size=hidden_sizes[-1],
            num_hidden_layers=len(hidden_sizes),
            num_attention_heads=max(hidden_sizes[-1] // 32, 1),
            mlp_ratio=2,
            patch_size=2 * patch_size,
            image_size=window,
            initializer_range=INITIALIZER_RANGE,
        )
        return Dinov2Model(config), processor
