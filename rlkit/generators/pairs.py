"""A generator's own pictures as preference pairs: K for each prompt, scored, the best against the worst of each group.

A group's pictures differ in their noise alone. Ties (a margin of at most image_pairs.min_margin) stay in the table,
marked, as do groups that could not be judged: nothing is lost, and how often it happens is a number one wants. Several
rewards are normalised each by itself before they are added (GDPO), as in RL. Every row carries what its pictures can be
drawn from again; `redrawn` does so.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit import advantages
from rlkit.engine import seed_of
from rlkit.errors import DataError
from rlkit.generators.pair_table import decode, encode, write_shard
from rlkit.generators.prompts import Embeddings, Prompts
from rlkit.models import sampling
from rlkit.models.generator import POLICY, Generator
from rlkit.recipe import Recipe
from rlkit.scoring import Rewards

SHARD_NAME = "pairs-{:05d}.parquet"


def make(
    generator: Generator,
    recipe: Recipe,
    folder: Path,
    numbers: Sequence[int],
    prompts: Prompts,
    embeddings: Embeddings,
    rewards: Rewards,
    advance: Callable[[int], None],
) -> None:
    """Write the shards `numbers` of the recipe's pairs; one that is there already is kept.

    A shard follows from the recipe and its number alone. `advance` is told how many groups are done.
    """
    making = recipe.image_pairs
    for number in numbers:
        path = folder / SHARD_NAME.format(number)
        groups = range(number * making.rows_per_shard, min((number + 1) * making.rows_per_shard, making.num_groups))
        if not path.is_file():
            write_shard(path, shard(generator, recipe, groups, prompts, embeddings, rewards))
        advance(len(groups))


def shards_of(recipe: Recipe) -> range:
    """Numbers of a recipe's shards."""
    return range(-(-recipe.image_pairs.num_groups // recipe.image_pairs.rows_per_shard))


def shard(
    generator: Generator, recipe: Recipe, groups: Sequence[int], prompts: Prompts, embeddings: Embeddings,
    rewards: Rewards,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row for each group, in the columns of pair_table.COLUMNS."""
    count, size = recipe.generation.num_generations, recipe.image_pairs.batch_size
    texts = [prompts.train[prompts.at(group, recipe.seed)] for group in groups for _ in range(count)]
    seeds = [seed_of(recipe.seed, "pairs", group, at) for group in groups for at in range(count)]
    pictures: list[Any] = []
    hashes: list[str] = []
    for at in range(0, len(texts), size):
        rolled = draw(generator, recipe, embeddings, texts[at : at + size], seeds[at : at + size])
        pictures += generator.pictures(rolled.latents)
        hashes += [noise_hash(one) for one in rolled.noise]
    scores = rewards(texts, pictures)
    values = ranked(scores, [group for group in groups for _ in range(count)], rewards.weights)
    common = common_columns(generator, recipe)
    rows = []
    for place, group in enumerate(groups):
        own = slice(place * count, (place + 1) * count)
        row = pair_row(
            group, texts[own.start], pictures[own], values[own], scores[own], seeds[own], hashes[own],
            seed=recipe.seed, names=rewards.names, min_margin=recipe.image_pairs.min_margin,
        )  # fmt: skip
        rows.append(row | common)
    return rows


def pair_row(
    group: object, prompt: str, pictures: Sequence[Any], values: Tensor, scores: Tensor, seeds: Sequence[int],
    hashes: Sequence[str], *, seed: int, names: Sequence[str], min_margin: float,
) -> dict[str, Any]:  # fmt: skip
    """The row of one group, in pair_table.COLUMNS but for those of `common_columns`: its best against its worst.

    One entry a picture: `values` it is ranked by, `scores` [pictures, rewards], its seed and the hash of its noise.
    """
    decided = advantages.extremes(values, [0] * len(values), min_margin=min_margin)
    label, pair = _undecided(values, range(len(values)))
    if len(decided.best):
        label, pair = 1.0, (decided.best[0].item(), decided.worst[0].item())
    if label == 1.0 and seed_of(seed, "side", group) % 2:  # the better one is not always the first
        label, pair = 0.0, pair[::-1]
    first, second = pair
    row = {
        "pair_id": f"{seed}-{group}",
        "caption": prompt,
        "label_0": label,
        "label_1": None if label is None else 1 - label,
        "has_label": label is not None,
        "margin": None if label is None else abs(values[first] - values[second]).item(),
        "reward_names": list(names),
        "missing": int(values.isnan().sum()),
    }
    for side, at in enumerate(pair):
        row[f"jpg_{side}"] = encode(pictures[at])
        row[f"rewards_{side}"] = [None if value != value else value for value in scores[at].tolist()]
        row[f"seed_{side}"], row[f"noise_{side}"] = seeds[at], hashes[at]
    return row


def ranked(scores: Tensor, group_ids: Sequence[int], weights: Sequence[float]) -> Tensor:
    """What a group's pictures are ordered by, [batch]; NaN where it is not known.

    One reward is taken as it is. Several are normalised each by its group's mean and spread, weighed and added; a
    picture that one of them gave no score is not ordered.
    """
    if scores.shape[1] == 1:
        return scores[:, 0]
    found = advantages.gdpo(scores, list(group_ids), weights=weights, clip=None)
    return found.values.masked_fill(scores.isnan().any(1), torch.nan)


def _undecided(values: Tensor, members: Sequence[int]) -> tuple[float | None, tuple[int, int]]:
    """(label, two pictures) of a group without a winner: a tie where two have a value, else no label."""
    known = [at for at in members if not values[at].isnan()]
    if len(known) < 2:
        return None, (members[0], members[1])
    best, worst = max(known, key=lambda at: values[at]), min(known, key=lambda at: values[at])
    return 0.5, (best, worst) if best != worst else (known[0], known[1])


def draw(
    generator: Generator,
    recipe: Recipe,
    embeddings: Embeddings,
    prompts: Sequence[str],
    seeds: Sequence[int],
    name: str = POLICY,
) -> sampling.Rollout:
    """Samples as the recipe's pairs are drawn, by the policy or a companion."""
    settings = recipe.generation
    cfg = settings.guidance_scale > 1 and not generator.family.takes_guidance(generator.pipe)
    return sampling.rollout(
        generator, embeddings(prompts), seeds, height=settings.resolution, width=settings.resolution,
        num_frames=settings.num_frames, num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale, negative=embeddings([None]) if cfg else None, name=name,
    )  # fmt: skip


def noise_hash(noise: Tensor) -> str:
    """sha256 of a sample's noise, its fp32 bytes."""
    return hashlib.sha256(noise.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def noise_of(seed: int, expected: str | None, shape: tuple[int, ...], where: str) -> Tensor:
    """The noise [shape] that a row's sampling started from; raises DataError where the seed gives other numbers."""
    noise = sampling.normal([torch.Generator().manual_seed(seed)], shape, "cpu")[0]
    if expected is not None and noise_hash(noise) != expected:
        raise DataError(
            f"{where}: its seed gives other noise of shape {shape} than the pair was drawn from: another version of "
            "torch, another size or another model. Set diffusion_dpo.noise=shared, or make the pairs anew."
        )
    return noise


def redrawn(generator: Generator, recipe: Recipe, embeddings: Embeddings, row: Mapping[str, Any]) -> int:
    """Draw both pictures of a row again, from the row alone; the largest difference of a pixel, of 255.

    0 or 1 on the same machine: another batch shape moves the last bit of a latent, so at most a rounding.
    """
    drawn = draw(generator, recipe, embeddings, [row["caption"]] * 2, [row["seed_0"], row["seed_1"]])
    worst = 0
    for side, picture in enumerate(generator.pictures(drawn.latents)):
        where = f"pair {row['pair_id']}"
        if noise_hash(drawn.noise[side]) != row[f"noise_{side}"]:
            raise DataError(f"{where}: its seed no longer gives the noise it was drawn from.")
        again, kept = (decode(one, where) for one in (encode(picture), row[f"jpg_{side}"]))
        worst = max(worst, int(np.abs(again.astype(int) - kept.astype(int)).max()))
    return worst


def common_columns(generator: Generator, recipe: Recipe) -> dict[str, Any]:
    """The columns that say how pictures were drawn, the same for all rows."""
    settings = recipe.generation
    return {
        "model": recipe.model.id,
        "sampler": type(generator.pipe.scheduler).__name__,
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "resolution": settings.resolution,
        "num_frames": settings.num_frames,
        "seed": recipe.seed,
        "rlkit_version": metadata.version("rlkit"),
    }
