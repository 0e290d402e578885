"""What losses of generators promise, checked on ours and on ours with each known bug planted: every bug is caught.

A check takes the module; it must pass for rlkit.losses.diffusion (pairs made beforehand) or rlkit.losses.policy
(online) and fail for the mutants that name it.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlkit.errors import GuardError
from rlkit.losses import diffusion, policy

NAN = float("nan")
SHAPE = (6, 3, 8, 8)
DIMS = 3 * 8 * 8


def normal(seed, shape=SHAPE, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def errors():
    """Errors of six pairs that are leaves."""
    return [normal(seed, (6,)).abs().requires_grad_() for seed in range(4)]


def levels():
    return torch.linspace(0.15, 0.9, 6, dtype=torch.float64)


def gradient(loss, *of):
    assert loss.requires_grad, "a loss without a gradient trains nothing"
    return torch.autograd.grad(loss.sum(), of, allow_unused=True)


# ---- pairs: what must hold ------------------------------------------------------------------------------------------


def check_dpo(module):
    """-log sigmoid(-beta / 2 [(l_w - l_w_ref) - (l_l - l_l_ref)]), the 1/2 included."""
    chosen, rejected, ref_chosen, ref_rejected = errors()
    found = module.sigmoid(module.PairErrors(chosen, rejected, ref_chosen, ref_rejected), dpo_beta=3.0)
    expected = -F.logsigmoid(-1.5 * ((chosen - ref_chosen) - (rejected - ref_rejected)))
    assert torch.allclose(found, expected)


def check_ipo(module):
    """IPO rests where the margin is 1 / (2 beta)."""
    margin = torch.linspace(0, 1, 101, dtype=torch.float64)
    zero = torch.zeros_like(margin)
    loss = module.ipo(module.PairErrors(zero, 2 * margin, zero, zero), dpo_beta=2.0)
    assert margin[loss.argmin()].item() == 0.25


def check_same_noise(module):
    """A pair of one picture twice has no margin under any model: both sides see one noise at one time."""
    picture, model = normal(0), nn.Conv2d(3, 3, 3, padding=1).double()
    for kind in ("flow", "epsilon"):
        pair = module.noised_pair(picture, picture, normal(1), levels(), model=kind)
        pairs = module.pair_errors(model(pair.samples), pair.samples, pair.targets)
        assert pairs.margin.abs().max() < 1e-12
        assert all(part.abs().max() < 1e-12 for part in gradient(pairs.margin, model.weight))


def check_reference_is_fixed(module):
    """The reference gets no gradient, the policy does."""
    policy_output, reference_output = (normal(seed, (12, 3, 8, 8)).requires_grad_() for seed in (0, 1))
    pairs = module.pair_errors(policy_output, reference_output, normal(2, (12, 3, 8, 8)))
    found = gradient(module.sigmoid(pairs, dpo_beta=1.0), policy_output, reference_output)
    assert found[0].any() and found[1] is None


def check_equivalent_strength(module):
    """Means with one strength and sums with its equivalent have one gradient."""
    target, reference, found = normal(0, (12, 3, 8, 8)), normal(1, (12, 3, 8, 8)), []
    for reduction in ("mean", "sum"):
        output = normal(2, (12, 3, 8, 8)).requires_grad_()
        strength = module.equivalent_strength(500.0, DIMS, source="mean", target=reduction)
        pairs = module.pair_errors(output, reference, target, reduction)
        found += gradient(module.sigmoid(pairs, dpo_beta=strength), output)
    assert found[0].any() and torch.allclose(*found, rtol=1e-9)


def check_ties(module):
    """Ties, missing rewards and labels that contradict their rewards are no labels."""
    chosen, rejected = torch.tensor([1.0, 1.0, 0.0, NAN, 1.0]), torch.tensor([1.0, 0.0, 1.0, 0.0, NAN])
    assert module.decided(chosen, rejected).tolist() == [False, True, False, False, False]


def check_masked_pairs(module):
    """A pair outside of the mask reaches nothing, whatever stands there."""
    mask = torch.tensor([True, True, False, True, False, True])
    leaves = [torch.where(mask, leaf.detach(), NAN).requires_grad_() for leaf in errors()]
    loss, _ = module.pair_loss(module.PairErrors(*leaves), types={"sigmoid": 1.0, "sft": 1.0}, dpo_beta=3.0, mask=mask)
    found = gradient(loss, leaves[0])[0]
    assert not loss[~mask].any() and loss.isfinite().all() and found.isfinite().all() and not found[~mask].any()


def check_winner_term(module):
    """The SFT term pulls on the chosen side alone."""
    leaves = errors()
    loss, _ = module.pair_loss(module.PairErrors(*leaves), types={"sft": 0.3}, dpo_beta=3.0)
    found = gradient(loss, *leaves)
    assert torch.equal(found[0], torch.full((6,), 0.3, dtype=torch.float64)) and not any(
        x is not None and x.any() for x in found[1:]
    )


def check_kto(module):
    """Liked samples come closer, others are pushed away, each less the further it has gone."""
    leaf, liked = torch.full((4,), 1.0).requires_grad_(), torch.tensor([True, True, False, False])
    reference = torch.tensor([1.0, 9.0, 1.0, -7.0])
    (found,) = gradient(module.kto(leaf, reference, liked, kto_beta=1.0), leaf)
    assert (found[:2] > 0).all() and (found[2:] < 0).all()
    assert found[0] > 10 * found[1] and found[2] < 10 * found[3]
    baseline = gradient(module.kto(leaf, reference, liked, kto_beta=1.0, kl_estimate=8.0), leaf)[0]
    assert baseline[1] > 10 * found[1], "measured against the running mean, it has not gone far"


# ---- online: what must hold -----------------------------------------------------------------------------------------


def check_ppo(module):
    """Clipped on the side its advantage pushes to, each side with its own range and its own count."""
    log_ratio = torch.tensor([0.15, 0.15, -0.15, -0.15, 0.25, -0.25]).requires_grad_()
    found = module.ppo_clip(log_ratio, torch.tensor([1.0, -1, 1, -1, 1, -1]), clip_low=0.2, clip_high=0.1)
    assert (gradient(found.loss, log_ratio)[0] != 0).tolist() == [False, True, True, True, False, False]
    assert found.metrics["clip_ratio/high"].item() == pytest.approx(2 / 6)
    assert found.metrics["clip_ratio/low"].item() == pytest.approx(1 / 6)


def check_guard(module):
    """Guard's log-ratio is mean(noise * shift): unbiased, and alike for steps of any std."""
    mean, old_mean, noise = normal(0), normal(0) + 0.01 * normal(1), normal(2)
    for std in (0.05, 0.5):
        std = torch.full((6,), std).double()
        drawn = old_mean + std[:, None, None, None] * noise
        gaussians = [torch.distributions.Normal(at, std[:, None, None, None]) for at in (mean, old_mean)]
        log_probs = [one.log_prob(drawn).flatten(1).mean(1) for one in gaussians]
        found = module.guard_log_ratio(*log_probs, mean, old_mean, std)
        assert torch.allclose(found, (noise * (mean - old_mean)).flatten(1).mean(1), atol=1e-9)


