"""GRPO of a flow model on the steps of an SDE: Flow-GRPO, and its forms with a window (Mix), a corrected ratio (Guard)
and a divergence mask (DPPO).

Flow-GRPO, https://huggingface.co/papers/2505.05470; DanceGRPO, https://huggingface.co/papers/2505.07818; MixGRPO,
https://huggingface.co/papers/2507.21802; GRPO-Guard, https://huggingface.co/papers/2510.22319, Eq. 8; Flow-DPPO, "Flow
Divergence Proximal Policy Optimization". Steps are those of rlkit/sde.py, losses those of rlkit/losses/policy.py. A
round: `old` draws groups of pictures by the SDE in the window and the ODE outside of it; rewards become advantages
within each group; the policy takes `online.num_iterations` optimiser steps on all trained steps of all paths.

Deviations: the KL to the reference is the Gaussians', |dt| included, which Flow-GRPO's code leaves out: a published
kl_weight must be multiplied by |dt| here (0.04 at 10 even steps is 0.004). Every optimiser step sees the whole round,
as in TRL, where Flow-GRPO splits it in two. `old` is the policy as it was when the round began.
"""

import random
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from rlkit import sde
from rlkit.engine import seed_of
from rlkit.generators import session as sessions
from rlkit.generators.paths import OnPaths
from rlkit.generators.rollouts import by_group
from rlkit.generators.session import Session
from rlkit.losses import policy
from rlkit.models.generator import EMA, OLD, Generator
from rlkit.recipe import FlowGrpo, Recipe
from rlkit.running.folder import RunFolder


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Roll out, train, save the averaged policy, measure it beside its start. See recipes/flow_grpo.yaml."""
    sessions.run(recipe, folder, start, algorithm, systems=sessions.before_and_after("flow_grpo"))


def start(recipe: Recipe) -> Generator:
    """The generator of model.id with its companions. Raises ModelError for epsilon models."""
    return sessions.load(recipe, "flow", (OLD, EMA))


def algorithm(session: Session) -> OnPaths:
    """Flow-GRPO as the recipe sets it."""
    recipe = session.recipe
    settings = recipe.flow_grpo
    return OnPaths(
        session,
        by_group(session),
        name="Flow-GRPO",
        move=partial(move, settings),
        trained=partial(trained, settings, recipe.generation.num_inference_steps, recipe.seed),
        objective=partial(objective, settings),
        kl_weight=settings.kl_weight,
        clip_range=settings.clip_range,
    )


def trained(settings: FlowGrpo, inference_steps: int, seed: int, number: int) -> Sequence[int]:
    """The steps that are random, and trained, in round `number`: all but the last, or a window of them."""
    last = inference_steps - 1
    if settings.window is None:
        return range(last)
    places, turn = last - settings.window + 1, number // settings.window_rounds
    if settings.window_order == "progressive":
        first = turn % places
    else:
        first = random.Random(seed_of(seed, "window", turn)).randrange(places)
    return range(first, first + settings.window)


def move(
    settings: FlowGrpo,
    noisy: bool,
    prediction: Tensor,
    sample: Tensor,
    level: Tensor,
    level_next: Tensor,
    **drawn: Tensor,
) -> sde.Step:
    """One step of the sampler; sigma_max is the level after 1, the schedule's sigmas[1]."""
    if not noisy:
        return sde.ode_step(prediction, sample, level, level_next)
    if settings.sampler == "flow_sde":
        above = float(level_next) if float(level) == 1.0 else None
        return sde.flow_sde_step(prediction, sample, level, level_next, eta=settings.eta, sigma_max=above, **drawn)
    step = sde.dance_sde_step if settings.sampler == "dance_sde" else sde.cps_step
    return step(prediction, sample, level, level_next, eta=settings.eta, **drawn)


def objective(
    settings: FlowGrpo, now: sde.Step, before: sde.Step, dt: Tensor, advantages: Tensor, mask: Tensor
) -> policy.PolicyLoss:
    """The loss of one step, by settings.form."""
    log_ratio = now.log_prob - before.log_prob
    if settings.form == "dppo":
        divergence = sde.gaussian_kl(now.mean, before.mean, now.std)
        return policy.dppo(log_ratio, divergence, advantages, divergence_limit=settings.divergence_limit, mask=mask)
    weights = None
    if settings.form == "guard":
        log_ratio = policy.guard_log_ratio(now.log_prob, before.log_prob, now.mean, before.mean, now.std)
        weights = torch.ones_like(log_ratio) / dt
    return policy.ppo_clip(log_ratio, advantages, clip_low=settings.clip_range, mask=mask, weights=weights)
