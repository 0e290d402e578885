"""A scoring job writes every row once, whatever interrupts it."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reward_models.serving import scoring_job
from reward_models.serving.calling import RewardUnusable, Row
from reward_models.serving.scoring_job import Item, score_file

JOB = {"reward": "length"}


def length(*, prompts, completions, **columns):
    return [float(len(one)) if one else None for one in completions]


def items(n, start=0):
    return [Item(f"item {k}", lambda k=k: Row("", "x" * k)) for k in range(start, n)]


def stored(path):
    rows = pq.read_table(path).to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["score"] for row in rows}


def test_every_item_has_its_row_and_none_is_not_zero(tmp_path):
    out = tmp_path / "scores.parquet"
    found = score_file(length, items(5), out, job=JOB, batch_size=2)
    assert (found.rows, found.scored, found.masked, found.added) == (5, 4, 1, 5)
    assert found.mean == (1 + 2 + 3 + 4) / 4  # the masked row is no 0
    assert pq.read_table(out).to_pylist()[:2] == [
        {"id": "item 0", "score": None, "error": scoring_job.NO_SCORE},
        {"id": "item 1", "score": 1.0, "error": None},
    ]
    assert pq.read_schema(out).names == ["id", "score", "error"]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_nothing_scored_has_no_mean(tmp_path):
    found = score_file(length, items(1), tmp_path / "s.parquet", job=JOB)
    assert math.isnan(found.mean) and found.reasons == {scoring_job.NO_SCORE: 1}


def test_an_item_that_cannot_be_read_is_masked_with_its_reason(tmp_path):
    def broken():
        raise OSError("truncated")

    out = tmp_path / "s.parquet"
    score_file(length, [*items(2), Item("b", broken), *items(3, 2)], out, job=JOB)
    rows = pq.read_table(out).to_pylist()
    assert [row["id"] for row in rows] == ["item 0", "item 1", "b", "item 2"]
    assert rows[2] == {"id": "b", "score": None, "error": "truncated"}


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_an_interrupted_job_goes_on_with_what_is_left(tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(scoring_job, "SHARD_SECONDS", seconds)
    out, seen = tmp_path / "s.parquet", []

    def failing(*, prompts, completions):
        if len(seen) >= 12:
            raise RewardUnusable("the token was refused")
        seen.extend(completions)
        return [float(len(one)) for one in completions]

    with pytest.raises(RewardUnusable):
        score_file(failing, items(30), out, job=JOB, batch_size=4)
    assert not out.exists()
    seen.clear()
    monkeypatch.setattr(scoring_job, "SHARD_SECONDS", 1e9)
    found = score_file(lambda **given: seen.extend(given["completions"]) or length(**given), items(30), out, job=JOB)
    assert len(seen) == 18 and (found.rows, found.added) == (30, 18)
    assert stored(out) == {f"item {k}": float(k) for k in range(30)}
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]


def test_a_finished_job_takes_what_is_new(tmp_path):
    out = tmp_path / "s.parquet"
    score_file(length, items(3), out, job=JOB)
    found = score_file(length, items(5), out, job=JOB)
    assert (found.rows, found.added) == (5, 2) and len(stored(out)) == 5
    assert score_file(length, items(5), out, job=JOB).added == 0


def test_masked_rows_are_scored_again_when_asked(tmp_path):
    out = tmp_path / "s.parquet"
    away = score_file(
        lambda **given: [None if len(one) % 2 else 7.0 for one in given["completions"]], items(6), out, job=JOB
    )
    assert away.masked == 3
    assert score_file(length, items(6), out, job=JOB).masked == 3
    again = score_file(length, items(6), out, job=JOB, retry_masked=True)
    assert (again.rows, again.masked, again.added) == (6, 0, 3)
    assert stored(out) == {f"item {k}": float(k) if k % 2 else 7.0 for k in range(6)}


def test_scores_of_two_jobs_never_mix(tmp_path):
    out = tmp_path / "s.parquet"
    score_file(length, items(3), out, job=JOB)
    with pytest.raises(ValueError, match="holds the scores of another job"):
        score_file(length, items(3), out, job={"reward": "other"})
    assert not out.with_name("s.parquet.parts").exists()
    with pytest.raises(RewardUnusable):
        score_file(lambda **_: _raise(RewardUnusable("no")), items(3), tmp_path / "t.parquet", job=JOB)
    with pytest.raises(ValueError, match=r"t.parquet.parts: holds the scores of another job"):
        score_file(length, items(3), tmp_path / "t.parquet", job={"reward": "other"})


def _raise(error):
    raise error


def test_a_file_that_is_not_ours_is_left_alone(tmp_path):
    for out, write in (
        (tmp_path / "a.parquet", lambda path: pq.write_table(pa.table({"id": ["x"]}), path)),
        (tmp_path / "b.parquet", lambda path: path.write_text("mine")),
    ):
        write(out)
        before = out.read_bytes()
        with pytest.raises(ValueError, match="no scores of `rlkit reward score`"):
            score_file(length, items(3), out, job=JOB)
        assert out.read_bytes() == before


def test_an_id_that_comes_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the id 'item 1' comes twice"):
        score_file(length, [*items(3), items(2)[1]], tmp_path / "s.parquet", job=JOB)


def test_two_processes_do_not_score_into_one_file(tmp_path):
    out = tmp_path / "s.parquet"

    def reenter(*, prompts, completions):
        with pytest.raises(ValueError, match="another process scores into it"):
            score_file(length, items(1), out, job=JOB)
        return [1.0] * len(completions)

    assert score_file(reenter, items(1), out, job=JOB).scored == 1


def test_items_are_read_batch_by_batch(tmp_path):
    held, most = set(), []

    def item(k):
        def read():
            held.add(k)
            return Row("", "x")

        return Item(str(k), read)

    def score(*, prompts, completions):
        most.append(len(held))
        held.clear()
        return [1.0] * len(completions)

    score_file(score, (item(k) for k in range(50)), tmp_path / "s.parquet", job=JOB, batch_size=8)
    assert most == [8] * 6 + [2]


def test_half_a_surrogate_in_a_message_stops_nothing(tmp_path):
    def score(**_):
        raise ValueError("\ud83d")

    assert score_file(score, items(1), tmp_path / "s.parquet", job=JOB).reasons == {"ValueError: ?": 1}


def shared(world, out, seen, number=30, **options):
    """`world` threads as the processes of one job; the summary of the first, and how many items each scored."""
    barrier = threading.Barrier(world, timeout=20)

    def one(rank):
        def score(*, prompts, completions):
            seen.extend(completions)
            return [float(len(text)) for text in completions]

        return score_file(
            score, items(number), out, job=JOB, batch_size=4, rank=rank, world=world, wait=barrier.wait, **options
        )

    with ThreadPoolExecutor(world) as pool:
        found = list(pool.map(one, range(world)))
    assert found[1:] == [None] * (world - 1)
    return found[0]


def test_processes_share_the_items_and_lose_and_double_none(tmp_path):
    out, seen = tmp_path / "s.parquet", []
    found = shared(3, out, seen)
    assert (found.rows, found.scored, found.added) == (30, 30, 30) and len(seen) == 30
    assert stored(out) == {f"item {k}": float(k) for k in range(30)}
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]


def test_another_number_of_processes_goes_on_with_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring_job, "SHARD_SECONDS", 0)
    out, calls = tmp_path / "s.parquet", []

    def failing(*, prompts, completions):
        if len(calls) == 2:
            raise RewardUnusable("away")
        calls.append(completions)
        return [float(len(one)) for one in completions]

    with pytest.raises(RewardUnusable):  # process 1 of 2 alone gets as far as this
        score_file(failing, items(30), out, job=JOB, batch_size=4, rank=1, world=2)
    seen = []
    found = shared(3, out, seen)
    assert (found.rows, found.added, len(seen)) == (30, 22, 22)
    assert stored(out) == {f"item {k}": float(k) for k in range(30)}
    again = shared(2, out, seen, retry_masked=True)
    assert (again.rows, again.added) == (30, 0)
