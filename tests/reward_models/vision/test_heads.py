"""Heads against their formulas: gate, moderated pairs, routing, the mixture of experts, standardised features."""

import numpy as np
import pytest
import torch

from reward_models.vision.heads import UNKNOWN, Heads, Outputs, gate, moderated
from rlkit import reward_losses

OUTPUTS = Outputs(("overall", "sharpness"), ("anatomy", "text"), 5, experts=("general", "portrait"), hidden=8)


@pytest.fixture
def heads():
    torch.manual_seed(0)
    made = Heads(6, OUTPUTS)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def test_the_gate_is_the_losses_gate_and_no_beauty_makes_up_for_a_certain_fault():
    soft, veto = torch.randn(7), 3 * torch.randn(7, 2)
    torch.testing.assert_close(gate(soft, veto), reward_losses.veto_gate(soft, veto))
    fine, broken = gate(torch.tensor(0.0), torch.tensor([-20.0])), gate(torch.tensor(15.0), torch.tensor([20.0]))
    assert fine == pytest.approx(0, abs=1e-6) and broken < -4


@pytest.mark.parametrize(("difference", "variance"), [(0.5, 0.1), (1.0, 2.0), (-2.0, 5.0), (3.0, 20.0)])
def test_moderation_is_the_mean_of_the_sigmoid_over_a_gaussian(difference, variance):
    draws = difference + variance**0.5 * torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    value = torch.sigmoid(torch.tensor(difference) * moderated(torch.tensor(variance)))
    assert value == pytest.approx(float(draws.sigmoid().mean()), abs=0.02)  # MacKay's approximation is that good


def test_fresh_heads_favour_no_fault_no_bin_and_no_kind():
    judged = Heads(6, OUTPUTS)(torch.randn(3, 6))
    assert judged.veto.eq(0).all() and torch.allclose(judged.route, torch.full((3, 2), 0.5))
    torch.testing.assert_close(judged.distribution.exp(), torch.full((3, 5), 0.2))


def test_a_known_kind_is_judged_by_its_expert_alone(heads):
    features, region = torch.randn(2, 6), torch.randn(2, 6)
    judged = heads(features, region, torch.tensor([0, 1]))
    assert judged.route.tolist() == [[1, 0], [0, 1]]
    for row, expert, seen in ((0, heads.experts[0], features), (1, heads.experts[1], region)):
        mean, log_variance, veto, bins = expert(seen[row : row + 1])
        torch.testing.assert_close(judged.mean[row : row + 1], mean)
        torch.testing.assert_close(judged.log_variance[row : row + 1], log_variance)
        torch.testing.assert_close(judged.veto[row : row + 1], veto)
        torch.testing.assert_close(judged.distribution[row : row + 1], bins)


def test_the_region_moves_the_second_expert_and_not_the_first(heads):
    features, region = torch.randn(1, 6), torch.randn(1, 6)
    for kind, moves in ((0, False), (1, True)):
        plain, near = heads(features, None, torch.tensor([kind])), heads(features, region, torch.tensor([kind]))
        assert (not torch.allclose(plain.mean, near.mean)) == moves


def test_an_unknown_kind_mixes_the_experts_by_the_router(heads):
    features = torch.randn(4, 6)
    judged = heads(features, None, torch.full((4,), UNKNOWN))
    share = heads.router(features).softmax(-1)
    torch.testing.assert_close(judged.route, share)
    mean, log_variance, _, bins = (torch.stack(p, 1) for p in zip(*(e(features) for e in heads.experts), strict=True))
    mixed = (share[..., None] * mean).sum(1)
    torch.testing.assert_close(judged.mean, mixed)
    second = (share[..., None] * (log_variance.exp() + mean**2)).sum(1)  # of a mixture: E x^2 - (E x)^2
    torch.testing.assert_close(judged.log_variance.exp(), second - mixed**2)
    torch.testing.assert_close(judged.distribution.exp(), (share[..., None] * bins.exp()).sum(1))


def test_scores_are_the_means_with_the_first_limited_by_the_vetoes(heads):
    judged = heads(torch.randn(3, 6))
    torch.testing.assert_close(judged.scores[:, 0], gate(judged.mean[:, 0], judged.veto))
    torch.testing.assert_close(judged.scores[:, 1], judged.mean[:, 1])
    assert judged.log_scale[0] == 0  # overall is in logits


def test_standardised_features_have_mean_0_and_deviation_1(heads):
    features = 5 + 3 * torch.randn(200, 6)
    heads.standardise(features)
    seen = heads.standardised(features).numpy()
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(seen.std(0), 1, atol=2e-3)


@pytest.mark.parametrize(
    "options",
    [{"attributes": ("sharpness",)}, {"attributes": ("overall", "x", "x")}, {"bins": 1}, {"levels": 1}, {"bins": -1}],
)
def test_outputs_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        Outputs(**options)


def test_no_weight_comes_out_as_it_is_or_holds_nothing():
    """DDP takes a weight that is itself an output for one that is not used, and stops; ZeRO-3 stops at an empty one.
    The names in a file stay."""
    heads = Heads(6, Outputs())
    judged = heads(torch.randn(5, 6))
    assert all(one.numel() for one in heads.parameters())
    assert {"log_scale", "tie", "cutpoints"} <= heads.state_dict().keys()
    assert not any(isinstance(one, torch.nn.Parameter) for one in vars(judged).values())