def check_both_clips_act(module):
    """With means over many dimensions nearly all plain ratios are below 1; Guard's lie on both sides of it."""
    dims, shift = 16384, 0.06
    noise = normal(0, (200, dims), torch.float32)
    log_ratio = noise.mean(1) * shift - shift**2 / 2  # of a policy moved by shift * std in every dimension
    old_mean, std = torch.zeros(200, dims), torch.ones(200)
    plain = module.ppo_clip(log_ratio, torch.ones(200), clip_low=1e-4).metrics
    guarded = module.guard_log_ratio(log_ratio, torch.zeros(200), old_mean + shift, old_mean, std)
    guarded = module.ppo_clip(guarded, torch.ones(200), clip_low=1e-4).metrics
    assert plain["ratio/below_one"] > 0.99 and plain["clip_ratio/high"] < 0.01
    assert 0.4 < guarded["ratio/below_one"] < 0.6 and guarded["clip_ratio/high"] > 0.2
    assert abs(guarded["ratio/mean"] - 1) < 4 * shift / (dims * 200) ** 0.5


def check_dppo(module):
    """Only what is far and goes further is blocked; the divergence has no gradient."""
    log_ratio = torch.tensor([0.1, 0.1, -0.1, -0.1, 0.1]).requires_grad_()
    divergence = torch.tensor([1.0, 1, 1, 1, 0]).requires_grad_()
    loss = module.dppo(log_ratio, divergence, torch.tensor([1.0, -1, 1, -1, 1]), divergence_limit=1e-5).loss
    found = gradient(loss, log_ratio, divergence)
    assert (found[0] != 0).tolist() == [False, True, True, False, True] and found[1] is None


