"""Losses on pairs and ratings have their papers' values; what is masked reaches neither value nor gradient."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.special import expit

from rlkit import losses
from rlkit.answers import Pairs
from rlkit.errors import RecipeError
from rlkit.losses import diffusion

SHAPE = (5, 4, 6, 6)
DIMS = 4 * 6 * 6
BETA = 7.0
NAN = float("nan")


def normal(seed, shape=SHAPE, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def errors(dtype=torch.float64):
    """Errors of five pairs, positive as errors are."""
    return diffusion.PairErrors(*(normal(seed, (5,), dtype).abs() for seed in range(4)))


def numpy(pairs):
    return [getattr(pairs, field.name).numpy() for field in dataclasses.fields(pairs)]


# ---- errors and noise -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_errors_are_reduced_over_all_but_the_batch(reduction):
    found = diffusion.squared_error(normal(0), normal(1), reduction)
    expected = getattr(((normal(0) - normal(1)).numpy() ** 2).reshape(5, -1), reduction)(1)
    np.testing.assert_allclose(found.numpy(), expected)


def test_errors_of_half_precision_are_taken_in_fp32():
    target = 100 + normal(0, dtype=torch.float32).bfloat16()
    assert diffusion.squared_error(target + 1, target).dtype == torch.float32


def test_noised_pair_is_diffusers_flow_noise():
    diffusers = pytest.importorskip("diffusers", reason="the reference schedulers are diffusers'")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    chosen, rejected, noise = (normal(seed, dtype=torch.float32) for seed in range(3))
    at = torch.tensor([100, 300, 500, 700, 900])
    found = diffusion.noised_pair(chosen, rejected, noise, scheduler.sigmas[at])
    expected = [scheduler.scale_noise(side, scheduler.timesteps[at], noise) for side in (chosen, rejected)]
    torch.testing.assert_close(found.samples, torch.cat(expected))
    torch.testing.assert_close(found.targets, torch.cat([noise - chosen, noise - rejected]))


def test_noised_pair_is_diffusers_epsilon_noise():
    diffusers = pytest.importorskip("diffusers", reason="the reference schedulers are diffusers'")
    scheduler = diffusers.DDPMScheduler()
    chosen, rejected, noise = (normal(seed, dtype=torch.float32) for seed in range(3))
    at = torch.tensor([100, 300, 500, 700, 900])
    found = diffusion.noised_pair(chosen, rejected, noise, scheduler.alphas_cumprod[at], model="epsilon")
    expected = [scheduler.add_noise(side, noise, at) for side in (chosen, rejected)]
    torch.testing.assert_close(found.samples, torch.cat(expected))
    assert torch.equal(found.targets, torch.cat([noise, noise]))


def test_noise_for_each_side_is_refused():
    with pytest.raises(ValueError, match="expected one shape and one level a pair"):
        diffusion.noised_pair(normal(0), normal(1), normal(2, (10, 4, 6, 6)), torch.full((5,), 0.5))


def test_pair_errors_take_a_batch_of_both_sides_apart():
    policy, reference, target = normal(0).requires_grad_(), normal(1).requires_grad_(), normal(2)
    both = diffusion.pair_errors(policy.repeat(2, 1, 1, 1), reference.repeat(2, 1, 1, 1), torch.cat([target, policy]))
    torch.testing.assert_close(both.chosen, (policy - target).square().flatten(1).mean(1))
    assert not both.rejected.any() and both.chosen.requires_grad and not both.ref_chosen.requires_grad


# ---- losses on pairs ------------------------------------------------------------------------------------------------


def test_sigmoid_is_diffusion_dpos():
    chosen, rejected, ref_chosen, ref_rejected = numpy(errors())
    inside = -BETA / 2 * ((chosen - rejected) - (ref_chosen - ref_rejected))
    found = diffusion.sigmoid(errors(), dpo_beta=BETA)
    np.testing.assert_allclose(found.numpy(), -np.log(expit(inside)))


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "ipo"])
def test_pair_losses_are_those_of_trl_with_half_an_error_as_log_prob(name):
    pairs, one = errors(torch.float32), torch.ones(5, 1)
    log_probs = [-getattr(pairs, field.name)[:, None] / 2 for field in dataclasses.fields(pairs)]
    answers = Pairs(*log_probs, one.int(), one.int(), one.bool())
    expected = losses.PAIRWISE[name](answers, losses.Options(beta=BETA))[:, 0]
    torch.testing.assert_close(diffusion.PAIRWISE[name](pairs, dpo_beta=BETA), expected)


def test_a_policy_at_its_reference_starts_from_log_two():
    pairs = dataclasses.replace(errors(), ref_chosen=errors().chosen, ref_rejected=errors().rejected)
    torch.testing.assert_close(diffusion.sigmoid(pairs, dpo_beta=5000), torch.full((5,), math.log(2)).double())


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "ipo"])
def test_losses_fall_where_the_chosen_sides_error_falls(name):
    pairs = errors()
    chosen, rejected = pairs.chosen.requires_grad_(), pairs.rejected.requires_grad_()
    pairs = dataclasses.replace(pairs, ref_chosen=chosen.detach(), ref_rejected=rejected.detach())
    diffusion.PAIRWISE[name](pairs, dpo_beta=BETA).sum().backward()
    assert (chosen.grad > 0).all() and torch.equal(chosen.grad, -rejected.grad)


def test_mapo_is_its_formula():
    chosen, rejected, _, _ = numpy(errors())
    odds = 0.5 * chosen / (np.exp(0.5 * chosen) - 1) - 0.5 * rejected / (np.exp(0.5 * rejected) - 1)
    found = diffusion.mapo(errors(), mapo_scale=10.0)
    np.testing.assert_allclose(found.numpy(), chosen - 0.1 * np.log(expit(10 * odds)))


@pytest.mark.parametrize("size", [0.0, 1e-8, 1e-5, 200.0, 1e4])
def test_mapo_is_finite_for_errors_of_any_size(size):
    chosen = torch.full((2,), size, requires_grad=True)
    loss = diffusion.mapo(diffusion.PairErrors(chosen, chosen.detach(), chosen, chosen))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([size + 0.1 * math.log(2)] * 2) and chosen.grad.isfinite().all()


def test_equivalent_strengths_give_one_loss_and_one_gradient():
    """5000 with mean errors at 64 x 64 x 16 is 0.076 with sums."""
    assert diffusion.equivalent_strength(5000, 65536, source="mean", target="sum") == pytest.approx(0.0763, abs=1e-4)
    assert diffusion.equivalent_strength(0.5, DIMS, source="sum", target="mean") == 0.5 * DIMS
    assert diffusion.equivalent_strength(3.0, DIMS, source="sum", target="sum") == 3.0
    found = {}
    for reduction in ("mean", "sum"):
        prediction = normal(0, (10, 4, 6, 6)).requires_grad_()
        pairs = diffusion.pair_errors(prediction, normal(1, (10, 4, 6, 6)), normal(2, (10, 4, 6, 6)), reduction)
        strength = diffusion.equivalent_strength(BETA, DIMS, source="mean", target=reduction)
        loss = diffusion.sigmoid(pairs, dpo_beta=strength)
        loss.sum().backward()
        found[reduction] = loss, prediction.grad
    torch.testing.assert_close(found["mean"], found["sum"], rtol=1e-12, atol=1e-12)


def test_gap_weights_have_mean_one_over_valid_pairs():
    chosen, rejected = torch.tensor([1.0, 2.0, NAN, 1.0]), torch.tensor([0.0, -1.0, 0.0, 1.0])
    mask = diffusion.decided(chosen, rejected)
    assert mask.tolist() == [True, True, False, False]
    assert diffusion.gap_weights(chosen, rejected, mask).tolist() == [0.5, 1.5, 0.0, 0.0]


def test_ties_missing_rewards_and_wrong_labels_are_undecided():
    chosen, rejected = torch.tensor([1.0, 1.0, 0.5, NAN, 1.2]), torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    assert diffusion.decided(chosen, rejected).tolist() == [False, True, False, False, True]
    assert diffusion.decided(chosen, rejected, min_margin=0.3).tolist() == [False, True, False, False, False]


# ---- losses on rated samples ----------------------------------------------------------------------------------------


def test_kto_is_its_formula():
    found, reference, desirable = normal(0, (5,)).abs(), normal(1, (5,)).abs(), torch.tensor([1, 0, 1, 1, 0]).bool()
    loss = diffusion.kto(
        found, reference, desirable, kto_beta=3.0, kl_estimate=0.2, desirable_weight=1.0, undesirable_weight=1.5
    )
    gain = -(found - reference).numpy() - 0.2
    expected = np.where(desirable, 1 - expit(3.0 * gain), 1.5 * (1 - expit(-3.0 * gain)))
    np.testing.assert_allclose(loss.numpy(), expected)


def test_kto_pulls_liked_samples_and_pushes_others():
    found = normal(0, (4,)).abs().requires_grad_()
    diffusion.kto(found, found.detach(), torch.tensor([True, False, True, False]), kto_beta=1.0).sum().backward()
    assert (found.grad * torch.tensor([1, -1, 1, -1]) > 0).all()


def test_kto_kl_is_at_least_zero_and_has_no_gradient():
    found = torch.tensor([1.0, 2.0], requires_grad=True)
    assert diffusion.kto_kl(found, torch.tensor([2.0, 2.0])).item() == 0.5
    value = diffusion.kto_kl(found, torch.tensor([0.0, 0.0]))
    assert value == 0 and not value.requires_grad


def test_reward_weighted_is_its_formula_and_capped():
    rewards = torch.tensor([0.0, 1.0, 10.0])
    found = diffusion.reward_weighted(torch.tensor([2.0, 2.0, 2.0]), rewards, temperature=2.0, max_weight=20.0)
    assert found.tolist() == pytest.approx([2.0, 2 * math.exp(0.5), 40.0])
    free = diffusion.reward_weighted(torch.tensor([2.0]), rewards[2:], max_weight=None)
    assert free.item() == pytest.approx(2 * math.exp(10))


# ---- all together ---------------------------------------------------------------------------------------------------


def test_pair_loss_adds_what_the_recipe_names():
    pairs, weights = errors(), torch.tensor([0.5, 1.0, 1.5, 1.0, 1.0])
    found, _ = diffusion.pair_loss(
        pairs, types={"sigmoid": 2.0, "sft": 0.3, "mapo": 0.1}, dpo_beta=BETA, weights=weights
    )
    expected = 2 * diffusion.sigmoid(pairs, dpo_beta=BETA) + 0.3 * pairs.chosen + 0.1 * diffusion.mapo(pairs)
    torch.testing.assert_close(found, weights * expected)


def test_kto_of_a_pair_is_a_thumb_up_and_a_thumb_down():
    chosen, rejected, ref_chosen, ref_rejected = numpy(errors())
    options = {"types": {"kto": 1.0}, "dpo_beta": BETA, "kto_beta": 2.0, "kl_estimate": 0.1}
    found, _ = diffusion.pair_loss(errors(), **options)
    up, down = expit(2 * (ref_chosen - chosen - 0.1)), expit(-2 * (ref_rejected - rejected - 0.1))
    np.testing.assert_allclose(found.numpy(), 1 - (up + down) / 2)


@pytest.mark.parametrize("name", diffusion.NAMES)
def test_masked_pairs_reach_neither_value_nor_gradient(name):
    mask = torch.tensor([True, False, True, True, False])
    whole, kept = errors(torch.float32), {}
    for field in dataclasses.fields(whole):
        kept[field.name] = torch.where(mask, getattr(whole, field.name), NAN).requires_grad_()
    loss, logged = diffusion.pair_loss(
        diffusion.PairErrors(**kept), types={name: 1.0}, dpo_beta=BETA, mask=mask, weights=torch.where(mask, 2.0, NAN)
    )
    loss.sum().backward()
    expected, _ = diffusion.pair_loss(whole, types={name: 1.0}, dpo_beta=BETA)
    torch.testing.assert_close(loss, torch.where(mask, 2 * expected, 0.0))
    assert kept["chosen"].grad.isfinite().all() and not kept["chosen"].grad[~mask].any()
    assert all(value.isfinite() for value in logged.values()) and logged["pairs/masked"] == pytest.approx(0.4)


def test_metrics_are_trls():
    chosen, rejected, ref_chosen, ref_rejected = numpy(errors())
    _, found = diffusion.pair_loss(errors(), types={"sigmoid": 1.0}, dpo_beta=BETA)
    win, lose = BETA / 2 * (ref_chosen - chosen), BETA / 2 * (ref_rejected - rejected)
    assert found["rewards/margins"].item() == pytest.approx((win - lose).mean())
    assert found["rewards/accuracies"].item() == pytest.approx((win > lose).mean())
    assert found["errors/rejected"].item() == pytest.approx(rejected.mean())


def test_unknown_loss_names_the_known_ones():
    with pytest.raises(RecipeError, match="sigmoyd; known are sigmoid, hinge, ipo, mapo, kto, sft"):
        diffusion.pair_loss(errors(), types={"sigmoyd": 1.0}, dpo_beta=BETA)
