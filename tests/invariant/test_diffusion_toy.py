"""Steps, advantages and losses put together raise a reward: every algorithm, on a two-dimensional flow, in a second.

Pictures are points ~ N(0, SPREAD^2), the model starts from their exact velocity, and the reward is highest at TARGET.
"""

import copy
import itertools

import pytest
import torch
from torch import nn

from rlkit import advantages, sde
from rlkit.losses import diffusion, masking, policy

SPREAD, TARGET = 0.4, torch.tensor([0.6, 0.0])
SIGMAS = torch.linspace(1, 0, 9)
GROUP, GROUPS = 12, 8
IDS = torch.arange(GROUPS).repeat_interleave(GROUP)


class Velocity(nn.Module):
    """The exact velocity of N(0, SPREAD^2) and what is learnt on top, nothing at first."""

    def __init__(self):
        super().__init__()
        self.learnt = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))
        nn.init.zeros_(self.learnt[-1].weight)
        nn.init.zeros_(self.learnt[-1].bias)

    def forward(self, x, sigma):
        s = sigma[:, None]
        exact = (s - (1 - s) * SPREAD**2) / ((1 - s) ** 2 * SPREAD**2 + s**2) * x
        return exact + self.learnt(torch.cat([x, s], 1))


def reward(x0):
    return -(x0 - TARGET).square().sum(1)


@torch.no_grad()
def sample(model, noise):
    """By the ODE."""
    x = noise
    for s, s_next in itertools.pairwise(SIGMAS):
        x = sde.ode_step(model(x, s.expand(len(x))), x, s, s_next).sample
    return x


@torch.no_grad()
def rollout(model, noise):
    """By Flow-SDE: all steps in one batch, [samples x steps]."""
    x, kept = noise, []
    for s, s_next in itertools.pairwise(SIGMAS):
        step = flow_sde(model, x, s.expand(len(x)), s_next.expand(len(x)), noise=torch.randn_like(x))
        kept.append((x, s.expand(len(x)), s_next.expand(len(x)), step.sample, step.log_prob, step.mean))
        x = step.sample
    return x, [torch.cat(column) for column in zip(*kept, strict=True)]


def flow_sde(model, x, s, s_next, **drawn):
    return sde.flow_sde_step(model(x, s), x, s, s_next, sigma_max=SIGMAS[1].item(), **drawn)


def on_steps(kind):
    """Flow-GRPO, Guard or DPPO: two updates a rollout, the first at ratio 1."""

    def update(model, reference, optimizer):
        x0, (x, s, s_next, drawn, old_log_prob, old_mean) = rollout(model, torch.randn(len(IDS), 2))
        judged = advantages.group_relative(reward(x0), IDS, group_size=GROUP)
        a, judged_mask = judged.values.repeat(len(SIGMAS) - 1), judged.mask.repeat(len(SIGMAS) - 1)
        for number in range(2):
            step = flow_sde(model, x, s, s_next, next_sample=drawn)
            mask, log_ratio = judged_mask & step.random, step.log_prob - old_log_prob
            if number == 0:
                policy.require_unit_ratio(log_ratio, mask)
            if kind == "dppo":
                divergence = sde.gaussian_kl(step.mean, old_mean, step.std)
                found = policy.dppo(log_ratio, divergence, a, divergence_limit=1e-3, mask=mask)
            elif kind == "guard":
                log_ratio = policy.guard_log_ratio(step.log_prob, old_log_prob, step.mean, old_mean, step.std)
                found = policy.ppo_clip(log_ratio, a, clip_low=0.02, mask=mask, weights=0.1 / (s - s_next))
            else:
                found = policy.ppo_clip(log_ratio, a, clip_low=0.02, mask=mask)
            kl = policy.reference_kl(step.mean, flow_sde(reference, x, s, s_next, next_sample=drawn).mean, step.std)
            optimise(optimizer, masking.masked_mean(found.loss + 0.001 * kl, mask))

    return update


def on_velocities(form):
    """DiffusionNFT or AWM: x0 is all that is kept of a rollout."""

    def update(model, reference, optimizer):
        x0, old = sample(model, torch.randn(len(IDS), 2)), copy.deepcopy(model)
        judged = advantages.group_relative(reward(x0), IDS)
        for _ in range(2):
            noise, s = torch.randn_like(x0), torch.rand(len(x0)).clamp(min=0.05)
            x = sde.flow_sample(x0, noise, s)
            options = {"form": form, "weighting": "sigma", "ratio_clip": 0.2, "mask": judged.mask}
            target = sde.flow_velocity(x0, noise)
            found = policy.nft(model(x, s), old(x, s), target, s, judged.values, **options)
            near = policy.velocity_mse(model(x, s), reference(x, s))
            optimise(optimizer, masking.masked_mean(found.loss, judged.mask) + 0.01 * near.mean())

    return update


def on_pairs(name, dpo_beta=3.0):
    """Flow-DPO on the best and the worst of each group."""

    def update(model, reference, optimizer):
        x0 = sample(model, torch.randn(len(IDS), 2))
        found = advantages.extremes(reward(x0), IDS)
        chosen, rejected = x0[found.best], x0[found.worst]
        for _ in range(2):
            pair = diffusion.noised_pair(chosen, rejected, torch.randn_like(chosen), torch.rand(len(chosen)))
            predictions = [one(pair.samples, pair.levels) for one in (model, reference)]
            pairs = diffusion.pair_errors(*predictions, pair.targets)
            loss, _ = diffusion.pair_loss(pairs, types={name: 1.0, "sft": 0.1}, dpo_beta=dpo_beta)
            optimise(optimizer, loss.mean())

    return update


def on_ratings(kind):
    """Diffusion-KTO on thumbs up and down, or reward-weighted regression."""

    def update(model, reference, optimizer):
        x0 = sample(model, torch.randn(len(IDS), 2))
        judged = advantages.group_relative(reward(x0), IDS)
        for _ in range(2):
            noise, s = torch.randn_like(x0), torch.rand(len(x0))
            x, target = sde.flow_sample(x0, noise, s), sde.flow_velocity(x0, noise)
            errors, ref_errors = (diffusion.squared_error(one(x, s), target) for one in (model, reference))
            if kind == "kto":
                kl = diffusion.kto_kl(errors, ref_errors)
                loss = diffusion.kto(errors, ref_errors, judged.values > 0, kto_beta=2.0, kl_estimate=kl)
            else:
                loss = diffusion.reward_weighted(errors, judged.values)
            optimise(optimizer, masking.masked_mean(loss, judged.mask))

    return update


def optimise(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


ALGORITHMS = {
    "flow_grpo": on_steps("clip"),
    "guard": on_steps("guard"),
    "dppo": on_steps("dppo"),
    "nft": on_velocities("nft"),
    "awm": on_velocities("awm"),
    "dpo": on_pairs("sigmoid"),
    "hinge": on_pairs("hinge"),
    "ipo": on_pairs("ipo", dpo_beta=0.5),
    "mapo": on_pairs("mapo"),
    "kto": on_ratings("kto"),
    "rwr": on_ratings("rwr"),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_raises_the_reward(name):
    """By half of the way from the start's mean reward to the best there is, 0, on noise kept apart."""
    torch.manual_seed(0)
    held_out = torch.randn(1000, 2, generator=torch.Generator().manual_seed(1))
    model, reference = Velocity(), Velocity().requires_grad_(False)
    before = reward(sample(model, held_out)).mean()
    assert torch.equal(sample(model, held_out), sample(reference, held_out))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(25):
        ALGORITHMS[name](model, reference, optimizer)
    after = reward(sample(model, held_out)).mean()
    assert after > before / 2
