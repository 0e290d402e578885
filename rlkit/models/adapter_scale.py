"""How much of a trained adapter is used: its update times a factor, 0 the start and 1 what was learnt.

Between the two lie models that have learnt less and forgotten less, as with weights between those of a model and of
what it was fine-tuned to (WiSE-FT, https://huggingface.co/papers/2109.01903). Deviation: only LoRA, whose update is
linear in its up matrices, so that the scaled adapter is an ordinary one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

UP = ".lora_B."


@torch.no_grad()
def multiply(model: nn.Module, factor: float) -> None:
    """Multiply the up matrices of every LoRA layer of `model` in place; a model without any stays as it is."""
    for name, parameter in model.named_parameters():
        if UP in name:
            parameter.mul_(factor)


@contextmanager
def scaled(model: nn.Module, factor: float) -> Iterator[None]:
    """Inside, the adapter counts `factor` times; afterwards it has its former bits."""
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if UP in name}
    multiply(model, factor)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in kept:
                    parameter.copy_(kept[name])


def times(weights: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """`weights` by PEFT's names, with the update multiplied."""
    return {name: weight * factor if UP in name else weight.clone() for name, weight in weights.items()}
