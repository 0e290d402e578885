"""Losses of online RL have their papers' values; what is masked reaches neither value nor gradient."""

import math

import numpy as np
import pytest
import torch

from rlkit import sde
from rlkit.errors import GuardError
from rlkit.losses import policy

SHAPE = (6, 3, 5, 5)
NAN = float("nan")


def normal(seed, shape=SHAPE, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def levels():
    return torch.linspace(0.2, 0.9, 6, dtype=torch.float64)


# ---- on log-probs of steps ------------------------------------------------------------------------------------------


def test_ppo_clip_is_its_formula():
    log_ratio, advantages = 0.2 * normal(0, (50,)), normal(1, (50,))
    found = policy.ppo_clip(log_ratio, advantages, clip_low=0.1, clip_high=0.2)
    ratio, a = np.exp(log_ratio.numpy()), advantages.numpy()
    np.testing.assert_allclose(found.loss.numpy(), np.maximum(-a * ratio, -a * np.clip(ratio, 0.9, 1.2)))
    logged = {
        "ratio/mean": ratio.mean(), "ratio/below_one": (ratio < 1).mean(), "ratio/max_deviation": abs(ratio - 1).max(),
        "clip_ratio/low": ((ratio < 0.9) & (a < 0)).mean(), "clip_ratio/high": ((ratio > 1.2) & (a > 0)).mean(),
    }  # fmt: skip
    assert {name: value.item() for name, value in found.metrics.items()} == pytest.approx(logged)
    assert logged["clip_ratio/low"] != logged["clip_ratio/high"] > 0


def test_ppo_clip_stops_only_what_goes_too_far():
    log_ratio = torch.tensor([0.5, 0.5, -0.5, -0.5], requires_grad=True)
    policy.ppo_clip(log_ratio, torch.tensor([1.0, -1.0, 1.0, -1.0]), clip_low=0.2).loss.sum().backward()
    expected = [0.0, math.exp(0.5), -math.exp(-0.5), 0.0]
    assert log_ratio.grad.tolist() == pytest.approx(expected)


def test_at_ratio_one_the_gradient_is_the_policy_gradient():
    log_ratio = torch.zeros(4, requires_grad=True)
    advantages = torch.tensor([1.0, -2.0, 0.5, 0.0])
    policy.ppo_clip(log_ratio, advantages, clip_low=1e-5).loss.sum().backward()
    assert torch.equal(log_ratio.grad, -advantages)


def test_masked_steps_reach_neither_value_gradient_nor_metrics():
    """A last step, whose log-prob is NaN, and a sample whose reward is missing."""
    log_ratio = torch.tensor([0.1, NAN, -0.1, 0.2], requires_grad=True)
    advantages, mask = torch.tensor([1.0, 1.0, NAN, -1.0]), torch.tensor([True, False, False, True])
    divergence = torch.tensor([1e-4, NAN, 0.0, 1e-6])
    for found in (
        policy.ppo_clip(log_ratio, advantages, clip_low=0.05, mask=mask, weights=torch.tensor([1.0, NAN, 1.0, 2.0])),
        policy.dppo(log_ratio, divergence, advantages, mask=mask),
    ):
        log_ratio.grad = None
        found.loss.sum().backward()
        assert found.loss.isfinite().all() and found.loss[1:3].tolist() == [0, 0] and found.loss[3] != 0
        assert log_ratio.grad.isfinite().all() and log_ratio.grad[1:3].tolist() == [0, 0]
        assert found.metrics["ratio/mean"].item() == pytest.approx((math.exp(0.1) + math.exp(0.2)) / 2)


def test_guard_is_its_formula():
    std = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
    log_prob, old_log_prob, mean, old_mean = normal(0, (6,)), normal(1, (6,)), normal(2), normal(3)
    found = policy.guard_log_ratio(log_prob, old_log_prob, mean, old_mean, std)
    bias = ((mean - old_mean).numpy() ** 2).reshape(6, -1).mean(1) / (2 * std.numpy() ** 2)
    np.testing.assert_allclose(found.numpy(), ((log_prob - old_log_prob).numpy() + bias) * std.numpy())


def test_dppo_blocks_what_is_far_and_goes_further():
    log_ratio = torch.tensor([0.1, 0.1, -0.1, -0.1, 0.1, -0.1], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    divergence = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0], requires_grad=True)
    found = policy.dppo(log_ratio, divergence, advantages, divergence_limit=1e-5)
    found.loss.sum().backward()
    kept = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(found.loss, -kept * advantages * log_ratio.exp())
    torch.testing.assert_close(log_ratio.grad, -kept * advantages * log_ratio.exp())
    assert divergence.grad is None and found.metrics["dppo/blocked"].item() == pytest.approx(1 / 3)


