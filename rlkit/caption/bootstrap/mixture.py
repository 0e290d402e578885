"""Batches of two pools: corrected captions, of which every batch holds at least a share, and pseudo-captions."""

import math
from collections.abc import Iterator

import torch
from torch.utils.data import BatchSampler

from rlkit.caption.dataset import hash_seed
from rlkit.caption.trainer import CaptionTrainer


class MixedTrainer(CaptionTrainer):
    """CaptionTrainer on rows of which the first `real` are corrected captions."""

    def __init__(self, *arguments, real: int, real_share: float, **named) -> None:
        self.real, self.real_share = real, real_share
        super().__init__(*arguments, **named)

    def batches(self) -> "MixedBatches":
        """This process's batches for all optimiser steps."""
        args = self.args
        return MixedBatches(
            self.real,
            len(self.train_dataset) - self.real,
            self._train_batch_size,
            real_share=self.real_share,
            count=args.max_steps * args.gradient_accumulation_steps,
            seed=self.recipe.seed,
            rank=args.process_index,
            ranks=args.world_size,
        )


class MixedBatches(BatchSampler):
    """`count` batches of row numbers, the same for the same seed: rows below `real` are corrected, the `kept` others
    follow. Each pool is gone through in random order again and again, so that its rows come equally often."""

    def __init__(
        self,
        real: int,
        kept: int,
        batch_size: int,
        *,
        real_share: float,
        count: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.pools = (range(real), range(real, real + kept))
        corrected = batch_size if not kept else math.ceil(real_share * batch_size) if real else 0
        self.sizes = (corrected, batch_size - corrected)
        self.count, self.seed, self.rank, self.ranks = count, seed, rank, ranks
        self.batch_size, self.drop_last = batch_size, False

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        """Nothing: there is one pass."""

    def __iter__(self) -> Iterator[list[int]]:
        streams = [_endless(pool, hash_seed(self.seed, at)) for at, pool in enumerate(self.pools)]
        for _ in range(self.count):
            everyone = [
                [next(stream) for stream, size in zip(streams, self.sizes, strict=True) for _ in range(size)]
                for _ in range(self.ranks)
            ]
            yield everyone[self.rank]


def _endless(pool: range, seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from (pool[at] for at in torch.randperm(len(pool), generator=generator).tolist())
