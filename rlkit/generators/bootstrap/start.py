"""What the rounds of one seed start from: the base model, the originals, its own pictures, and who judges samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit.bootstrap.ledger import write_table
from rlkit.engine import seed_of
from rlkit.errors import ModelError
from rlkit.generators import session as sessions
from rlkit.generators.bootstrap import ledger
from rlkit.generators.bootstrap.likeness import HELD_OUT, TRAINED, Likeness, WithLikeness
from rlkit.generators.bootstrap.originals import Original, read_originals
from rlkit.generators.bootstrap.space import Space, measured
from rlkit.generators.pair_table import encode
from rlkit.generators.pairs import draw
from rlkit.generators.pool import Pool
from rlkit.generators.session import Session
from rlkit.models.generator import POLICY, REFERENCE
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.scoring import Rewards


@dataclass
class Start:
    """Shared by all systems of a seed."""

    session: Session
    """Its recipe has this seed."""
    originals: list[Original]
    set_aside: int
    """Files of data.folder that could not be used."""
    prior: Pool
    prompts: list[str]
    """To sample from, without the trigger."""
    space: Space
    rewards: Rewards
    """What samples are chosen by."""
    held_out: Rewards
    weights: dict[str, Tensor]
    """Of the fresh adapter."""
    auc: dict[str, float]
    """How well each likeness tells originals that it has not seen."""

    @property
    def recipe(self) -> Recipe:
        """With this seed."""
        return self.session.recipe

    @property
    def trigger(self) -> str:
        """What stands before a prompt that calls for the look."""
        return triggered(self.recipe)

    @property
    def near(self) -> float:
        """The distance below which two pictures count as one."""
        return self.recipe.bootstrap.copy_distance * self.space.usual

    def real(self) -> Pool:
        """The originals, under their captions with the trigger."""
        return Pool([one.pixels for one in self.originals], [self.trigger + one.caption for one in self.originals])


def prepare(recipe: Recipe, folder: RunFolder, progress: Progress) -> Start:
    """Load, read, draw the base model's pictures into `folder`/prior (or find them there), fit the judges.

    Raises DataError for unusable originals, ModelError for a model of video, GuardError for a judge that is blind.
    """
    own, side = recipe.bootstrap, recipe.generation.resolution
    originals, set_aside = read_originals(
        recipe.data.folder, side, caption=own.instance_prompt, rejected=folder.path.parent
    )
    session = sessions.open_session(recipe, sessions.load(recipe, None, ()))
    generator = session.generator
    if generator.family.MEDIUM != "image":
        raise ModelError(
            f"bootstrap learns from pictures; {generator.family.PIPELINE} makes {generator.family.MEDIUM}."
        )
    captions = {one.caption for one in originals}
    prompts = [one for one in session.prompts.train if one not in captions] or session.prompts.train
    progress.stage(f"drawing {own.num_class_images} pictures of the base model", own.num_class_images)
    texts = [prompts[at % len(prompts)] for at in range(own.num_class_images)]
    seeds = [seed_of(recipe.seed, "prior", at) for at in range(own.num_class_images)]
    rows = samples(session, folder.part("prior").path, texts, seeds, progress.advance, name=REFERENCE)
    prior = Pool([ledger.pixels(row) for row in rows], texts)
    seen = measured([one.pixels for one in originals]), measured(prior.pictures)
    rewards, held_out, auc = session.rewards, session.held_out, {}
    if own.likeness_weight:
        both = {"trained": Likeness(*seen, TRAINED), "held_out": Likeness(*seen, HELD_OUT)}
        auc = {name: one.auc for name, one in both.items()}
        rewards = WithLikeness(rewards, both["trained"], own.likeness_weight, triggered(recipe))
        held_out = WithLikeness(held_out, both["held_out"], own.likeness_weight, triggered(recipe))
    fresh = {name: one.detach().clone() for name, one in generator.weights().items()}
    return Start(session, originals, set_aside, prior, prompts, Space(*seen), rewards, held_out, fresh, auc)


def triggered(recipe: Recipe) -> str:
    """The trigger as it stands before a prompt; empty where there is none."""
    return f"{recipe.bootstrap.trigger} " if recipe.bootstrap.trigger else ""


@torch.no_grad()
def samples(
    session: Session,
    folder: Path,
    prompts: Sequence[str],
    seeds: Sequence[int],
    advance: Callable[[int], None],
    *,
    name: str = POLICY,
    trigger: str = "",
    rewards: Rewards | None = None,
) -> list[dict[str, Any]]:
    """Rows of ledger.SAMPLES, one a prompt and seed, drawn and scored in shards; a shard that is there is kept.

    A shard follows from the weights, prompts and seeds alone, so that a killed run draws only what is missing.
    """
    size = session.recipe.bootstrap.rows_per_shard
    shards = -(-len(prompts) // size)
    with session.generator.gathered():  # one process may have more to draw than another
        for number in range(ranks.number(), shards, ranks.count()):
            path, rows = folder / ledger.SHARD_NAME.format(number), slice(number * size, (number + 1) * size)
            if not path.is_file():
                given = [trigger + one for one in prompts[rows]]
                rolled = draw(session.generator, session.recipe, session.embeddings, given, seeds[rows], name=name)
                pictures = session.generator.pictures(rolled.latents)
                scores = rewards(prompts[rows], pictures).tolist() if rewards is not None else [[]] * len(pictures)
                found = [
                    {
                        "number": at,
                        "prompt": prompts[at],
                        "seed": seeds[at],
                        "png": encode(picture),
                        "scores": [None if np.isnan(value) else value for value in told],
                    }
                    for at, (picture, told) in enumerate(zip(pictures, scores, strict=True), number * size)
                ]
                write_table(path, found, ledger.SAMPLES)
            advance(len(prompts[rows]))
    ranks.wait()
    return ledger.read_samples(folder, shards)
