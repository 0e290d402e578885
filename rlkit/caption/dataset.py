"""Rows for training: records and clips become tensors when asked for, in batches of like length."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, Dataset

from data_synth.records import pieces, text_of
from rlkit.caption import rows
from rlkit.caption.clips import Reader
from rlkit.models import Captioner
from rlkit.recipe import Recipe

LENGTH_BIN = 256  # characters
WINDOW = 50  # batches sorted by length together: most of the padding goes, most of the randomness stays


class Examples(Dataset):
    """`record(i)` with its clip, encoded. Encoded rows stay in memory up to `cache_gib`; the rest is encoded each time.

    shuffle_frames shows every clip with its frames in another order: the control run for event order.
    """

    def __init__(
        self,
        captioner: Captioner,
        records: Sequence[Mapping[str, Any]],
        reader: Reader,
        *,
        cache_gib: float = 2.0,
        shuffle_frames: bool = False,
        seed: int = 0,
    ) -> None:
        self.captioner, self.records, self.reader = captioner, records, reader
        self.shuffle_frames, self.seed = shuffle_frames, seed
        self._room = int(cache_gib * 2**30)
        self._kept: dict[int, rows.Example] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> rows.Example:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        record = self.records[index]
        clip = None
        for video, start, end in pieces(record):
            clip = self.reader.clip(video, start, end)
        if self.shuffle_frames and clip is not None:
            clip = rows.shuffled(clip, seed=hash_seed(self.seed, index))
        example = rows.encode(self.captioner, record, clip, index=index)
        size = sum(tensor.nbytes for tensor in example.prompt.values())
        if size <= self._room:
            self._room -= size
            self._kept[index] = example
        return example

    def length(self, index: int) -> int:
        """About how long a row is, without decoding its clip: characters of its answers, in coarse bins.

        Sorted by exact length, short answers would be sorted by what they say ("One." beside "Two.", "Three." in
        another batch), and a model trained on such batches learns neither.
        """
        record = self.records[index]
        characters = len(text_of(record["chosen"]))
        characters += sum(len(text_of(answer)) for answer in record.get("rejected") or [])
        return characters // LENGTH_BIN


def hash_seed(seed: int, index: int) -> int:
    """A seed for one row that no other row shares."""
    return seed * 1_000_003 + index


def training_examples(
    captioner: Captioner, records: Sequence[Mapping[str, Any]], reader: Reader, recipe: Recipe
) -> Examples:
    """Records as the recipe's `data:` section shows them in training."""
    data = recipe.data
    return Examples(
        captioner,
        records,
        reader,
        cache_gib=data.cache_gib,
        shuffle_frames=data.shuffle_frames,
        seed=recipe.seed,
    )


class LengthGroupedBatches(BatchSampler):
    """One process's batches of rows of like length in random order, deterministic in (seed, epoch); see
    `rows.bucketed`.

    The rows of an optimiser step are drawn together and then cut into batches, so that a step holds the same rows
    whether they come as 8 x 1, as 1 x 8 accumulated, or as 4 on each of two processes. The smaller step of an epoch is
    cut into as many parts as the others, or comes last where it has too few rows; rows come twice only where there are
    fewer than processes. Windows of rows are drawn and measured as they come, so that start-up does not read the data
    set.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        length: Callable[[int], int],
        *,
        seed: int = 0,
        accumulation: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.count, self.batch_size, self.length, self.seed = count, batch_size, length, seed
        self.accumulation, self.rank, self.ranks = accumulation, rank, ranks
        self.epoch = 0
        self.drop_last = False

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimiser step, over all processes."""
        return self.batch_size * self.accumulation * self.ranks

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.rows_per_step)
        return whole * self.accumulation + len(self._mine(list(range(rest))))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the trainer calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        last: list[int] = []
        for step in self._steps():
            if len(step) < self.accumulation * self.ranks:
                last = step  # it would move the bounds of the steps after it
            else:
                yield from self._mine(step)
        yield from self._mine(last)

    def _steps(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(hash_seed(self.seed, self.epoch))
        order = torch.randperm(self.count, generator=generator)
        size = WINDOW * self.rows_per_step
        for start in range(0, self.count, size):
            window = order[start : start + size].tolist()
            lengths = [self.length(i) for i in window]
            for step in rows.bucketed(lengths, self.rows_per_step, seed=start, epoch=self.epoch):
                yield [window[at] for at in step]

    def _mine(self, step: list[int]) -> list[list[int]]:
        """This process's batches of one step's rows, as many as every other process has."""
        rounds = min(self.accumulation, -(-len(step) // self.ranks))
        parts = [part.tolist() or step[:1] for part in np.array_split(step, rounds * self.ranks)] if step else []
        return parts[self.rank :: self.ranks]
