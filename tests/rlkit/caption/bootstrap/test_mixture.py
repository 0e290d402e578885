"""Every batch holds its share of corrected captions; batches follow from the seed; ranks share them out."""

from collections import Counter

import pytest

from rlkit.caption.bootstrap.mixture import MixedBatches


def batches(real=3, kept=20, size=8, *, share=0.5, count=30, seed=0, rank=0, ranks=1):
    return list(MixedBatches(real, kept, size, real_share=share, count=count, seed=seed, rank=rank, ranks=ranks))


@pytest.mark.parametrize(("share", "corrected"), [(0.5, 4), (0.3, 3), (0.0, 0), (1.0, 8)])
def test_at_least_the_share_of_every_batch_is_corrected(share, corrected):
    found = batches(share=share)
    assert len(found) == 30
    assert all(len(one) == 8 and sum(at < 3 for at in one) == corrected for one in found)


def test_with_nothing_kept_all_are_corrected_whatever_the_share():
    assert all(at < 3 for one in batches(kept=0, share=0.0) for at in one)


def test_rows_of_a_pool_come_equally_often():
    counts = Counter(at for one in batches(count=15) for at in one)  # 60 of each pool
    assert counts == {**dict.fromkeys(range(3), 20), **dict.fromkeys(range(3, 23), 3)}


def test_the_same_seed_gives_the_same_batches_and_another_gives_others():
    assert batches() == batches() != batches(seed=1)
    assert batches(count=10) == batches()[:10]  # a resumed run skips what it has seen


def test_processes_get_different_rows():
    first, second = batches(rank=0, ranks=2), batches(rank=1, ranks=2)
    assert first != second
    together = Counter(at for pair in zip(first, second, strict=True) for one in pair for at in one if at >= 3)
    assert max(together.values()) - min(together.values()) <= 1