def test_reference_kl_is_zero_where_nothing_is_random_and_moves_the_mean_only():
    mean, ref_mean = normal(0).requires_grad_(), normal(1).requires_grad_()
    std = torch.tensor([0.3, 0.0, 0.3, 0.3, 0.0, 0.3]).double()
    found = policy.reference_kl(mean, ref_mean, std, mask=torch.tensor([1, 1, 0, 1, 1, 1]).bool())
    found.sum().backward()
    expected = torch.where(torch.tensor([1, 0, 0, 1, 0, 1]).bool(), sde.gaussian_kl(mean, ref_mean, std), 0.0)
    torch.testing.assert_close(found, expected)
    assert ref_mean.grad is None and mean.grad.isfinite().all() and mean.grad[0].any() and not mean.grad[1:3].any()


def test_a_kl_term_that_cannot_train_is_refused():
    with torch.no_grad(), pytest.raises(ValueError, match="under no_grad, where it trains nothing"):
        policy.reference_kl(normal(0), normal(1), torch.ones(6))


def test_a_ratio_off_one_before_the_first_update_stops_the_run():
    mask = torch.tensor([True, True, False])
    policy.require_unit_ratio(torch.tensor([0.0, 0.0, NAN]), mask)
    policy.require_unit_ratio(torch.tensor([1e-6, 0.0, 3.0]), mask, tolerance=1e-5)
    with pytest.raises(GuardError, match=r"a ratio is off 1 by 4.6\d*e-05, expected at most 0"):
        policy.require_unit_ratio(torch.tensor([0.0, -4.6e-5, NAN]), mask)
    with pytest.raises(GuardError, match="off 1 by nan"):
        policy.require_unit_ratio(torch.tensor([0.0, NAN]))


# ---- on velocities --------------------------------------------------------------------------------------------------


def nft_as_published(velocity, old_velocity, x0, noise, sigma, advantages, mix):
    """DiffusionNFT's loss in the space of x0, written down from its paper's code in numpy; no KL term."""
    velocity, old_velocity, x0, noise = (value.detach().numpy() for value in (velocity, old_velocity, x0, noise))
    s = sigma.numpy()[:, None, None, None]
    sample = (1 - s) * x0 + s * noise
    share = np.clip(advantages.numpy(), -5, 5) / 10 + 0.5

    def branch(v):
        x0_hat = sample - s * v
        divisor = np.maximum(np.abs(x0_hat - x0).mean((1, 2, 3), keepdims=True), 1e-5)
        return ((x0_hat - x0) ** 2 / divisor).mean((1, 2, 3))

    better = branch(mix * velocity + (1 - mix) * old_velocity)
    worse = branch((1 + mix) * old_velocity - mix * velocity)
    return 5 * (share * better / mix + (1 - share) * worse / mix)


@pytest.mark.parametrize("mix", [0.1, 1.0])
def test_nft_is_the_published_loss(mix):
    x0, noise, advantages = normal(0), normal(1), 6 * normal(2, (6,))
    velocity, old_velocity = normal(3), normal(4)
    found = policy.nft(velocity, old_velocity, noise - x0, levels(), advantages, nft_mix=mix)
    expected = nft_as_published(velocity, old_velocity, x0, noise, levels(), advantages, mix)
    np.testing.assert_allclose(found.loss.numpy(), expected, rtol=1e-10)
    moved = (velocity - old_velocity).square().mean()
    assert advantages.abs().max() > 5 and found.metrics["nft/moved"].item() == pytest.approx(moved.item())


def test_awm_is_ppo_on_weighted_matching():
    velocity, old_velocity, target, advantages = normal(0), normal(1), normal(2), normal(3, (6,))
    found = policy.nft(
        velocity, old_velocity, target, levels(), advantages, form="awm", weighting="sigma", ratio_clip=0.2
    )
    log_prob, old_log_prob = (-levels() * (v - target).square().flatten(1).mean(1) for v in (velocity, old_velocity))
    ratio = (log_prob - old_log_prob).exp()
    expected = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2))
    torch.testing.assert_close(found.loss, expected)
    free = policy.nft(velocity, old_velocity, target, levels(), advantages, form="awm", weighting="sigma")
    torch.testing.assert_close(free.loss, -advantages * ratio)


@pytest.mark.parametrize("mix", [0.1, 0.5, 1.0])
def test_nft_is_awms_linear_surrogate_held_back_by_a_proximal_term(mix):
    """Up to the constant at v = v_old, away from which |v - v_old| is not small here."""
    velocity, old, target, advantages = normal(0), normal(1), normal(2), normal(3, (6,))

    def nft(v):
        return policy.nft(v, old, target, levels(), advantages, nft_mix=mix, weighting="sigma").loss

    errors = [policy.weighted_error(v, target, levels(), "sigma") for v in (velocity, old)]
    moved = levels() * (velocity - old).square().flatten(1).mean(1)
    expected = advantages * (errors[0] - errors[1]) + (5 * mix - advantages) * moved
    torch.testing.assert_close(nft(velocity) - nft(old), expected)


