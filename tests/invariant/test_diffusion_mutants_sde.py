"""What sampler steps promise, checked on ours and on ours with each known bug planted: every bug is caught.

A check takes the module; it must pass for rlkit.sde and fail for the mutants that name it.
"""

import itertools
import math

import pytest
import torch

from rlkit import sde

SHAPE = (2, 4, 32, 32)
SPREAD = 0.4  # of the pictures; noise has 1


def normal(seed, shape=SHAPE, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def steps_of(module):
    """(step, its two levels) of every kind that draws."""
    return [
        (module.flow_sde_step, (0.6, 0.45)),
        (module.dance_sde_step, (0.6, 0.45)),
        (module.cps_step, (0.6, 0.45)),
        (module.ddim_step, (0.4, 0.55)),
    ]


def end_spread(step, num_steps, **options):
    """Std of what a sampler makes of pictures ~ N(0, SPREAD^2) with the exact velocity."""
    sigmas = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    s, one = sigmas[:-1, None], torch.ones(num_steps, 1, dtype=torch.float64)
    velocity = (s - (1 - s) * SPREAD**2) / ((1 - s) ** 2 * SPREAD**2 + s**2)
    if "sigma_max" in options:
        options["sigma_max"] = sigmas[1].item()
    return carried(1.0, step(velocity, one, sigmas[:-1], sigmas[1:], noise=one, **options))


def carried(variance, steps):
    """The std that a chain of linear steps leaves: v' = a^2 v + b^2, a the mean at 1 and b what noise 1 adds."""
    for mean, drawn in zip(steps.mean.flatten().tolist(), steps.sample.flatten().tolist(), strict=True):
        variance = mean**2 * variance + (drawn - mean) ** 2
    return variance**0.5


# ---- what must hold -------------------------------------------------------------------------------------------------


def check_marginal(step, **options):
    """The sampler's spread comes to the model's as steps get smaller."""
    off = [abs(end_spread(step, num_steps, **options) - SPREAD) for num_steps in (10, 40, 400)]
    assert off[2] < 0.003 and off[2] < off[1] < off[0], off


def check_marginals(module):
    check_marginal(module.flow_sde_step, sigma_max=None)
    check_marginal(module.dance_sde_step)


def check_ddim_marginal(module):
    """The same for an epsilon model, on the levels of Stable Diffusion."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas_cumprod = (1 - betas).cumprod(0)
    off = []
    for num_steps in (10, 40, 250):
        a = torch.cat([alphas_cumprod[torch.linspace(999, 0, num_steps).round().long()], torch.ones(1)])
        epsilon = ((1 - a).sqrt() / (a * SPREAD**2 + 1 - a))[:-1, None]
        steps = module.ddim_step(epsilon, torch.ones_like(epsilon), a[:-1], a[1:], noise=torch.ones_like(epsilon))
        off.append(abs(carried((a[0] * SPREAD**2 + 1 - a[0]).item(), steps) - SPREAD))
    assert off[2] < off[1] / 3 and off[1] < off[0] / 2, off


def check_first_ratio(module):
    """Evaluating a stored trajectory with unchanged weights gives ratio 1, to the last bit, bf16 model or not."""
    for dtype, (step, levels) in itertools.product([torch.float32, torch.bfloat16], steps_of(module)):
        prediction, sample = normal(0).to(dtype), normal(1)
        drawn = step(prediction, sample, *levels, noise=normal(2))
        again = step(prediction, sample, *levels, next_sample=drawn.sample)
        assert torch.equal((again.log_prob - drawn.log_prob).exp(), torch.ones(2)), step.__name__


def check_precision(module):
    """bf16 tensors are widened before anything is computed."""
    for step, levels in steps_of(module):
        low = normal(0).bfloat16(), normal(1).bfloat16()
        found = step(*low, *levels, noise=normal(2).bfloat16())
        expected = step(*(value.float() for value in low), *levels, noise=normal(2).bfloat16().float())
        assert torch.equal(found.sample.float(), expected.sample), step.__name__


def check_density(module):
    """log_prob is the log-density, mean over dimensions, of the Gaussian that is really drawn from."""
    for step, levels in [steps_of(module)[at] for at in (0, 1, 3)]:
        drawn = step(normal(0).double(), normal(1).double(), *levels, noise=normal(2).double())
        std = ((drawn.sample - drawn.mean) / normal(2).double()).flatten(1).median(1).values
        gaussian = torch.distributions.Normal(drawn.mean, std[:, None, None, None])
        expected = gaussian.log_prob(drawn.sample).flatten(1)
        assert torch.allclose(drawn.log_prob, expected.mean(1), rtol=1e-6), step.__name__
        summed = step(normal(0).double(), normal(1).double(), *levels, noise=normal(2).double(), reduction="sum")
        assert torch.allclose(summed.log_prob, expected.sum(1), rtol=1e-6), step.__name__


def check_kl(module):
    """The divergence of two steps is that of the Gaussians really drawn from, and it has its gradient."""
    for step, levels in [steps_of(module)[at] for at in (0, 1, 3)]:
        prediction = normal(0).double().requires_grad_()
        ours = step(prediction, normal(1).double(), *levels, noise=normal(2).double())
        reference = step(normal(3).double(), normal(1).double(), *levels, noise=normal(2).double())
        std = ((ours.sample - ours.mean) / normal(2).double()).flatten(1).median(1).values.detach()
        gaussians = [torch.distributions.Normal(one.mean, std[:, None, None, None]) for one in (ours, reference)]
        expected = torch.distributions.kl_divergence(*gaussians).flatten(1).mean(1)
        found = module.gaussian_kl(ours.mean, reference.mean, ours.std)
        assert torch.allclose(found, expected, rtol=1e-6), step.__name__
        assert found.requires_grad, "a KL without a gradient trains nothing"
        gradients = [torch.autograd.grad(kl.sum(), prediction, retain_graph=True)[0] for kl in (found, expected)]
        assert gradients[1].any() and torch.allclose(*gradients, rtol=1e-6), step.__name__


def check_last_step(module):
    """A step to no noise is marked, has no log-prob, and leaves the gradient of others alone."""
    for step, _ in steps_of(module):
        levels = torch.tensor([0.5, 0.1]), torch.tensor([0.4, 0.0])
        if step.__name__ == "ddim_step":
            levels = tuple(1 - level for level in levels)
        prediction = normal(0).requires_grad_()
        found = step(prediction, normal(1), *levels, next_sample=normal(2))
        assert found.random.tolist() == [True, False] and found.log_prob.isnan().tolist() == [False, True]
        kl = module.gaussian_kl(found.mean, normal(3), found.std)
        (found.log_prob[0] + kl[0]).backward()
        assert kl.isnan().tolist() == [False, True] and prediction.grad.isfinite().all(), step.__name__


def check_first_step(module):
    """At sigma 1 the denominator alone takes sigmas[1]: g = eta sqrt(1 / (1 - sigmas[1]))."""
    found = module.flow_sde_step(normal(0), normal(1), 1.0, 0.9, noise=normal(2), eta=0.7, sigma_max=0.9)
    assert found.mean.isfinite().all() and found.log_prob.isfinite().all()
    assert torch.allclose(found.std, torch.full((2,), 0.7 * math.sqrt(1 / 0.1) * math.sqrt(0.1)), rtol=1e-4)


def check_policy_gradient(module):
    """The gradient of log_prob takes the sample as given, while sampling as while training."""
    for step, levels in steps_of(module):
        prediction = normal(0).requires_grad_()
        drawn = step(prediction, normal(1), *levels, noise=normal(2))
        again = step(prediction, normal(1), *levels, next_sample=drawn.sample.detach())
        gradients = [torch.autograd.grad(one.log_prob.sum(), prediction)[0] for one in (drawn, again)]
        assert gradients[1].any() and torch.allclose(*gradients), step.__name__


def check_scale(module):
    """Timesteps of 0 to 1000 are no sigmas."""
    with pytest.raises(ValueError, match="expected 0 to 1"):
        module.dance_sde_step(normal(0), normal(1), 900.0, 850.0, noise=normal(2))
    with pytest.raises(ValueError, match="expected 0 to 1"):
        module.ode_step(normal(0), normal(1), 900.0, 850.0)


CHECKS = [
    check_marginals, check_ddim_marginal, check_first_ratio, check_precision, check_density, check_kl, check_last_step,
    check_first_step, check_policy_gradient, check_scale,
]  # fmt: skip
LEVEL_STD, RETURNED = "std = g * (-dt).sqrt()", "    return Step(drawn, mean, std, _masked(log_prob * dims, std))"
MUTANTS = {
    "std without dt": (check_marginals, LEVEL_STD, "std = g"),
    "drift without its half": (check_marginals, "g**2 / (2 * sigma)", "g**2 / sigma"),
    "drift of the forward process": (check_marginals, "velocity + g**2", "velocity - g**2"),
    "noise without drift": (check_marginals, "(velocity + g**2 / (2 * sigma) * flow_noise(velocity, sample, sigma))",
                            "velocity"),
    "DDIM's mean as if eta were 0": (check_ddim_marginal, "(1 - a_next - std**2)", "(1 - a_next)"),
    "DDIM's noise without its second factor": (check_ddim_marginal, " * (1 - a / a_next)).sqrt()", ").sqrt()"),
    "trajectories in bf16": (check_first_ratio, RETURNED, RETURNED.replace("(drawn,", "(drawn.bfloat16(),")),
    "trajectories in fp16": (check_first_ratio, RETURNED, RETURNED.replace("(drawn,", "(drawn.half(),")),
    "steps in bf16": (check_precision, "values.float() if values.dtype in (torch.bfloat16, torch.float16) else values",
                      "values"),
    "sum for mean": (check_density, 'dims = 1 if reduction == "mean" else mean[0].numel()', "dims = mean[0].numel()"),
    "mean for sum": (check_density, 'dims = 1 if reduction == "mean" else mean[0].numel()', "dims = 1"),
    "log-density without log std": (check_density, " - _safe(std).log()", ""),
    "log-density without its half": (check_density, "-squares / (2 *", "-squares / (1 *"),
    "KL without |dt|": (check_kl, f"{LEVEL_STD}\n    return _step(mean, std,",
                        f"{LEVEL_STD}\n    return _step(mean, g,"),
    "KL without its half": (check_kl, "(mean - ref_mean).square(), reduction) / (2 *",
                            "(mean - ref_mean).square(), reduction) / (1 *"),
    "KL under no_grad": (check_kl, "mean, ref_mean = _widen(mean), _widen(ref_mean)",
                         "mean, ref_mean = _widen(mean).detach(), _widen(ref_mean)"),
    "last step kept": (check_last_step, "    g = torch.where(sigma_next == 0, 0.0, g)\n", ""),
    "last step's log-prob as a number": (check_last_step, "return values.masked_fill(std == 0, torch.nan)",
                                         "return values"),
    "last step's 0 / 0": (check_last_step, "return torch.where(std > 0, std, 1.0)", "return std"),
    "singularity at sigma 1": (check_first_step, "torch.where(level == 1, sigma_max, level)", "level"),
    "sigma 1 replaced everywhere": (check_first_step, "eta * (level / (1 - below))", "eta * (below / (1 - below))"),
    "log-prob through the sample": (check_policy_gradient, "(drawn.detach() - mean).square(), \"mean\")",
                                    "(drawn - mean).square(), \"mean\")"),
    "timesteps as sigmas": (check_scale, "if not 0 <= low <= high <= 1:", "if False:"),
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_our_steps_hold(check):
    check(sde)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_caught(planted, name):
    check, old, new = MUTANTS[name]
    mutant = planted(sde, old, new)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(mutant)


def test_cps_is_caught_where_it_is_taken_for_an_sde():
    with pytest.raises(AssertionError):
        check_marginal(sde.cps_step)
    assert [round(end_spread(sde.cps_step, steps), 2) for steps in (10, 40, 400)] == [0.28, 0.31, 0.32]


def test_the_ode_has_the_marginal_that_the_sdes_keep():
    def step(velocity, sample, sigma, sigma_next, noise):
        return sde.ode_step(velocity, sample, sigma, sigma_next)

    check_marginal(step)


def test_every_check_can_fail():
    assert {check for check, _, _ in MUTANTS.values()} == {*CHECKS}
