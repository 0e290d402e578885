"""Groups of labelled pictures as batches of windows and label tensors; see rlkit/rewards/labels.py.

Where a label is missing its cell is NaN, or -1 for a kind; nothing else ever stands there.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reward_models.heads import UNKNOWN, Outputs
from reward_models.views import Views, Windows, collate, frames_of
from rlkit.caption.dataset import LengthGroupedBatches, hash_seed
from rlkit.rewards.labels import Group, part_of

FACE_HIDDEN = 0.5
"""Share of training items whose face is not pointed at: the portrait's expert must also do without."""


class Groups(torch.utils.data.Dataset):
    """`dataset[index, epoch]`: a group, at most `items` of it, with its windows; both drawn anew in every epoch, the
    same for every run."""

    def __init__(
        self, groups: Sequence[Group], views: Views, *, seed: int, crops: int | None = None, items: int | None = None
    ) -> None:
        self.groups, self.views, self.seed, self.crops, self.items = groups, views, seed, crops, items

    def __len__(self) -> int:
        return len(self.groups)

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


class EpochBatches(LengthGroupedBatches):
    """Its batches as (index, epoch), for data that is cut anew in every epoch."""

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in super().__iter__():
            yield [(index, self.epoch) for index in batch]


class Collator:
    """Groups as one batch of items; a class so that worker processes can be spawned."""

    def __init__(self, outputs: Outputs) -> None:
        self.outputs = outputs

    def __call__(self, examples: list[tuple[Group, list[Windows]]]) -> dict[str, Tensor]:
        """The input of VisionReward (`pixel_values`, `view`, `time`, `expert`) and the labels:

        `ratings` [N, A], `distribution` [N, bins], `veto` [N, V], `pair` [P, 3] (better, worse, attribute), `tie` [P],
        `margin` [P], `ranking` [R, L] places of items, the best first, -1 behind the last, `ranking_attribute` [R].
        """
        items = [item for group, _ in examples for item in group.items]
        experts = self.outputs.experts
        known = [UNKNOWN if item.kind is None else experts.index(item.kind) for item in items]
        batch = collate([one for _, windows in examples for one in windows], known)
        attributes = {name: number for number, name in enumerate(self.outputs.attributes)}
        starts = np.cumsum([0, *(len(group.items) for group, _ in examples)])
        pairs = [(at, pair) for at, (group, _) in zip(starts, examples, strict=False) for pair in group.pairs]
        lists = [(at, one) for at, (group, _) in zip(starts, examples, strict=False) for one in group.rankings]
        longest = max((len(one.order) for _, one in lists), default=0)
        ranking = [[at + place for place in one.order] + [-1] * (longest - len(one.order)) for at, one in lists]
        compared = [(at + one.better, at + one.worse, attributes[one.attribute]) for at, one in pairs]
        return batch | {
            "ratings": _named([item.ratings for item in items], self.outputs.attributes),
            "veto": _named([item.veto for item in items], self.outputs.vetoes),
            "distribution": _shares([item.distribution for item in items], self.outputs.bins),
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
