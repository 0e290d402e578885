"""What a generator makes for held-out prompts: rewards, a judge that was not trained on, diversity, velocity ratio.

Every system draws from the same seeds. A row is one prompt: the mean over its pictures, those without a score left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from rlkit import sde
from rlkit.engine import seed_of
from rlkit.generators.gallery import save_grid
from rlkit.generators.prompts import Embeddings
from rlkit.generators.scoring import Rewards
from rlkit.losses import policy
from rlkit.models import sampling
from rlkit.models.generator import REFERENCE, Generator
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress

Row = dict[str, Any]
SIGMAS = (0.25, 0.5, 0.75)
"""Noise levels at which velocities are compared."""


@dataclass
class Measure:
    """The held-out prompts and who judges."""

    prompts: Sequence[str]
    rewards: Rewards
    held_out: Rewards
    embeddings: Embeddings
    recipe: Recipe

    @torch.no_grad()
    def rows(
        self, generator: Generator, name: str, folder: RunFolder, progress: Progress, *, title: str, ratio: bool
    ) -> list[Row]:
        """One row per prompt for the weights `name`, and samples/<title>.png; `ratio` compares with the reference."""
        shown, samples = self.recipe.generation.gallery_prompts, self.recipe.generation.eval_samples
        progress.stage(
            f"{title}: drawing {samples} pictures for {len(self.prompts)} held-out prompts", len(self.prompts)
        )

        def measured(numbers: Sequence[int]) -> list[tuple[Row, list[Image.Image]]]:
            found = []
            for number in numbers:
                found.append(self._of_prompt(generator, name, number, ratio))
                progress.advance()
            return found

        found = ranks.spread(measured, list(range(len(self.prompts))))
        grid = [pictures for _, pictures in found[:shown]]
        if grid and folder.main:
            save_grid(folder.samples / f"{title}.png", grid)
        return [row for row, _ in found]

    def _of_prompt(self, generator: Generator, name: str, number: int, ratio: bool) -> tuple[Row, list[Image.Image]]:
        generation, prompt = self.recipe.generation, self.prompts[number]
        samples, side = generation.eval_samples, generation.resolution
        seeds = [seed_of("evaluate", self.recipe.data.world_seed, prompt, at) for at in range(samples)]
        text = self.embeddings([prompt] * samples)
        cfg = generation.guidance_scale > 1 and not generator.family.takes_guidance(generator.pipe)
        rolled = sampling.rollout(
            generator, text, seeds, height=side, width=side, num_inference_steps=generation.eval_inference_steps,
            guidance_scale=generation.guidance_scale, negative=self.embeddings([None]) if cfg else None, name=name,
        )  # fmt: skip
        pictures = generator.pictures(rolled.latents)
        row: Row = {"clip": prompt, "diversity": diversity(pictures)}
        for key, rewards in (("reward", self.rewards), ("held_out", self.held_out)):
            if len(rewards):
                row[key] = rewards.total(rewards([prompt] * samples, pictures)).nanmean().item()
        if ratio:
            row["velocity_ratio"] = self._velocity_ratio(generator, name, rolled, text)
        return row, pictures

    def _velocity_ratio(self, generator: Generator, name: str, rolled: sampling.Rollout, text: dict) -> float:
        found = []
        for level in SIGMAS:
            sigma = torch.full((len(rolled.latents),), level, device=rolled.latents.device)
            noised = sde.flow_sample(rolled.latents, rolled.noise, sigma)
            times = sigma * generator.pipe.scheduler.config.num_train_timesteps
            ours, theirs = (generator.predict(noised, times, text, name=one) for one in (name, REFERENCE))
            found.append(policy.velocity_ratio(ours, theirs).mean().item())
        return float(np.mean(found))


def diversity(pictures: Sequence[Image.Image]) -> float | None:
    """Mean over pairs of the root mean squared difference of pixels in [0, 1]; None for a single picture."""
    pixels = [np.asarray(one.convert("RGB"), np.float32) / 255 for one in pictures]
    pairs = [(a, b) for at, a in enumerate(pixels) for b in pixels[at + 1 :]]
    return float(np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in pairs])) if pairs else None


def constant(value: float, n: int) -> dict[str, float | int]:
    """A number that is counted, not estimated, in the form of an interval."""
    return {"value": value, "low": value, "high": value, "n": n, "excluded": 0}
