"""Likelihood-free online RL of a flow model: DiffusionNFT, and AWM as another form of the same loss.

DiffusionNFT, https://huggingface.co/papers/2509.16117; AWM, https://huggingface.co/papers/2509.25050; the formulas are
in rlkit/losses/policy.py. A rollout: the behaviour policy `old` draws a group of pictures for each prompt by the
pipeline's own ODE sampler, without guidance; rewards become advantages within each group; then the policy takes
`online.num_iterations` optimiser steps on these pictures, noised anew each time, and `old` follows it. `ema` is
measured and saved.

Deviations: every picture is trained at one random noise level a step (the paper: at each of the sampler's); several
rewards are normalised each by itself (GDPO) before they are added. The published factor 5 is inside the loss.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from rlkit import engine, sde
from rlkit.engine import seed_of
from rlkit.generators import session as sessions
from rlkit.generators.rollouts import Online, Round, by_group
from rlkit.generators.session import Session
from rlkit.losses import policy
from rlkit.losses.masking import masked_mean
from rlkit.models import sampling
from rlkit.models.generator import EMA, OLD, REFERENCE, Generator
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Roll out, train, save the averaged policy, measure it beside its start. See recipes/diffusion_nft.yaml."""
    sessions.run(recipe, folder, start, Nft, systems=sessions.before_and_after("nft"))


def start(recipe: Recipe) -> Generator:
    """The generator of model.id with its companions. Raises ModelError for epsilon models."""
    return sessions.load(recipe, "flow", (OLD, EMA))


class Nft(Online):
    """The losses on what `old` drew, without guidance."""

    def __init__(self, session: Session) -> None:
        super().__init__(session, by_group(session), name="NFT")

    def old_decay(self, rounds: int) -> float:
        """old lags more the longer the run is."""
        return min(self.recipe.nft.old_decay, self.recipe.nft.old_decay_slope * rounds)

    def losses(self, step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
        """The micro-batches of a step; the first one of a round's steps draws it."""
        drawn, iteration = self.at(step)
        valid = drawn.valid(self.parts)
        for part in range(self.parts):
            loss, metrics = self.loss(drawn, step, part, valid)
            yield loss, metrics | (drawn.metrics if part == iteration == 0 else {})

    def loss(self, drawn: Round, step: int, part: int, valid: float) -> tuple[Tensor, dict[str, float]]:
        """One micro-batch, its mean taken over `valid` pictures: those with an advantage in an average one."""
        settings, online, rows = self.recipe.nft, self.recipe.online, self.rows(part)
        x0, text, mask = drawn.drawn[part].latents, self.session.embeddings(drawn.prompts[rows]), drawn.mask[rows]
        seeded = torch.Generator().manual_seed(seed_of(self.recipe.seed, "nft", step, part, ranks.number()))
        noise = torch.randn(x0.shape, generator=seeded).to(x0.device)
        uniform = torch.rand(len(x0), generator=seeded).clamp(1e-3, 1 - 1e-3).to(x0.device)
        sigma, times = sampling.training_times(self.generator, uniform, tuple(x0.shape[1:]))
        noised = sde.flow_sample(x0, noise, sigma)
        with torch.no_grad():
            old, reference = (self.generator.predict(noised, times, text, name=name) for name in (OLD, REFERENCE))
        velocity = self.generator.predict(noised, times, text)
        self.spend(4 * len(x0))  # three, and a backward pass
        found = policy.nft(
            velocity, old, sde.flow_velocity(x0, noise), sigma, drawn.advantages[rows], form=settings.form,
            nft_mix=settings.nft_mix, weighting=settings.weighting, advantage_clip=online.advantage_clip,
            ratio_clip=settings.ratio_clip, mask=mask,
        )  # fmt: skip
        distance = policy.velocity_mse(velocity, reference)
        loss = masked_mean(found.loss, mask, max(valid, 1e-6)) if valid else found.loss.sum()
        metrics = {name: value.item() for name, value in found.metrics.items()}
        metrics["velocity_mse"] = distance.mean().item()
        metrics["velocity_ratio"] = policy.velocity_ratio(velocity, reference).mean().item()
        grown = policy.norm_guard(velocity, reference).mean() if settings.norm_guard_weight else 0.0
        return loss + settings.kl_weight * distance.mean() + settings.norm_guard_weight * grown, metrics
