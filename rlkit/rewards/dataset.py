"""Groups of labelled pictures as batches of windows and label tensors; see rlkit/rewards/labels.py.

Where a label is missing its cell is NaN, or -1 for a kind; nothing else ever stands there.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_models.vision.heads import UNKNOWN, Outputs
from reward_models.vision.views import Views, Windows, collate, frames_of
from rlkit.caption.dataset import LengthGroupedBatches, hash_seed
from rlkit.rewards.labels import Group, part_of

FACE_HIDDEN = 0.5
"""Share of training items whose face is not pointed at: the portrait's expert must also do without."""


class Groups(torch.utils.data.Dataset):
    """`dataset[index, epoch]`: a group, at most `items` of it, with its windows; both drawn anew in every epoch, the
    same for every run."""

    inputs = ("pixel_values", "view", "time", "expert")

    def __init__(
        self,
        groups: Sequence[Group],
        views: Views,
        outputs: Outputs,
        *,
        seed: int,
        crops: int | None = None,
        items: int | None = None,
    ) -> None:
        self.groups, self.views, self.seed, self.crops, self.items = groups, views, seed, crops, items
        self.collator = Collator(outputs)

    def __len__(self) -> int:
        return len(self.groups)

    def part(self, kept: Sequence[int]) -> "Groups":
        """Some of the groups."""
        some = [self.groups[index] for index in kept]
        return Groups(some, self.views, self.collator.outputs, seed=self.seed, crops=self.crops, items=self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Group, list[Windows]]:
        index, epoch = key
        group = self.groups[index]
        draw = np.random.default_rng([hash_seed(self.seed, index), epoch])
        if self.items is not None and len(group.items) > self.items:
            group = part_of(group, sorted(draw.choice(len(group.items), self.items, replace=False).tolist()))
        hidden = draw.random(len(group.items)) < FACE_HIDDEN
        faces = [None if hide else item.face for item, hide in zip(group.items, hidden, strict=True)]
        frames = [frames_of(item.frames(self.views.plan.frames)) for item in group.items]
        # versions of a picture are seen at the same places, so that only their fault differs
        spots = [hash_seed(self.seed, index), epoch, 1]
        return group, self.views.windows(frames, faces, seed=spots, crops=self.crops)


class Featured(torch.utils.data.Dataset):
    """`dataset[index, epoch]`: a group with the features of its items, for a backbone that is not trained."""

    inputs = ("features", "region", "expert")

    def __init__(self, groups: Sequence[Group], features: Sequence[tuple[Tensor, Tensor]], outputs: Outputs) -> None:
        self.groups, self.features = groups, features
        self.collator = FeaturedCollator(outputs)

    def __len__(self) -> int:
        return len(self.groups)

    def part(self, kept: Sequence[int]) -> "Featured":
        """Some of the groups."""
        groups, features = ([of[index] for index in kept] for of in (self.groups, self.features))
        return Featured(groups, features, self.collator.outputs)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Group, tuple[Tensor, Tensor]]:
        return self.groups[key[0]], self.features[key[0]]


class EpochBatches(LengthGroupedBatches):
    """Its batches as (index, epoch), for data that is cut anew in every epoch."""

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in super().__iter__():
            yield [(index, self.epoch) for index in batch]


class Collator:
    """Groups as one batch of windows and labels; a class so that worker processes can be spawned."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs

    def __call__(self, examples: list[tuple[Group, list[Windows]]]) -> dict[str, Tensor]:
        labels = labels_of([group for group, _ in examples], self.outputs)
        return collate([one for _, windows in examples for one in windows], labels["expert"].tolist()) | labels


class FeaturedCollator(Collator):
    """Groups as one batch of features and labels."""

    def __call__(self, examples: list[tuple[Group, tuple[Tensor, Tensor]]]) -> dict[str, Tensor]:
        features, region = (torch.cat(parts) for parts in zip(*(both for _, both in examples), strict=True))
        return labels_of([group for group, _ in examples], self.outputs) | {"features": features, "region": region}


def labels_of(groups: Sequence[Group], outputs: Outputs) -> dict[str, Tensor]:
    """The labels of N items: `expert` [N], `ratings` [N, A], `distribution` [N, bins], `veto` [N, V], `pair` [P, 3]
    (better, worse, attribute), `tie` [P], `margin` [P], `ranking` [R, L] places of items, the best first, -1 behind the
    last, `ranking_attribute` [R]."""
    items = [item for group in groups for item in group.items]
    known = [UNKNOWN if item.kind is None else outputs.experts.index(item.kind) for item in items]
    attributes = {name: number for number, name in enumerate(outputs.attributes)}
    starts = np.cumsum([0, *(len(group.items) for group in groups)])
    pairs = [(at, pair) for at, group in zip(starts, groups, strict=False) for pair in group.pairs]
    lists = [(at, one) for at, group in zip(starts, groups, strict=False) for one in group.rankings]
    longest = max((len(one.order) for _, one in lists), default=0)
    ranking = [[at + place for place in one.order] + [-1] * (longest - len(one.order)) for at, one in lists]
    compared = [(at + one.better, at + one.worse, attributes[one.attribute]) for at, one in pairs]
    return {
        "expert": torch.tensor(known),
        "ratings": _named([item.ratings for item in items], outputs.attributes),
        "veto": _named([item.veto for item in items], outputs.vetoes),
        "distribution": _shares([item.distribution for item in items], outputs.bins),
        "pair": torch.tensor(compared, dtype=torch.long).reshape(-1, 3),
        "tie": torch.tensor([one.tie for _, one in pairs], dtype=torch.bool),
        "margin": torch.tensor([one.margin for _, one in pairs], dtype=torch.float32),
        "ranking": torch.tensor(ranking, dtype=torch.long).reshape(len(lists), longest),
        "ranking_attribute": torch.tensor([attributes[one.attribute] for _, one in lists], dtype=torch.long),
    }


def _named(rows: Sequence[Any], names: Sequence[str]) -> Tensor:
    """[rows, names] with NaN where a row has no value."""
    values = [[float(row.get(name, np.nan)) for name in names] for row in rows]
    return torch.tensor(values, dtype=torch.float32).reshape(len(rows), len(names))


def _shares(rows: Sequence[Sequence[float] | None], bins: int) -> Tensor:
    values = [[np.nan] * bins if row is None or not bins else [float(v) for v in row] for row in rows]
    return torch.tensor(values, dtype=torch.float32).reshape(len(rows), bins)
