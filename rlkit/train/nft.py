"""Likelihood-free online RL of a flow model: DiffusionNFT, and AWM as another form of the same loss.

DiffusionNFT, https://huggingface.co/papers/2509.16117; AWM, https://huggingface.co/papers/2509.25050; the formulas are
in rlkit/losses/policy.py. A rollout: the behaviour policy `old` draws a group of pictures for each prompt by the
pipeline's own ODE sampler, without guidance; rewards become advantages within each group; then the policy takes
`nft.num_iterations` optimiser steps on these pictures, noised anew each time, and `old` follows it. `ema` is measured
and saved.

Deviations: every picture is trained at one random noise level a step (the paper: at each of the sampler's); several
rewards are normalised each by itself (GDPO) before they are added. The published factor 5 is inside the loss.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlkit import advantages, engine, sde
from rlkit.engine import seed_of
from rlkit.errors import ModelError
from rlkit.evaluate import intervals
from rlkit.evaluate.generator import Measure, constant
from rlkit.generators.prompts import Embeddings, Prompts, read_prompts
from rlkit.generators.scoring import Rewards
from rlkit.losses import policy
from rlkit.losses.masking import masked_mean
from rlkit.models import generator as pipelines
from rlkit.models import sampling
from rlkit.models.generator import EMA, OLD, REFERENCE, Generator
from rlkit.recipe import Recipe
from rlkit.report.compare_table import differences
from rlkit.report.page import write_report
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress, last_screen, quiet
from rlkit.running.tracking import open_tracker


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Roll out, train, save the averaged policy, measure it beside its start. See recipes/diffusion_nft.yaml."""
    quiet()
    with Progress(folder.path.name, stages=3) as progress:
        tracker = open_tracker(recipe.train.report_to, folder, name=folder.path.name, config={}, progress=progress)
        generator = start(recipe)
        prompts, embeddings = read_prompts(recipe), Embeddings(generator, recipe.data.cache_gib)
        rewards = Rewards(recipe.rewards)
        online = Online(generator, recipe, prompts, embeddings, rewards)
        stage = f"NFT on {len(prompts.train):,} prompts"
        seconds = engine.train(
            generator, recipe, folder, tracker, progress, online.losses,
            stage=stage, after_step=online.follow, memory=online,
        )  # fmt: skip
        if folder.main:
            pipelines.save(generator, folder.final, EMA)
        ranks.wait()
        measure = Measure(prompts.held_out, rewards, Rewards(recipe.evaluate.held_out_rewards), embeddings, recipe)
        rows = {
            title: measure.rows(generator, name, folder, progress, title=title, ratio=True)
            for title, name in (("base", REFERENCE), ("nft", EMA))
        }
        systems = {title: intervals.summarise(found) for title, found in rows.items()}
        for title, passes in (("base", 0.0), ("nft", float(online.forward_passes))):
            systems[title]["forward_passes"] = constant(passes, 1)
        results = {
            "systems": systems,
            "differences": differences({title: [found] for title, found in rows.items()}),
            "headline": ["base", "nft"],
            "measured_on": "held-out prompts",
            "cost": {"train_seconds": {"nft": seconds}, "missing_rewards": online.missing},
        }
        folder.finish(results)
        if folder.main:
            write_report(folder.path)
        last_screen(results, folder.path)
        tracker.finish()


def start(recipe: Recipe) -> Generator:
    """The generator of model.id with its companions. Raises ModelError for epsilon models."""
    model = recipe.model
    keep = (OLD, EMA) if model.lora is not None else (REFERENCE, OLD, EMA)
    generator = pipelines.load(
        model.id, lora=model.lora, keep=keep, dtype=model.dtype, revision=model.revision, device=ranks.device()
    )
    if generator.family.PREDICTION != "flow":
        raise ModelError(f"nft trains flow models; {generator.family.PIPELINE} predicts noise.")
    return generator


@dataclass
class Rollout:
    """This process's pictures of one rollout."""

    number: int
    latents: Tensor
    prompts: list[str]
    advantages: Tensor
    mask: Tensor
    metrics: dict[str, float]


