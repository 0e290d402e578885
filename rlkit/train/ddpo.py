"""Policy gradient of an epsilon model on the steps of DDIM: DDPO with importance sampling.

DDPO, https://huggingface.co/papers/2305.13301, Eq. 4 with PPO's clip. Steps are sde.ddim_step with eta 1, rewards are
compared with their prompt's own past (advantages.PromptStatistics), so that a batch needs no whole groups to learn
from. Several rewards are normalised each by itself, weighed and added; a picture that lacks one of them is left out.

Deviations: the last step is DDIM's without noise and is not trained (the paper's code trains it: its deviation is so
small that ratios explode, and its noise stays in the picture). DPOK's KL to the reference is offered (`kl_weight`), as
the Gaussians' closed form.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlkit import sde
from rlkit.advantages import Advantages, Counts, PromptStatistics
from rlkit.generators import session as sessions
from rlkit.generators.paths import OnPaths
from rlkit.generators.session import Session
from rlkit.losses import policy
from rlkit.models.generator import EMA, OLD, Generator
from rlkit.recipe import Ddpo, Recipe
from rlkit.running.folder import RunFolder


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Roll out, train, save the averaged policy, measure it beside its start. See recipes/ddpo.yaml."""
    sessions.run(recipe, folder, start, algorithm, systems=sessions.before_and_after("ddpo"))


def start(recipe: Recipe) -> Generator:
    """The generator of model.id with its companions. Raises ModelError for flow models."""
    return sessions.load(recipe, "epsilon", (OLD, EMA))


def algorithm(session: Session) -> OnPaths:
    """DDPO as the recipe sets it."""
    recipe = session.recipe
    settings, past = recipe.ddpo, Past(session)
    last = recipe.generation.num_inference_steps - 1
    return OnPaths(
        session,
        past,
        name="DDPO",
        move=partial(move, settings),
        trained=lambda _: range(last),
        objective=partial(objective, settings),
        kl_weight=settings.kl_weight,
        clip_range=settings.clip_range,
        memory=past,
    )


def move(
    settings: Ddpo,
    noisy: bool,
    prediction: Tensor,
    sample: Tensor,
    level: Tensor,
    level_next: Tensor,
    **drawn: Tensor,
) -> sde.Step:
    """One step of DDIM; levels are alphas_cumprod."""
    return sde.ddim_step(prediction, sample, level, level_next, eta=settings.eta if noisy else 0.0, **drawn)


def objective(
    settings: Ddpo, now: sde.Step, before: sde.Step, _dt: Tensor, advantages: Tensor, mask: Tensor
) -> policy.PolicyLoss:
    """PPO's clip."""
    return policy.ppo_clip(now.log_prob - before.log_prob, advantages, clip_low=settings.clip_range, mask=mask)


class Past:
    """Rewards compared with their prompt's past, one memory for each reward."""

    def __init__(self, session: Session) -> None:
        settings, online = session.recipe.ddpo, session.recipe.online
        self.clip, self.weights = online.advantage_clip, session.rewards.weights
        self.statistics = [
            PromptStatistics(buffer_size=settings.buffer_size, min_count=settings.min_count) for _ in self.weights
        ]

    def __call__(self, scores: Tensor, _group_ids: Sequence[int], prompt_ids: Sequence[int]) -> Advantages:
        """Advantages of all pictures; their prompts' pasts grow by these scores."""
        found = [
            statistics.update(scores[:, at], prompt_ids, clip=self.clip)
            for at, statistics in enumerate(self.statistics)
        ]
        mask = torch.stack([one.mask for one in found]).all(0)
        total = sum(weight * one.values for weight, one in zip(self.weights, found, strict=True))
        first = found[0].counts
        counts = Counts(
            first.samples,
            int((~scores.isfinite()).any(1).sum()),
            first.groups,
            min(one.counts.zero_variance_groups for one in found),
            max(one.counts.small_groups for one in found),
        )
        return Advantages(torch.where(mask, total, 0.0).clamp(-self.clip, self.clip), mask, counts)

    def state_dict(self) -> dict[str, Any]:
        """The pasts."""
        return {"statistics": [one.state_dict() for one in self.statistics]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for statistics, told in zip(self.statistics, state_dict["statistics"], strict=True):
            statistics.load_state_dict(told)
