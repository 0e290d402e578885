"""What a generator makes for held-out prompts: rewards, a judge that was not trained on, diversity, velocity ratio.

Every system draws from the same seeds. A row is one prompt: the mean over its pictures, those without a score left out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from rlkit import sde
from rlkit.engine import seed_of
from rlkit.generators.gallery import Drawn, save_grid, thumbnail
from rlkit.generators.prompts import Embeddings
from rlkit.losses import policy
from rlkit.models import adapter_scale, sampling
from rlkit.models.generator import REFERENCE, Generator
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.scoring import Rewards

Row = dict[str, Any]
SIGMAS = (0.25, 0.5, 0.75)
"""Noise levels at which velocities are compared; shares of the timesteps of an epsilon model."""


@dataclass(frozen=True)
class Sampled:
    """How a system draws, where it is not as the recipe says."""

    num_inference_steps: int
    guidance_scale: float


@dataclass
class Measure:
    """The held-out prompts and who judges."""

    prompts: Sequence[str]
    rewards: Rewards
    held_out: Rewards
    embeddings: Embeddings
    recipe: Recipe
    samples: int | None = None
    """Pictures per prompt; None: generation.eval_samples."""
    sampled: Sampled | None = None
    """None: generation.eval_inference_steps and guidance_scale."""

    @torch.no_grad()
    def drawn(
        self,
        generator: Generator,
        name: str,
        folder: RunFolder,
        progress: Progress,
        *,
        title: str,
        ratio: bool,
        best_of: int = 1,
    ) -> Drawn:
        """Rows and pictures of all prompts for the weights `name`, and samples/<title>.png; `ratio` compares with the
        reference.

        With `best_of` above 1 each picture is the best, by the trained rewards, of so many; the first of them is the
        one that is measured without it.
        """
        shown, samples = self.recipe.generation.gallery_prompts, self.samples or self.recipe.generation.eval_samples
        progress.stage(
            f"{title}: drawing {samples} pictures for {len(self.prompts)} held-out prompts", len(self.prompts)
        )

        def measured(numbers: Sequence[int]) -> list[tuple[Row, list[Any]]]:
            found = []
            for number in numbers:
                row, pictures = self.of_prompt(generator, name, number, ratio=ratio, best_of=best_of)
                found.append((row, [thumbnail(shown_as(one)) for one in pictures]))
                progress.advance()
            return found

        found = ranks.spread(measured, list(range(len(self.prompts))))
        grid = [pictures for _, pictures in found[:shown]]
        if grid and folder.main:
            save_grid(folder.samples / f"{title}.png", grid)
        return Drawn([row for row, _ in found], [pictures for _, pictures in found])

    @torch.no_grad()
    def of_prompt(
        self, generator: Generator, name: str, number: int, *, ratio: bool, best_of: int = 1
    ) -> tuple[Row, list[Any]]:
        """The row of one prompt, and its pictures; they follow from the prompt and the weights alone."""
        generation, prompt = self.recipe.generation, self.prompts[number]
        samples, side = self.samples or generation.eval_samples, generation.resolution
        drawing = self.sampled or Sampled(generation.eval_inference_steps, generation.guidance_scale)
        text = self.embeddings([prompt] * samples)
        cfg = drawing.guidance_scale > 1 and not generator.family.takes_guidance(generator.pipe)
        drawn, found, totals = [], [], []
        for again in range(best_of):
            seeds = [
                seed_of("evaluate", self.recipe.data.world_seed, prompt, again * samples + at) for at in range(samples)
            ]
            rolled = sampling.rollout(
                generator, text, seeds, height=side, width=side, num_frames=generation.num_frames,
                num_inference_steps=drawing.num_inference_steps, guidance_scale=drawing.guidance_scale,
                negative=self.embeddings([None]) if cfg else None, name=name,
            )  # fmt: skip
            drawn.append(rolled)
            found.append(generator.pictures(rolled.latents))
            if len(self.rewards):
                totals.append(self.rewards.total(self.rewards([prompt] * samples, found[-1])))
        best = [0] * samples
        if best_of > 1:
            best = torch.stack(totals).nan_to_num(nan=-torch.inf).argmax(0).tolist()
        pictures = [found[again][at] for at, again in enumerate(best)]
        row: Row = {"clip": prompt, "diversity": diversity(pictures)}
        if len(self.rewards):
            row["reward"] = torch.stack([totals[again][at] for at, again in enumerate(best)]).nanmean().item()
        if len(self.held_out):
            row["held_out"] = self.held_out.total(self.held_out([prompt] * samples, pictures)).nanmean().item()
        if ratio:
            row["velocity_ratio"] = self._velocity_ratio(generator, name, drawn[0], text)
        return row, pictures

    def _velocity_ratio(self, generator: Generator, name: str, rolled: sampling.Rollout, text: dict) -> float:
        found = []
        for level in SIGMAS:
            share = torch.full((len(rolled.latents),), level, device=rolled.latents.device)
            times = share * generator.pipe.scheduler.config.num_train_timesteps
            if generator.family.PREDICTION == "flow":
                noised = sde.flow_sample(rolled.latents, rolled.noise, share)
            else:
                times = times.long()
                noised = sde.epsilon_sample(rolled.latents, rolled.noise, sampling.levels_at(generator, times))
            ours, theirs = (generator.predict(noised, times, text, name=one) for one in (name, REFERENCE))
            found.append(policy.velocity_ratio(ours, theirs).mean().item())
        return float(np.mean(found))


@contextmanager
def at_scale(generator: Generator, name: str, factor: float) -> Iterator[None]:
    """Inside, the adapter `name` counts `factor` times; afterwards it has its former bits."""
    if factor == 1:
        yield
        return
    kept = {key: weight.clone() for key, weight in generator.weights(name).items()}
    generator.load_weights(adapter_scale.times(kept, factor), name)
    try:
        yield
    finally:
        generator.load_weights(kept, name)


def diversity(pictures: Sequence[Any]) -> float | None:
    """Mean over pairs of the root mean squared difference of pixels in [0, 1]; None for a single picture."""
    pixels = [_pixels(one).astype(np.float32) / 255 for one in pictures]
    pairs = [(a, b) for at, a in enumerate(pixels) for b in pixels[at + 1 :]]
    return float(np.mean([np.sqrt(np.mean((a - b) ** 2)) for a, b in pairs])) if pairs else None


def shown_as(picture: Any) -> Image.Image:
    """A picture as it is, a clip as its frames side by side."""
    pixels = _pixels(picture)
    return Image.fromarray(pixels if pixels.ndim == 3 else np.concatenate(list(pixels), axis=1))


def _pixels(picture: Any) -> np.ndarray:
    return np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)


def constant(value: float, n: int) -> dict[str, float | int]:
    """A number that is counted, not estimated, in the form of an interval."""
    return {"value": value, "low": value, "high": value, "n": n, "excluded": 0}