def check_reference_kl(module):
    """Equals the closed form, moves the policy and not the reference, and refuses to be a mere number."""
    mean, ref_mean, std = normal(0).requires_grad_(), normal(1).requires_grad_(), torch.full((6,), 0.3).double()
    kl = module.reference_kl(mean, ref_mean, std)
    gaussians = [torch.distributions.Normal(at, torch.tensor(0.3).double()) for at in (mean, ref_mean)]
    assert torch.allclose(kl, torch.distributions.kl_divergence(*gaussians).flatten(1).mean(1))
    found = gradient(kl, mean, ref_mean)
    assert found[0] is not None and torch.allclose(found[0], (mean - ref_mean) / (0.3**2 * DIMS)) and found[1] is None
    with torch.no_grad(), pytest.raises(ValueError, match="no_grad"):
        module.reference_kl(mean, ref_mean, std)


def check_first_ratio(module):
    """A ratio off 1 by less than any clip range stops the run, and so does NaN."""
    module.require_unit_ratio(torch.zeros(3))
    for bad in (torch.tensor([0.0, -5e-7]), torch.tensor([0.0, 5e-7]), torch.tensor([NAN, 0.0])):
        with pytest.raises(GuardError):
            module.require_unit_ratio(bad)


def matching_gradient(module, velocity, advantages, **options):
    """Gradient of nft at v_old = v."""
    leaf = velocity.clone().requires_grad_()
    (found,) = gradient(module.nft(leaf, velocity, normal(2), levels(), advantages, **options).loss, leaf)
    return found


def check_nft_is_awm(module):
    """At the old policy NFT's gradient does not depend on its mix, and without the factor 5 is AWM's with A / 5."""
    velocity, advantages = normal(0), torch.tensor([-4.0, -1.0, 0.3, 1.0, 2.0, 4.9]).double()
    for weighting in ("uniform", "sigma", "sigma_squared", "adaptive", "ghuber"):
        nft = [
            matching_gradient(module, velocity, advantages, nft_mix=mix, weighting=weighting) for mix in (0.1, 0.7, 1.0)
        ]
        awm = matching_gradient(module, velocity, advantages / 5, form="awm", weighting=weighting)
        assert awm.any() and all((of_mix / 5 - awm).abs().max() < 1e-12 for of_mix in nft), weighting


def check_nft_descends(module):
    """Liked samples pull the velocity to their target, others push it away, by 2 A w (v - v*) / D."""
    velocity, advantages = normal(0), torch.tensor([-4.0, -1.0, 0.3, 1.0, 2.0, 4.9]).double()
    off = velocity - normal(2)
    for form in ("nft", "awm"):
        found = matching_gradient(module, velocity, advantages, form=form, weighting="adaptive")
        weight = levels() / off.abs().flatten(1).mean(1)
        assert torch.allclose(found, 2 / DIMS * (advantages * weight)[:, None, None, None] * off, rtol=1e-9)


def check_nft_is_held_back(module):
    """NFT rests near the old policy, nearer for a larger mix: at v_old + A / 5b (v* - v_old) for fixed weights."""
    old, target, advantages = normal(0), normal(2), torch.tensor([-4.0, -1.0, 0.3, 1.0, 2.0, 4.9]).double()
    for mix in (0.5, 1.0):
        best = (old + (advantages / (5 * mix))[:, None, None, None] * (target - old)).requires_grad_()
        loss = module.nft(best, old, target, levels(), advantages, nft_mix=mix, weighting="uniform").loss
        assert gradient(loss, best)[0].abs().max() < 1e-12


def check_nft_clips_advantages(module):
    """Beyond +-5 an advantage counts as 5."""
    velocity = normal(0)
    for form in ("nft", "awm"):
        far, near = (matching_gradient(module, velocity, torch.full((6,), a).double(), form=form) for a in (50.0, 5.0))
        assert torch.equal(far, near)


def check_old_policy_is_fixed(module):
    """The behaviour policy's velocity gets no gradient."""
    velocity, old = normal(0).requires_grad_(), normal(1).requires_grad_()
    for form in ("nft", "awm"):
        found = gradient(module.nft(velocity, old, normal(2), levels(), levels(), form=form).loss, velocity, old)
        assert found[0].any() and (found[1] is None or not found[1].any())


def check_terms(module):
    """Distances move the policy only, and NormGuard stops growth only."""
    reference = normal(0).requires_grad_()
    for factor, pushes in ((1.2, True), (0.8, False)):
        velocity = (factor * normal(0)).requires_grad_()
        found = gradient(module.norm_guard(velocity, reference), velocity, reference)
        assert found[0].any().item() == pushes and found[1] is None
    found = gradient(module.velocity_mse(velocity, reference), velocity, reference)
    assert found[0].any() and found[1] is None


