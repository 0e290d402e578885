"""Batches: every row once an epoch, the same after a resume, like lengths together, like answers not."""

from types import SimpleNamespace

import pytest

from data_synth.records import make_record
from rlkit.caption.clips import world_clips
from rlkit.caption.dataset import Examples, LengthGroupedBatches
from rlkit.recipe import Data, Noise
from rlkit.running.progress import Progress

NUMBERS = ("One.", "Two.", "Three.", "Four.")


def examples(answers):
    records = [make_record("How many?", answer, [], videos=["a.mp4"]) for answer in answers]
    return Examples(SimpleNamespace(), records, SimpleNamespace())


def test_every_row_once_and_another_order_each_epoch():
    batches = LengthGroupedBatches(1000, 16, lambda index: index % 3, seed=1)
    first = list(batches)
    assert sorted(index for batch in first for index in batch) == list(range(1000))
    assert first == list(batches)
    batches.set_epoch(1)
    assert first != list(batches)
    assert len(batches) == len(first) == 63


@pytest.mark.parametrize("count", [96, 100, 97])
@pytest.mark.parametrize(("batch_size", "accumulation", "ranks"), [(1, 8, 1), (4, 1, 2), (2, 2, 2), (1, 2, 4)])
def test_a_step_holds_the_same_rows_however_they_are_cut(count, batch_size, accumulation, ranks):
    lengths = [index % 5 for index in range(count)]
    whole = list(LengthGroupedBatches(count, 8, lengths.__getitem__, seed=3))
    shares = [
        LengthGroupedBatches(
            count, batch_size, lengths.__getitem__, seed=3, accumulation=accumulation, rank=rank, ranks=ranks
        )
        for rank in range(ranks)
    ]
    batches = [list(share) for share in shares]
    assert {len(one) for one in batches} == {len(share) for share in shares} == {-(-count // 8) * accumulation} or (
        count % 8 < accumulation * ranks
    )
    assert all(0 < len(batch) <= batch_size for one in batches for batch in one)
    steps = [
        sorted(index for one in batches for batch in one[at : at + accumulation] for index in batch)
        for at in range(0, len(batches[0]), accumulation)
    ]
    rest = count % 8
    if rest == 0 or rest >= accumulation * ranks:
        assert steps == [sorted(step) for step in whole]
    else:  # too few rows for every part: the same step, but last
        full = [sorted(step) for step in whole if len(step) == 8]
        assert steps[:-1] == full
        assert set(steps[-1]) == set(next(step for step in whole if len(step) == rest))


def test_rows_of_like_length_share_a_batch():
    lengths = [index % 5 for index in range(800)]
    spreads = [len({lengths[i] for i in batch}) for batch in LengthGroupedBatches(800, 16, lengths.__getitem__)]
    assert sum(spread > 1 for spread in spreads) <= 5  # at most one mixed batch between two lengths


def test_short_answers_are_not_sorted_by_what_they_say():
    answers = [NUMBERS[index % 4] for index in range(640)]
    rows = examples(answers)
    batches = list(LengthGroupedBatches(len(rows), 32, rows.length))
    assert min(len({answers[i] for i in batch}) for batch in batches) >= 3


@pytest.mark.parametrize(("answer", "expected"), [("x" * 10, 0), ("x" * 300, 1), ("x" * 1000, 3)])
def test_length_counts_all_answers_in_bins(answer, expected):
    assert examples([answer]).length(0) == expected


def test_without_noise_the_world_trains_on_true_captions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Progress("test", rank=1) as progress:
        quiet = world_clips(Data(num_clips=6), "train", 6, progress, workers=1)
        noisy = world_clips(Data(num_clips=6, noise=Noise()), "train", 6, progress, workers=1)
    assert all(row["caption"] == row["true_caption"] for row in quiet)
    assert any(row["caption"] != row["true_caption"] for row in noisy)
