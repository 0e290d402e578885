"""Pictures to pick from: n of each prompt by a pipeline's own sampler, each from a seed of its own."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from data_synth.whole import whole
from data_synth.world import pictures as world
from rlkit.engine import seed_of
from rlkit.errors import DataError, ModelError
from rlkit.generators import pairs
from rlkit.generators.pair_table import decided, encode, write_shard
from rlkit.generators.prompts import Embeddings, lines_of
from rlkit.models import generator as pipelines
from rlkit.models.adapters import WEIGHT_NAME
from rlkit.models.generator import Generator
from rlkit.pick.work import Made, claim, fingerprint, id_of, recipe_of, rewards_of, told
from rlkit.recipe import Generation, Model, Recipe
from rlkit.running import ranks
from rlkit.scoring import Rewards

WORLD = 40
"""Held-out prompts of the world that are taken where no number is asked for."""


@dataclass
class Pictures:
    """A generator and its rewards; see work.Source."""

    generator: Generator
    recipe: Recipe
    """What pictures are drawn by: model, rewards, generation, seed, image_pairs.batch_size."""
    prompts: Mapping[str, str]
    job: dict[str, Any]
    embeddings: Embeddings
    rewards: Rewards
    held_out: Rewards

    @torch.no_grad()
    def make(self, id_: str) -> Made:
        """Draw and score one prompt's pictures."""
        prompt, count, size = self.prompts[id_], self.job["make"], self.recipe.image_pairs.batch_size
        seeds = [seed_of(self.recipe.seed, "pick", prompt, at) for at in range(count)]
        drawn: list[Any] = []
        hashes: list[str] = []
        for at in range(0, count, size):
            some = seeds[at : at + size]
            rolled = pairs.draw(self.generator, self.recipe, self.embeddings, [prompt] * len(some), some)
            drawn += self.generator.pictures(rolled.latents)
            hashes += [pairs.noise_hash(one) for one in rolled.noise]
        scores = self.rewards([prompt] * count, drawn)
        values = pairs.ranked(scores, [0] * count, self.rewards.weights)
        named = dict(zip(self.rewards.names, scores.T, strict=True)) | {"reward": self.rewards.total(scores)}
        if len(self.held_out):
            judged = self.held_out([prompt] * count, drawn)
            named["held_out"] = self.held_out.total(judged)

        def save(at: int, path: Path) -> str:
            with whole(path.with_suffix(".png")) as file:
                file.write(encode(drawn[at]))
            return f"{path.name}.png"

        def save_pair(path: Path) -> None:
            row = pairs.pair_row(
                id_, prompt, drawn, values, scores, seeds, hashes,
                seed=self.recipe.seed, names=self.rewards.names, min_margin=0.0,
            )  # fmt: skip
            write_shard(path.with_suffix(".parquet"), [row | pairs.common_columns(self.generator, self.recipe)])

        about = [{"seed": seed, "noise": noise} for seed, noise in zip(seeds, hashes, strict=True)]
        return Made(values, named, about, save, save_pair)

    def write_pairs(self, paths: Sequence[Path], folder: Path) -> dict[str, int]:
        """pairs/pairs-00000.parquet, ... in rlkit/generators/pair_table.py's columns."""
        found = [pq.read_table(path.with_suffix(".parquet")).to_pylist()[0] for path in paths]
        size = self.recipe.image_pairs.rows_per_shard
        for at in range(0, len(found), size):
            write_shard(folder / pairs.SHARD_NAME.format(at // size), found[at : at + size])
        return decided(found)


def open_source(given: argparse.Namespace) -> Pictures:
    """The generator, prompts and rewards of a command line. Raises RlkitError for what cannot be had."""
    found = recipe_of(given.model)
    generation = _generation(given, found)
    adapter = Path(given.model) / WEIGHT_NAME
    base, lora = given.model, None
    if adapter.is_file():
        base, lora = given.base or found.model.id, given.model
        if base is None:
            raise ModelError(f"{given.model}: is an adapter; name the pipeline below it with --base.")
    rewards, held_out = rewards_of(given.rewards, "--rewards"), rewards_of(given.held_out, "--held-out")
    making = replace(found.image_pairs, batch_size=given.batch_size)
    recipe = Recipe(
        algorithm="pairs_image", model=Model(id=base), generation=generation, rewards=rewards, seed=given.seed,
        image_pairs=making,
    )  # fmt: skip
    prompts = {id_of(prompt): prompt for prompt in prompts_of(given.prompts, given.limit)}
    job = {
        "model": given.model,
        "base": base,
        "weights": [fingerprint(one) for one in dict.fromkeys([base, given.model])],
        "make": given.make,
        "keep": given.keep,
        "rewards": told(rewards),
        "held_out": told(held_out),
        "num_inference_steps": generation.num_inference_steps,
        "guidance_scale": generation.guidance_scale,
        "resolution": generation.resolution,
        "num_frames": generation.num_frames,
        "seed": given.seed,
    }
    claim(given.out, job)
    generator = pipelines.load(base, adapter=lora, device=ranks.device())
    judges = Rewards(rewards), Rewards(held_out)
    return Pictures(generator, recipe, prompts, job, Embeddings(generator, found.data.cache_gib), *judges)


def _generation(given: argparse.Namespace, found: Recipe) -> Generation:
    """As the run measures its pictures, with what the command line says otherwise."""
    run = found.generation
    steps = run.num_inference_steps if found.algorithm == "distill" else run.eval_inference_steps
    guidance = 1.0 if found.algorithm == "distill" else run.guidance_scale
    asked = {
        "num_inference_steps": given.num_inference_steps or steps,
        "guidance_scale": given.guidance_scale or guidance,
        "resolution": given.resolution or run.resolution,
        "num_frames": given.num_frames or run.num_frames,
    }
    return replace(run, **asked)


def prompts_of(name: str, limit: int | None) -> list[str]:
    """Lines of a text file, each once, or the world's held-out prompts. Raises DataError where there are none."""
    if name == "world":
        drawn = world.drawn(limit or WORLD, split="test")
        return list(dict.fromkeys(map(world.prompt, drawn)))
    if not Path(name).is_file():
        raise DataError(f"{name}: no such file; expected a prompt on each line, or `world`.")
    lines = lines_of(Path(name))[:limit]
    if not lines:
        raise DataError(f"{name}: has no prompts; expected one on each line.")
    return lines
