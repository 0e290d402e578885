"""Means over valid cells add up over accumulation, and NaN outside of the mask stays there."""

import torch

from rlkit.losses import masking

NAN = float("nan")


def test_parts_of_a_batch_add_up_to_its_mean():
    values = torch.randn(8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([1, 0, 1, 1, 0, 1, 1, 0]).bool()
    whole = masking.masked_mean(values, mask)
    torch.testing.assert_close(whole, values[mask].mean())
    per_part = mask.sum() / 4
    parts = [masking.masked_mean(values[at : at + 2], mask[at : at + 2], count=float(per_part)) for at in (0, 2, 4, 6)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_nothing_valid_is_zero_with_a_graph():
    values = torch.full((3,), NAN, requires_grad=True)
    loss = masking.masked_mean(values * 2, torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss == 0


def test_keep_widens_and_cuts_the_gradient_of_what_is_masked():
    values = torch.tensor([1.0, NAN], requires_grad=True)
    (kept,) = masking.keep(torch.tensor([True, False]), values)
    (kept * torch.tensor([2.0, NAN]).nan_to_num()).sum().backward()
    assert kept.tolist() == [1.0, 0.0] and values.grad.tolist() == [2.0, 0.0]
    assert (
        masking.widen(values.bfloat16()).dtype == torch.float32 and masking.widen(values.double()).dtype.itemsize == 8
    )