@pytest.mark.parametrize("form", ["nft", "awm"])
def test_samples_without_an_advantage_reach_neither_value_nor_gradient(form):
    velocity, advantages = normal(0).requires_grad_(), normal(1, (6,))
    mask = torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    advantages[~mask] = NAN
    found = policy.nft(velocity, normal(2), normal(3), levels(), advantages, form=form, mask=mask)
    found.loss.sum().backward()
    assert found.loss.isfinite().all() and not found.loss[~mask].any() and found.loss[mask].all()
    assert velocity.grad.isfinite().all() and not velocity.grad[~mask].any()


def test_behaviour_and_reference_carry_no_gradient():
    old, velocity = normal(0).requires_grad_(), normal(1).requires_grad_()
    for form in ("nft", "awm"):
        policy.nft(velocity, old, normal(2), levels(), normal(3, (6,)), form=form).loss.sum().backward()
    (policy.velocity_mse(velocity, old) + policy.norm_guard(velocity, old)).sum().backward()
    assert old.grad is None and velocity.grad.any()


@pytest.mark.parametrize(
    ("weighting", "formula"),
    [
        ("uniform", lambda d, s: (d**2).mean()),
        ("sigma", lambda d, s: s * (d**2).mean()),
        ("sigma_squared", lambda d, s: ((s * d) ** 2).mean()),
        ("adaptive", lambda d, s: ((s * d) ** 2).mean() / max(np.abs(s * d).mean(), 1e-5)),
        ("ghuber", lambda d, s: s / 0.25 * (((d**2).mean() + 1e-10) ** 0.25 - (1e-10) ** 0.25)),
    ],
)
def test_weightings_are_their_formulas(weighting, formula):
    found = policy.weighted_error(normal(0), normal(1), levels(), weighting)
    difference = (normal(0) - normal(1)).numpy()
    expected = [formula(d, s) for d, s in zip(difference, levels().numpy(), strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_a_perfect_velocity_has_a_finite_gradient_in_every_weighting():
    for weighting in ("uniform", "sigma", "sigma_squared", "adaptive", "ghuber"):
        velocity = normal(0, dtype=torch.float32).requires_grad_()
        policy.weighted_error(velocity, velocity.detach(), levels().float(), weighting).sum().backward()
        assert not velocity.grad.any() and velocity.grad.isfinite().all()


def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match=r"form is 'dpo' and nft_mix 1.0"):
        policy.nft(normal(0), normal(1), normal(2), levels(), normal(3, (6,)), form="dpo")
    with pytest.raises(ValueError, match="form is 'nft' and nft_mix 0"):
        policy.nft(normal(0), normal(1), normal(2), levels(), normal(3, (6,)), nft_mix=0)
    with pytest.raises(ValueError, match="weighting is 'huber', expected uniform"):
        policy.weighted_error(normal(0), normal(1), levels(), "huber")


# ---- terms ----------------------------------------------------------------------------------------------------------


def test_distances_to_reference_and_data_are_mean_squares():
    expected = ((normal(0) - normal(1)).numpy() ** 2).reshape(6, -1).mean(1)
    np.testing.assert_allclose(policy.velocity_mse(normal(0), normal(1)).numpy(), expected)
    np.testing.assert_allclose(policy.sft_anchor(normal(0), normal(1)).numpy(), expected)


def test_norm_guard_holds_growth_and_leaves_shrinking_alone():
    ref_velocity = normal(0)
    grown = (1.1 * ref_velocity).requires_grad_()
    loss = policy.norm_guard(grown, ref_velocity)
    rms = ref_velocity.square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(loss, (0.1 * rms) ** 2)
    loss.sum().backward()
    assert ((grown.grad * grown).flatten(1).sum(1) > 0).all()
    shrunk = (0.9 * ref_velocity).requires_grad_()
    policy.norm_guard(shrunk, ref_velocity).sum().backward()
    assert not shrunk.grad.any()
    torch.testing.assert_close(policy.velocity_ratio(grown, ref_velocity), torch.full((6,), 1.1).double())


def test_norm_guard_of_a_zero_velocity_has_a_finite_gradient():
    velocity = torch.zeros(SHAPE, requires_grad=True)
    policy.norm_guard(velocity, torch.zeros(SHAPE)).sum().backward()
    assert velocity.grad.isfinite().all()
