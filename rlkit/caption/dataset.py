"""Rows for training: records and clips become tensors when asked for, in batches of like length."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, Dataset

from data_synth.records import pieces, text_of
from rlkit.caption import rows
from rlkit.caption.clips import Reader
from rlkit.models import Captioner

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


class LengthGroupedBatches(BatchSampler):
    """Batches of rows of like length in random order, deterministic in (seed, epoch); see `rows.bucketed`.

    Windows of rows are drawn and measured as they come, so that start-up does not read the data set.
    """

    def __init__(self, count: int, batch_size: int, length: Callable[[int], int], *, seed: int = 0) -> None:
        self.count, self.batch_size, self.length, self.seed = count, batch_size, length, seed
        self.epoch = 0
        self.drop_last = False

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the trainer calls this."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(hash_seed(self.seed, self.epoch))
        order = torch.randperm(self.count, generator=generator).tolist()
        size = WINDOW * self.batch_size
        for start in range(0, self.count, size):
            window = order[start : start + size]
            for batch in rows.bucketed([self.length(i) for i in window], self.batch_size, seed=start, epoch=self.epoch):
                yield [window[at] for at in batch]
