"""Steps equal diffusers' schedulers and the papers' formulas; log-probs and divergences equal scipy's and torch's."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from rlkit import sde

SHAPE = (3, 4, 6, 5)
FLOW = [
    (sde.flow_sde_step, {"eta": 0.7, "sigma_max": 0.9}),
    (sde.dance_sde_step, {"eta": 0.3}),
    (sde.cps_step, {"eta": 0.8}),
]
RANDOM = [*FLOW[:2], (sde.ddim_step, {"eta": 1.0})]


def normal(seed, dtype=torch.float64, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def levels(function, start=0.6, end=0.45):
    """Two neighbouring levels as `function` counts them: sigma falls, alpha_cumprod rises."""
    return (1 - start, 1 - end) if function is sde.ddim_step else (start, end)


# ---- against diffusers ----------------------------------------------------------------------------------------------


def flow_scheduler(**options):
    diffusers = pytest.importorskip("diffusers", reason="the reference schedulers are diffusers'")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **options)
    scheduler.set_timesteps(8)
    return scheduler


def test_ode_steps_equal_diffusers_flow_euler():
    scheduler, ours = flow_scheduler(), normal(0, torch.float32)
    theirs = ours
    for number, timestep in enumerate(scheduler.timesteps):
        velocity = normal(number + 1, torch.float32)
        theirs = scheduler.step(velocity, timestep, theirs).prev_sample
        ours = sde.ode_step(velocity, ours, scheduler.sigmas[number], scheduler.sigmas[number + 1]).sample
    assert torch.equal(ours, theirs)


def test_cps_with_all_noise_new_equals_diffusers_stochastic_sampling():
    scheduler, ours = flow_scheduler(stochastic_sampling=True), normal(0, torch.float32)
    theirs = ours
    for number, timestep in enumerate(scheduler.timesteps):
        velocity = normal(number + 1, torch.float32)
        theirs = scheduler.step(velocity, timestep, theirs, generator=torch.Generator().manual_seed(9)).prev_sample
        sigmas = scheduler.sigmas[number], scheduler.sigmas[number + 1]
        ours = sde.cps_step(velocity, ours, *sigmas, noise=normal(9, torch.float32), eta=1.0).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_ddim_steps_equal_diffusers(eta, set_alpha_to_one):
    diffusers = pytest.importorskip("diffusers", reason="the reference schedulers are diffusers'")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        set_alpha_to_one=set_alpha_to_one, steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(10)
    ours = theirs = normal(0, torch.float32)
    for number, timestep in enumerate(scheduler.timesteps.tolist()):
        epsilon, noise = normal(number + 1, torch.float32), normal(number + 50, torch.float32)
        before = timestep - 100
        final = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
        theirs = scheduler.step(epsilon, timestep, theirs, eta=eta, variance_noise=noise).prev_sample
        step = sde.ddim_step(epsilon, ours, scheduler.alphas_cumprod[timestep], final, noise=noise, eta=eta)
        ours = step.sample
        variance = scheduler._get_variance(timestep, before)
        torch.testing.assert_close(step.std, eta * variance.sqrt().expand(3), rtol=1e-4, atol=1e-6)
        assert step.random.any() == (eta > 0 and final < 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_v_prediction_converts_as_in_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="the reference schedulers are diffusers'")
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    scheduler.set_timesteps(10)
    x0, noise, timestep = normal(0, torch.float32), normal(1, torch.float32), torch.full((3,), 500)
    a = scheduler.alphas_cumprod[500]
    sample = sde.epsilon_sample(x0, noise, a)
    torch.testing.assert_close(sample, scheduler.add_noise(x0, noise, timestep))
    v = sde.epsilon_v(noise, sample, a)
    torch.testing.assert_close(v, scheduler.get_velocity(x0, noise, timestep), rtol=1e-4, atol=1e-4)
    found = sde.ddim_step(sde.v_epsilon(v, sample, a), sample, a, scheduler.alphas_cumprod[400], noise=x0, eta=0.0)
    expected = scheduler.step(v, 500, sample).prev_sample
    torch.testing.assert_close(found.sample, expected, rtol=1e-4, atol=1e-4)


# ---- against the papers' formulas -----------------------------------------------------------------------------------


def test_flow_sde_has_the_papers_mean_and_std():
    v, x, s, s_next, dt = normal(0), normal(1), 0.6, 0.45, -0.15
    g = 0.7 * math.sqrt(s / (1 - s))
    step = sde.flow_sde_step(v, x, s, s_next, noise=normal(2), eta=0.7)
    mean = x * (1 + g**2 / (2 * s) * dt) + v * (1 + g**2 * (1 - s) / (2 * s)) * dt
    torch.testing.assert_close(step.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(step.std, torch.full((3,), g * math.sqrt(-dt)).double())
    torch.testing.assert_close(step.sample, mean + g * math.sqrt(-dt) * normal(2))


def test_flow_sde_at_sigma_one_changes_the_denominator_only():
    v, x, dt = normal(0), normal(1), -0.1
    g = 0.7 * math.sqrt(1 / (1 - 0.9))
    step = sde.flow_sde_step(v, x, 1.0, 0.9, noise=normal(2), eta=0.7, sigma_max=0.9)
    torch.testing.assert_close(step.mean, x * (1 + g**2 / 2 * dt) + v * dt)
    torch.testing.assert_close(step.std, torch.full((3,), g * math.sqrt(-dt)).double())


def test_dance_sde_has_the_papers_mean_and_std():
    v, x, s, s_next, dt = normal(0), normal(1), 0.6, 0.45, -0.15
    step = sde.dance_sde_step(v, x, s, s_next, noise=normal(2), eta=0.3)
    x0 = x - s * v
    mean = x + (v + 0.5 * 0.3**2 * (x - x0 * (1 - s)) / s**2) * dt
    torch.testing.assert_close(step.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(step.std, torch.full((3,), 0.3 * math.sqrt(-dt)).double())


def test_cps_has_the_papers_mean_std_and_score():
    v, x, s, s_next = normal(0), normal(1), 0.6, 0.45
    step = sde.cps_step(v, x, s, s_next, noise=normal(2), eta=0.8)
    std = s_next * math.sin(0.8 * math.pi / 2)
    mean = (x - s * v) * (1 - s_next) + (x + (1 - s) * v) * math.sqrt(s_next**2 - std**2)
    torch.testing.assert_close(step.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(step.log_prob, -(std**2 * normal(2) ** 2).flatten(1).mean(1))


@pytest.mark.parametrize("function", [sde.flow_sde_step, sde.dance_sde_step, sde.cps_step])
def test_without_noise_every_flow_step_is_the_ode_step(function):
    step = function(normal(0), normal(1), 0.6, 0.45, noise=normal(2), eta=0.0)
    torch.testing.assert_close(step.sample, sde.ode_step(normal(0), normal(1), 0.6, 0.45).sample)
    assert not step.random.any() and step.log_prob.isnan().all()


@pytest.mark.parametrize(("function", "options"), RANDOM)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_log_prob_is_the_gaussians(function, options, reduction):
    step = function(
        normal(0), normal(1), *levels(function), next_sample=normal(2), reduction=reduction, **options
    )  # fmt: skip
    density = norm(step.mean.numpy(), step.std.numpy()[:, None, None, None]).logpdf(normal(2).numpy())
    expected = getattr(density.reshape(3, -1), reduction)(1)
    np.testing.assert_allclose(step.log_prob.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(("function", "options"), [*RANDOM, FLOW[2]])
def test_a_batch_of_levels_equals_its_samples_one_by_one(function, options):
    start, end = levels(function, torch.tensor([0.9, 0.6, 0.3]), torch.tensor([0.7, 0.5, 0.2]))
    whole = function(normal(0), normal(1), start, end, noise=normal(2), **options)
    for at in range(3):
        cut = slice(at, at + 1)
        one = function(normal(0)[cut], normal(1)[cut], start[at], end[at], noise=normal(2)[cut], **options)
        torch.testing.assert_close(one.sample, whole.sample[cut])
        torch.testing.assert_close(one.log_prob, whole.log_prob[cut])


# ---- the last step, precision, divergence ---------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "options"), [*RANDOM, FLOW[2]])
def test_a_last_step_has_no_log_prob_and_leaves_the_gradient_of_others_alone(function, options):
    start, end = levels(function, torch.tensor([0.6, 0.6, 0.1]), torch.tensor([0.45, 0.45, 0.0]))
    prediction = normal(0).requires_grad_()
    step = function(prediction, normal(1), start, end, next_sample=normal(2), **options)
    assert step.random.tolist() == [True, True, False] and step.log_prob.isnan().tolist() == [False, False, True]
    step.log_prob[step.random].sum().backward()
    assert prediction.grad.isfinite().all() and prediction.grad[:2].any() and not prediction.grad[2].any()


@pytest.mark.parametrize("function", [sde.flow_sde_step, sde.dance_sde_step, sde.cps_step])
def test_a_last_flow_step_is_the_models_x0(function):
    step = function(normal(0), normal(1), 0.1, 0.0, noise=normal(2))
    torch.testing.assert_close(step.sample, normal(1) - 0.1 * normal(0))


@pytest.mark.parametrize(("function", "options"), [*RANDOM, FLOW[2]])
def test_half_precision_comes_out_as_fp32(function, options):
    step = function(
        normal(0).bfloat16(), normal(1).half(), *levels(function), noise=normal(2).bfloat16(), **options
    )  # fmt: skip
    assert {step.sample.dtype, step.mean.dtype, step.std.dtype, step.log_prob.dtype} == {torch.float32}


def test_log_prob_has_no_gradient_through_the_sample_but_the_sample_has_one():
    velocity = normal(0).requires_grad_()
    step = sde.flow_sde_step(velocity, normal(1), 0.6, 0.45, noise=normal(2))
    (through,) = torch.autograd.grad(step.log_prob.sum(), velocity, retain_graph=True)
    given = sde.flow_sde_step(velocity, normal(1), 0.6, 0.45, next_sample=step.sample)
    torch.testing.assert_close(through, torch.autograd.grad(given.log_prob.sum(), velocity)[0])
    assert through.any() and torch.autograd.grad(step.sample.sum(), velocity)[0].any()


def test_kl_is_torchs_and_has_a_gradient():
    mean, ref_mean, std = normal(0).requires_grad_(), normal(1), torch.tensor([0.2, 0.5, 0.0])
    wide = std.clamp(min=1e-9).double()[:, None, None, None]
    gaussians = torch.distributions.Normal(mean, wide), torch.distributions.Normal(ref_mean, wide)
    expected = torch.distributions.kl_divergence(*gaussians).flatten(1)
    for reduction in ("mean", "sum"):
        found = sde.gaussian_kl(mean, ref_mean, std.double(), reduction)
        torch.testing.assert_close(found[:2], getattr(expected[:2], reduction)(1))
        assert found[2].isnan()
    found[:2].sum().backward()
    torch.testing.assert_close(mean.grad[0], (mean - ref_mean)[0].detach() / 0.2**2)
    assert mean.grad.isfinite().all()


# ---- conversions ----------------------------------------------------------------------------------------------------


def test_flow_conversions_invert():
    x0, noise, sigma = normal(0), normal(1), torch.tensor([0.1, 0.5, 0.95])
    sample, velocity = sde.flow_sample(x0, noise, sigma), sde.flow_velocity(x0, noise)
    torch.testing.assert_close(sde.flow_x0(velocity, sample, sigma), x0)
    torch.testing.assert_close(sde.flow_noise(velocity, sample, sigma), noise)


def test_epsilon_conversions_invert():
    x0, noise, a = normal(0), normal(1), torch.tensor([0.1, 0.5, 0.95], dtype=torch.float64)
    sample = sde.epsilon_sample(x0, noise, a)
    torch.testing.assert_close(sde.epsilon_x0(noise, sample, a), x0)
    torch.testing.assert_close(sde.v_epsilon(sde.epsilon_v(noise, sample, a), sample, a), noise)


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_ode_steps_on_a_straight_path_recover_the_picture_and_its_noise(steps):
    x0, noise = normal(0), normal(1)
    velocity, sigmas = sde.flow_velocity(x0, noise), torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
    sample = noise
    for sigma, sigma_next in itertools.pairwise(sigmas):
        sample = sde.ode_step(velocity, sample, sigma, sigma_next).sample
    torch.testing.assert_close(sample, x0)
    for sigma, sigma_next in itertools.pairwise(sigmas[::-1]):
        sample = sde.ode_step(velocity, sample, sigma, sigma_next).sample
    torch.testing.assert_close(sample, noise)


def test_ddim_without_noise_recovers_the_picture_in_any_number_of_steps():
    x0, noise = normal(0), normal(1)
    levels = [0.01, 0.1, 0.4, 0.8, 1.0]
    sample = sde.epsilon_sample(x0, noise, levels[0])
    for a, a_next in itertools.pairwise(levels):
        sample = sde.ddim_step(noise, sample, a, a_next, noise=x0, eta=0.0).sample
    torch.testing.assert_close(sample, x0)


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_a_timestep_is_no_sigma():
    with pytest.raises(ValueError, match="sigma is 850 to 900, expected 0 to 1"):
        sde.ode_step(normal(0), normal(1), 900, 850)


@pytest.mark.parametrize("function", [sde.flow_sde_step, sde.dance_sde_step, sde.cps_step])
def test_sigma_must_fall(function):
    with pytest.raises(ValueError, match="expected less noise after a step"):
        function(normal(0), normal(1), 0.4, 0.5, noise=normal(2))


def test_alphas_cumprod_must_rise():
    with pytest.raises(ValueError, match="alpha_cumprod goes from"):
        sde.ddim_step(normal(0), normal(1), 0.5, 0.4, noise=normal(2))


def test_epsilon_says_nothing_at_zero_terminal_snr():
    with pytest.raises(ValueError, match="alpha_cumprod is 0"):
        sde.ddim_step(normal(0), normal(1), 0.0, 0.1, noise=normal(2))


def test_sigma_one_needs_the_next_of_the_schedule():
    with pytest.raises(ValueError, match=r"expected the schedule's sigmas\[1\]"):
        sde.flow_sde_step(normal(0), normal(1), 1.0, 0.9, noise=normal(2))


@pytest.mark.parametrize("given", [{}, {"noise": normal(2), "next_sample": normal(3)}])
def test_noise_or_the_next_sample_is_needed(given):
    with pytest.raises(ValueError, match="of noise and next_sample given, expected one"):
        sde.dance_sde_step(normal(0), normal(1), 0.6, 0.45, **given)


def test_levels_must_fit_the_batch():
    with pytest.raises(ValueError, match=r"shape \(2,\), expected one number or 3"):
        sde.dance_sde_step(normal(0), normal(1), torch.tensor([0.6, 0.5]), 0.45, noise=normal(2))
