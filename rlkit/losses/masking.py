"""Cells that count: what stands outside of a mask, NaN included, reaches neither value nor gradient."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PerSample = Float[Tensor, " batch"]
Mask = Bool[Tensor, " batch"] | None


def widen(values: Tensor) -> Tensor:
    """fp32 (fp64 stays): differences of errors are smaller than bf16's rounding."""
    return values if values.dtype == torch.float64 else values.float()


def keep(mask: Mask, *values: PerSample) -> list[PerSample]:
    """`values` widened, 0 outside of the mask: to be applied to what goes into a formula, for 0 * NaN is NaN."""
    values = [widen(value) for value in values]
    return values if mask is None else [torch.where(mask, value, 0.0) for value in values]


def masked_mean(values: PerSample, mask: Mask = None, count: float | None = None) -> Float[Tensor, ""]:
    """Mean over valid cells, 0 with a graph where there are none.

    `count`, the valid cells of the whole accumulated batch over its number of parts, makes 8 x 1 equal 1 x 8.
    """
    (kept,) = keep(mask, values)
    if count is None:
        count = len(values) if mask is None else int(mask.sum())
    return kept.sum() / max(count, 1)