class Online:
    """Rollouts and the losses made from them."""

    def __init__(
        self, generator: Generator, recipe: Recipe, prompts: Prompts, embeddings: Embeddings, rewards: Rewards
    ) -> None:
        self.generator, self.recipe, self.prompts = generator, recipe, prompts
        self.embeddings, self.rewards = embeddings, rewards
        self.rolled: Rollout | None = None
        self.counted = -1  # the last rollout whose passes and missing rewards are counted
        self.forward_passes = self.missing = 0

    def state_dict(self) -> dict[str, Any]:
        """What was counted; a rollout itself follows from `old` and is drawn again."""
        return {"forward_passes": self.forward_passes, "missing": self.missing, "counted": self.counted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.forward_passes, self.missing = state_dict["forward_passes"], state_dict["missing"]
        self.counted, self.rolled = state_dict["counted"], None

    def losses(self, step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
        """The micro-batches of a step; the first one of a rollout's steps draws it."""
        number, iteration = divmod(step, self.recipe.nft.num_iterations)
        if self.rolled is None or self.rolled.number != number:
            self.rolled = self.collect(number)
        size, parts = self.recipe.train.per_device_train_batch_size, self.recipe.train.gradient_accumulation_steps
        valid = sum(ranks.gathered(int(self.rolled.mask.sum()))) / (parts * ranks.count())
        told = self.rolled.metrics if iteration == 0 else {}
        for part in range(parts):
            loss, metrics = self.loss(step, part, slice(part * size, (part + 1) * size), valid)
            yield loss, metrics | (told if part == 0 else {})

    def loss(self, step: int, part: int, rows: slice, valid: float) -> tuple[Tensor, dict[str, float]]:
        """One micro-batch, its mean taken over `valid` pictures: those with an advantage in an average one."""
        settings, rolled = self.recipe.nft, self.rolled
        x0, text = rolled.latents[rows], self.embeddings(rolled.prompts[rows])
        drawn = torch.Generator().manual_seed(seed_of(self.recipe.seed, "nft", step, part, ranks.number()))
        noise = torch.randn(x0.shape, generator=drawn).to(x0.device)
        uniform = torch.rand(len(x0), generator=drawn).clamp(1e-3, 1 - 1e-3).to(x0.device)
        sigma = sampling.shifted(self.generator, uniform, tuple(x0.shape[1:]))
        noised, times = (
            sde.flow_sample(x0, noise, sigma),
            sigma * self.generator.pipe.scheduler.config.num_train_timesteps,
        )
        with torch.no_grad():
            old, reference = (self.generator.predict(noised, times, text, name=name) for name in (OLD, REFERENCE))
        velocity = self.generator.predict(noised, times, text)
        self.forward_passes += 4 * len(x0) * ranks.count()  # three, and a backward pass, counted like a forward one
        found = policy.nft(
            velocity, old, sde.flow_velocity(x0, noise), sigma, rolled.advantages[rows], form=settings.form,
            nft_mix=settings.nft_mix, weighting=settings.weighting, advantage_clip=settings.advantage_clip,
            ratio_clip=settings.ratio_clip, mask=rolled.mask[rows],
        )  # fmt: skip
        distance = policy.velocity_mse(velocity, reference)
        loss = masked_mean(found.loss, rolled.mask[rows], max(valid, 1e-6)) if valid else found.loss.sum()
        metrics = {name: value.item() for name, value in found.metrics.items()}
        metrics["velocity_mse"] = distance.mean().item()
        metrics["velocity_ratio"] = policy.velocity_ratio(velocity, reference).mean().item()
        return loss + settings.kl_weight * distance.mean(), metrics

    @torch.no_grad()
    def collect(self, number: int) -> Rollout:
        """Draw, score and compare the groups of rollout `number`; it depends on `old`, the seed and `number` alone."""
        train, generation = self.recipe.train, self.recipe.generation
        size, group = train.per_device_train_batch_size, generation.num_generations
        local = size * train.gradient_accumulation_steps
        first = (number * ranks.count() + ranks.number()) * (local // group)
        ids = [self.prompts.at(first + at // group, self.recipe.seed) for at in range(local)]
        group_ids = [first + at // group for at in range(local)]  # a prompt that comes twice makes two groups
        prompts = [self.prompts.train[one] for one in ids]
        seeds = [seed_of(self.recipe.seed, "rollout", number, ranks.number(), at) for at in range(local)]
        latents = torch.cat(
            [
                sampling.rollout(
                    self.generator, self.embeddings(prompts[at : at + size]), seeds[at : at + size],
                    height=generation.resolution, width=generation.resolution,
                    num_inference_steps=generation.num_inference_steps, name=OLD,
                ).latents
                for at in range(0, local, size)
            ]
        )  # fmt: skip
        scores = self.rewards(prompts, self.generator.pictures(latents))
        everyone = ranks.gathered((scores, group_ids))
        compared = self.compare(torch.cat([one for one, _ in everyone]), [i for _, ids in everyone for i in ids])
        own = slice(ranks.number() * local, (ranks.number() + 1) * local)
        if number > self.counted:
            self.counted = number
            self.forward_passes += local * generation.num_inference_steps * ranks.count()
            self.missing += compared.counts.missing
        values, mask = (one[own].to(latents.device) for one in (compared.values, compared.mask))
        return Rollout(number, latents, prompts, values, mask, self._metrics(scores, compared.counts))

    def compare(self, scores: Tensor, group_ids: list[int]) -> advantages.Advantages:
        """Advantages of pictures by groups of explicit ids."""
        settings = self.recipe.nft
        shared = {
            "std": settings.advantage_std,
            "clip": settings.advantage_clip,
            "min_spread": settings.min_spread,
            "group_size": self.recipe.generation.num_generations,
        }
        if len(self.rewards) == 1:
            return advantages.group_relative(scores[:, 0], group_ids, **shared)
        return advantages.gdpo(scores, group_ids, weights=self.rewards.weights, **shared)

    def _metrics(self, scores: Tensor, counts: advantages.Counts) -> dict[str, float]:
        found = {f"rewards/{name}": scores[:, at].nanmean().item() for at, name in enumerate(self.rewards.names)}
        found["reward"] = self.rewards.total(scores).nanmean().item()
        found["rewards/missing"] = float(counts.missing)
        found["groups/zero_variance"] = float(counts.zero_variance_groups)
        return found

    def follow(self, steps: int) -> None:
        """After `steps` optimiser steps: ema follows each, old follows at the end of a rollout."""
        settings = self.recipe.nft
        self.generator.follow(EMA, settings.ema_decay)
        if steps % settings.num_iterations == 0:
            rollouts = steps // settings.num_iterations
            self.generator.follow(OLD, min(settings.old_decay, settings.old_decay_slope * rollouts))
