"""The prompts of a run, split, in an endless order that follows from the seed; and their embeddings, computed once."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from data_synth.world import pictures
from rlkit.errors import DataError
from rlkit.models.generator import Generator
from rlkit.recipe import Recipe

HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class Prompts:
    """Training and held-out prompts; a prompt's number in its list is its id."""

    train: list[str]
    held_out: list[str]
    guard: list[str] = field(default_factory=list)
    """What the guard looks at: held-out prompts that measure no results, or, where there are none, those that do."""

    def at(self, position: int, seed: int) -> int:
        """The id of the training prompt at a position of the endless order: every pass is another permutation."""
        again, place = divmod(position, len(self.train))
        order = list(range(len(self.train)))
        random.Random(f"{seed}/{again}/prompts").shuffle(order)
        return order[place]


def read_prompts(recipe: Recipe) -> Prompts:
    """The world's prompts, or those of generation.prompts. Raises DataError for a file without usable lines."""
    count, data = recipe.evaluate.num_clips, recipe.data
    watched = recipe.guard.num_prompts if recipe.guard.every else 0
    if recipe.generation.prompts is None:
        train = pictures.descriptions("train")[: data.num_clips]
        held_out = pictures.drawn(count, split=recipe.evaluate.split, seed=data.world_seed) if count else []
        unique = dict.fromkeys(map(pictures.prompt, held_out))
        other = "dev" if recipe.evaluate.split == "test" else "test"
        guard = pictures.drawn(watched, split=other, seed=data.world_seed)
        return Prompts([pictures.prompt(one) for one in train], list(unique), list(map(pictures.prompt, guard)))
    path = Path(recipe.generation.prompts)
    lines = lines_of(path)
    if len(lines) < 2:
        raise DataError(f"{path}: has {len(lines)} different prompts, expected a prompt on each line, at least two.")
    held_out = lines[::HELD_OUT_EVERY][:count]
    guard = lines[2::HELD_OUT_EVERY][:watched] if len(lines) >= 2 * HELD_OUT_EVERY else []
    kept_back = {*held_out, *guard}
    train = [line for line in lines if line not in kept_back][: data.num_clips]
    return Prompts(train, held_out, guard or held_out[:watched])


def lines_of(path: Path) -> list[str]:
    """The lines of a text file without what is empty or comes again. Raises DataError for what is not UTF-8."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8.") from None
    return list(dict.fromkeys(line for line in lines if line))


class Embeddings:
    """Embeddings of prompts by text, encoded one by one and kept on the CPU up to `cache_gib`."""

    def __init__(self, generator: Generator, cache_gib: float) -> None:
        self.generator, self.limit = generator, cache_gib * 2**30
        self.kept: dict[str | None, dict[str, Tensor]] = {}

    def __call__(self, prompts: Sequence[str | None]) -> dict[str, Tensor]:
        """A row for each prompt, on the generator's device; None is the unconditional one."""
        for one in dict.fromkeys(prompts):
            if one not in self.kept:  # each alone: in a batch its last bits would depend on what a resumed run forgot
                rows = self.generator.family.encode_prompts(self.generator.pipe, [one])
                self.kept[one] = {name: values[0].cpu() for name, values in rows.items()}
        found = [self.kept[one] for one in prompts]
        stacked = {name: torch.stack([row[name] for row in found]) for name in found[0]}
        if len(self.kept) * sum(row.numel() * row.element_size() for row in found[0].values()) > self.limit:
            self.kept.clear()
        return {name: rows.to(self.generator.device) for name, rows in stacked.items()}