PAIR_CHECKS = [
    check_dpo, check_ipo, check_same_noise, check_reference_is_fixed, check_equivalent_strength, check_ties,
    check_masked_pairs, check_winner_term, check_kto,
]  # fmt: skip
ONLINE_CHECKS = [
    check_ppo, check_guard, check_both_clips_act, check_dppo, check_reference_kl, check_first_ratio, check_nft_is_awm,
    check_nft_descends, check_nft_is_held_back, check_nft_clips_advantages, check_old_policy_is_fixed, check_terms,
]  # fmt: skip
MARGIN = "((self.rejected - self.ref_rejected) - (self.chosen - self.ref_chosen)) / 2"
PAIR_MUTANTS = {
    "no 1/2: beta counts twice": (check_dpo, MARGIN, MARGIN.removesuffix(" / 2")),
    "the 1/2 taken twice": (check_dpo, MARGIN, MARGIN.removesuffix("2") + "4"),
    "the reference left out": (check_dpo, MARGIN, "(self.rejected - self.chosen) / 2"),
    "chosen and rejected swapped": (check_dpo, MARGIN, "-" + MARGIN),
    "IPO's target without its 2": (check_ipo, "1 / (2 * dpo_beta)", "1 / dpo_beta"),
    "IPO with beta on the margin too": (check_ipo, "(pairs.margin - 1", "(dpo_beta * pairs.margin - 1"),
    "noise of its own for each side": (check_same_noise, "= noise if rejected_noise is None",
                                       "= torch.randn_like(noise) if rejected_noise is None"),
    "a time of its own for each side": (check_same_noise, "torch.cat([level, level])",
                                        "torch.cat([level, level.flip(0)])"),
    "the reference trained": (check_reference_is_fixed, ".detach().chunk(2)", ".chunk(2)"),
    "one strength for means and sums": (check_equivalent_strength, "if source == target:", "if True:"),
    "the strength scaled the wrong way": (check_equivalent_strength, 'if target == "sum" else strength * dims',
                                          'if target == "mean" else strength * dims'),
    "sums taken for means": (check_equivalent_strength,
                             'return errors.mean(1) if reduction == "mean" else errors.sum(1)',
                             "return errors.sum(1)"),
    "ties as labels": (check_ties, "(margin > min_margin)", "(margin >= min_margin)"),
    "indices as labels": (check_ties, "(margin > min_margin)", "True"),
    "NaN as 0": (check_ties, "widen(chosen_rewards) - widen(rejected_rewards)\n    return",
                 "widen(chosen_rewards).nan_to_num() - widen(rejected_rewards).nan_to_num()\n    return"),
    "the mask as a factor": (check_masked_pairs, "PairErrors(*keep(mask, pairs.chosen,",
                             "PairErrors(*keep(None, pairs.chosen,"),
    "masked pairs as ties": (check_masked_pairs, "(loss,) = keep(mask, loss", "(loss,) = keep(None, loss"),
    "the SFT term on both sides": (check_winner_term, "loss = loss + weight * pairs.chosen",
                                   "loss = loss + weight * (pairs.chosen + pairs.rejected)"),
    "KTO without signs": (check_kto, "torch.where(desirable, 1.0, -1.0)", "torch.ones_like(errors)"),
    "KTO without its running mean": (check_kto, "(ref_errors - errors - kl_estimate)", "(ref_errors - errors)"),
    "KTO unbounded": (check_kto, "(1 - torch.sigmoid(sign * gain))", "-sign * gain"),
}  # fmt: skip
ONLINE_MUTANTS = {
    "clip ranges swapped": (check_ppo, "ratio.clamp(1 - clip_low, 1 + clip_high)",
                            "ratio.clamp(1 - clip_high, 1 + clip_low)"),
    "the smaller of both terms": (check_ppo, "torch.maximum(-advantages * ratio", "torch.minimum(-advantages * ratio"),
    "no clip": (check_ppo, "torch.maximum(-advantages * ratio, -advantages * clipped)", "-advantages * ratio"),
    "clip counts in one": (check_ppo, "& (advantages < 0), (ratio > 1 + clip_high) & (advantages > 0)",
                           ", (ratio > 1 + clip_high)"),
    "clip counts whatever the advantage": (check_ppo, "(ratio > 1 + clip_high) & (advantages > 0)",
                                           "(ratio > 1 + clip_high) | (ratio < 1 - clip_low)"),
    "Guard without its bias": (check_both_clips_act, "widen(old_log_prob) + bias)", "widen(old_log_prob))"),
    "Guard's bias with the wrong sign": (check_guard, "widen(old_log_prob) + bias)", "widen(old_log_prob) - bias)"),
    "Guard without the step's scale": (check_guard, "+ bias) * std", "+ bias)"),
    "Guard's bias in sums": (check_guard, "old_mean.detach(), std)\n    return (widen",
                             "old_mean.detach(), std, 'sum')\n    return (widen"),
    "DPPO blocks all that is far": (check_dppo, "(divergence >= divergence_limit) & further",
                                    "divergence >= divergence_limit"),
    "DPPO blocks all that goes further": (check_dppo, "(divergence >= divergence_limit) & further", "further"),
    "DPPO blocks the way back": (check_dppo, "((advantages > 0) & (ratio > 1)) | ((advantages < 0) & (ratio < 1))",
                                 "((advantages > 0) & (ratio < 1)) | ((advantages < 0) & (ratio > 1))"),
    "KL under no_grad": (check_reference_kl, "sde.gaussian_kl(mean, ref_mean.detach(), std))[0]",
                         "sde.gaussian_kl(mean.detach(), ref_mean.detach(), std))[0]"),
    "KL moves the reference": (check_reference_kl, "sde.gaussian_kl(mean, ref_mean.detach(), std))[0]",
                               "sde.gaussian_kl(mean.detach(), ref_mean, std))[0]"),
    "KL as a number": (check_reference_kl, "if not torch.is_grad_enabled():", "if False:"),
    "NaN passes for ratio 1": (check_first_ratio, "if not found <= tolerance:", "if found > tolerance:"),
    "only ratios above 1 looked at": (check_first_ratio, ".exp() - 1).abs().max()", ".exp() - 1).max()"),
    "the mix not divided out": (check_nft_is_awm, "(1 - share) * worse) / nft_mix", "(1 - share) * worse)"),
    "shares of the wrong width": (check_nft_is_awm, "advantages / (2 * advantage_clip) + 0.5",
                                  "advantages / advantage_clip + 0.5"),
    "shares around 0": (check_nft_is_awm, "advantages / (2 * advantage_clip) + 0.5",
                        "advantages / (2 * advantage_clip)"),
    "the mix on one branch only": (check_nft_is_awm, "for v in (old + step, old - step))",
                                   "for v in (velocity, old - step))"),
    "branches swapped": (check_nft_descends, "for v in (old + step, old - step))",
                         "for v in (old - step, old + step))"),
    "AWM against its sign": (check_nft_descends, "ppo_clip(log_prob - old_log_prob",
                             "ppo_clip(old_log_prob - log_prob"),
    "the normaliser trained": (check_nft_descends, "(widen(velocity) - widen(target)).detach().abs()",
                               "(widen(velocity) - widen(target)).abs()"),
    "the worse branch around 0": (check_nft_is_held_back, "for v in (old + step, old - step))",
                                  "for v in (old + step, -step))"),
    "advantages unclipped": (check_nft_clips_advantages, "advantages.clamp(-advantage_clip, advantage_clip)",
                             "advantages"),
    "the old policy trained": (check_old_policy_is_fixed, "old = widen(old_velocity).detach()",
                               "old = widen(old_velocity)"),
    "norms held from both sides": (check_terms, "torch.relu(_rms(velocity) - _rms(ref_velocity).detach())",
                                   "(_rms(velocity) - _rms(ref_velocity).detach())"),
    "the reference follows": (check_terms, "squared_error(velocity, ref_velocity.detach())",
                              "squared_error(velocity, ref_velocity)"),
}  # fmt: skip


@pytest.mark.parametrize("check", PAIR_CHECKS)
def test_our_pair_losses_hold(check):
    check(diffusion)


@pytest.mark.parametrize("check", ONLINE_CHECKS)
def test_our_online_losses_hold(check):
    check(policy)


@pytest.mark.parametrize("name", PAIR_MUTANTS)
def test_a_bug_planted_into_pair_losses_is_caught(planted, name):
    check, old, new = PAIR_MUTANTS[name]
    mutant = planted(diffusion, old, new)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(mutant)


@pytest.mark.parametrize("name", ONLINE_MUTANTS)
def test_a_bug_planted_into_online_losses_is_caught(planted, name):
    check, old, new = ONLINE_MUTANTS[name]
    mutant = planted(policy, old, new)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(mutant)


def test_every_check_can_fail():
    assert {check for check, _, _ in (PAIR_MUTANTS | ONLINE_MUTANTS).values()} == {*PAIR_CHECKS, *ONLINE_CHECKS}
