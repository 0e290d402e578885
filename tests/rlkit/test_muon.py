"""Muon against torch's own, and what its updates look like."""

import pytest
import torch
from torch import nn

from rlkit.muon import Muon, MuonWithAdamW, orthogonalised

SHAPES = [(32, 64), (64, 32), (32, 64), (48, 48)]


def test_five_steps_equal_torch_muon_up_to_its_bfloat16():
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape) * 0.1) for shape in SHAPES]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    muon = Muon(ours, lr=1e-2, weight_decay=0.1)
    peer = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = torch.randn_like(own)
            other.grad = own.grad.clone()
        muon.step()
        peer.step()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=0.0, atol=2e-3 * float(other.detach().abs().max()))


@pytest.mark.parametrize("shape", [(3, 16, 48), (2, 48, 16), (1, 32, 32)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, values, vh = torch.linalg.svd(matrices, full_matrices=False)
    moved = u.mT @ orthogonalised(matrices) @ vh.mT  # diagonal where the singular vectors are the same
    diagonal = moved.diagonal(dim1=1, dim2=2)
    assert torch.allclose(moved, torch.diag_embed(diagonal), atol=1e-4)
    # Values that the normalised input holds above 0.01 land in this range (Jordan's coefficients)
    big = values / matrices.norm(dim=(1, 2))[:, None] > 0.01
    assert float(diagonal[big].min()) > 0.5 and float(diagonal[big].max()) < 1.25


def test_a_matrix_without_gradient_stays_and_a_zero_gradient_gives_no_nan():
    still, zero = nn.Parameter(torch.ones(4, 8)), nn.Parameter(torch.ones(4, 8))
    zero.grad = torch.zeros(4, 8)
    Muon([still, zero], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(still, torch.ones(4, 8)) and torch.equal(zero, torch.ones(4, 8))


def test_matrices_go_to_muon_and_the_rest_to_adamw_with_one_rate():
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 4), nn.LayerNorm(4))
    both = MuonWithAdamW(model, lr=0.1, weight_decay=0.0, betas=(0.9, 0.99))
    muon, adamw = both.parts
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(4, 8)]
    assert len(adamw.param_groups[0]["params"]) == 4  # embedding, bias, and the norm's two
    both.param_groups[0]["lr"] = both.param_groups[1]["lr"] = 0.0  # as a scheduler does
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.arange(5)).sum().backward()
    both.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_the_state_survives_saving():
    def trained(steps, state=None):
        torch.manual_seed(3)
        layer = nn.Linear(6, 6)
        optimizer = MuonWithAdamW(layer, lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))
        if state is not None:
            layer.load_state_dict(state[0])
            optimizer.load_state_dict(state[1])
        for step in steps:
            optimizer.zero_grad()
            layer(torch.full((2, 6), float(step))).square().sum().backward()
            optimizer.step()
        return layer.state_dict(), optimizer.state_dict()

    whole, _ = trained(range(4))
    resumed, _ = trained(range(2, 4), trained(range(2)))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
