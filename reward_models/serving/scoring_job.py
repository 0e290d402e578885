"""Score many items into one parquet file: goes on after an interruption, loses and doubles nothing, counts what failed.

    found = score_file(score, items, "scores.parquet", job={"reward": "aesthetic"})
    found.scored, found.masked, found.reasons

Columns of the file: `id`, `score` (null: masked, never 0) and `error` (why). While the job runs, finished shards lie in
`scores.parquet.parts/`; the same job started again goes on with the ids that are not there, be it with another number
of processes. An item is the business of one process, by its id. Memory holds one batch, one shard, and about 200 bytes
per id.
"""

import hashlib
import json
import math
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reward_models import Score
from reward_models.serving.calling import Outcome, Row, outcomes

SCHEMA = pa.schema([("id", pa.string()), ("score", pa.float64()), ("error", pa.string())])
JOB = b"rlkit_job"  # in the metadata of the file
SHARD_ROWS, SHARD_SECONDS = 50_000, 10.0  # a shard is written at either; the seconds are what a kill costs
NO_SCORE = "the reward gives no score"
Spread = Callable[[Iterator[list["Item"]]], Iterable[tuple[list["Item"], list[Outcome]]]]
"""Batches of items -> each with its outcomes, in the same order."""


@dataclass(frozen=True)
class Item:
    """One thing to score. `read` opens its files once it is its turn; where it raises ValueError or OSError, the item
    is masked for that reason."""

    id: str
    read: Callable[[], Row]


@dataclass(frozen=True)
class Summary:
    """The file as it is now. `mean` is over the rows with a score; `added` of the rows are of this call."""

    rows: int
    scored: int
    masked: int
    added: int
    mean: float
    reasons: dict[str, int]
    """The most frequent reasons of masked rows."""
    seconds: float
    """What this call took once every process was ready to score."""


def score_file(
    score: Score | None,
    items: Iterable[Item],
    out: str | Path,
    *,
    job: Mapping[str, Any],
    batch_size: int = 32,
    retry_masked: bool = False,
    progress: Callable[[int], None] = lambda added: None,
    rank: int = 0,
    world: int = 1,
    wait: Callable[[], None] = lambda: None,
    spread: Spread | None = None,
) -> Summary | None:
    """Score the items that have no row in `out` yet, and write `out` whole. Rows stand in the order of scoring.

    job: what the scores stand for (reward, options, source of the items), plain JSON. It is kept in the file, so that
    scores of two jobs never mix. batch_size: items that are read, then scored, at once. retry_masked: also score again
    what is masked, for instance after a server was away. progress: called with the number of items scored so far.
    rank, world: this process among all that share `items`, each with a disk that all see; `wait` returns when all have
    called it. Process 0 writes `out`, the others return None. spread: has batches scored elsewhere, say by
    `score_batch`; `score` is not called then, and may be None.

    Raises ValueError where `out` or its parts are of another job, another process works on them, or an id comes twice;
    RewardUnusable where the reward does. What was scored until then is kept.
    """
    out, told = Path(out), json.dumps(dict(job), sort_keys=True)
    parts = out.with_name(out.name + ".parts")
    _check_job(out, parts, told)
    parts.mkdir(parents=True, exist_ok=True)
    with _alone(parts, rank):
        with _whole(parts / "job.json") as note:
            note.write_text(told, encoding="utf-8")
        known, first = _known(out, parts), _next_shard(parts)
        wait()  # what is known must be the same for all
        began = time.monotonic()
        left = _left(items, known, retry_masked, rank, world)
        batches = iter(lambda: list(islice(left, batch_size)), [])
        scored = spread(batches) if spread else ((batch, score_batch(score, batch)) for batch in batches)
        with _Shards(parts, first, rank) as shards:
            for batch, found in scored:
                shards.add(batch, found)
                progress(shards.added)
        wait()
        summary = None
        if rank == 0:
            summary = _merge(out, parts, told, first, began)
            shutil.rmtree(parts)
        wait()
    return summary


class _Shards:
    """Writes rows as parquet shards: now and then, and at the end, however that comes."""

    def __init__(self, folder: Path, number: int, rank: int):
        self.folder, self.number, self.rank = folder, number, rank
        self.added, self.rows, self.since = 0, [], time.monotonic()

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, *_: object) -> None:
        self.write()

    def add(self, batch: list[Item], found: list[Outcome]) -> None:
        for item, one in zip(batch, found, strict=True):
            error = None if one.score is not None else (one.error or NO_SCORE).encode("utf-8", "replace").decode()
            self.rows.append({"id": item.id, "score": one.score, "error": error})
        self.added += len(batch)
        if len(self.rows) >= SHARD_ROWS or time.monotonic() - self.since >= SHARD_SECONDS:
            self.write()

    def write(self) -> None:
        if self.rows:
            path = self.folder / f"{self.number:06}-{self.rank}.parquet"
            with _whole(path) as aside:
                pq.write_table(pa.Table.from_pylist(self.rows, SCHEMA), aside)
            self.number += 1
        self.rows, self.since = [], time.monotonic()


def score_batch(score: Score, batch: list[Item]) -> list[Outcome]:
    """Read the items and score them; what cannot be read is masked. Raises RewardUnusable where the reward does."""
    found: list[Outcome | Row] = []
    for item in batch:
        try:
            found.append(item.read())
        except (ValueError, OSError) as error:
            found.append(Outcome(error=str(error) or type(error).__name__))
    told = iter(outcomes(score, [one for one in found if isinstance(one, Row)]))
    return [next(told) if isinstance(one, Row) else one for one in found]


def _next_shard(parts: Path) -> int:
    return 1 + max((int(path.stem.partition("-")[0]) for path in parts.glob("*.parquet")), default=-1)


def _left(items: Iterable[Item], known: dict[bytes, bool], retry_masked: bool, rank: int, world: int) -> Iterator[Item]:
    met: set[bytes] = set()
    for item in items:
        key = _key(item.id)
        if key in met:
            raise ValueError(f"the id {item.id!r} comes twice; nothing could tell its two scores apart.")
        met.add(key)
        ours = int.from_bytes(key[:8]) % world == rank
        if ours and (key not in known or (retry_masked and not known[key])):
            yield item


def _known(out: Path, parts: Path) -> dict[bytes, bool]:
    """key -> whether it has a score."""
    return {_key(row["id"]): row["score"] is not None for rows in _stored(out, parts) for row in rows}


def _stored(out: Path, parts: Path) -> Iterator[list[dict[str, Any]]]:
    """The rows written so far, oldest first."""
    for path in [*([out] if out.is_file() else []), *sorted(parts.glob("*.parquet"))]:
        for batch in pq.ParquetFile(path).iter_batches(SHARD_ROWS):
            yield batch.to_pylist()


def _merge(out: Path, parts: Path, told: str, first: int, began: float) -> Summary:
    """All rows as one file; of an id that was scored again, the last. Shards from `first` on are of this call. The same
    rows give the same bytes, whatever shards they were in."""
    keys = (_key(row["id"]) for rows in _stored(out, parts) for row in rows)
    last = {key: number for number, key in enumerate(keys)}
    of_now = (path for path in parts.glob("*.parquet") if int(path.stem.partition("-")[0]) >= first)
    added = sum(pq.ParquetFile(path).metadata.num_rows for path in of_now)
    number, scored, total, reasons, pending = 0, 0, 0.0, Counter(), []
    with _whole(out) as aside, pq.ParquetWriter(aside, SCHEMA.with_metadata({JOB: told})) as writer:
        for rows in _stored(out, parts):
            kept = [row for place, row in enumerate(rows, number) if last[_key(row["id"])] == place]
            number += len(rows)
            values = [row["score"] for row in kept if row["score"] is not None]
            scored, total = scored + len(values), total + math.fsum(values)
            errors = (row["error"] for row in kept if row["score"] is None)
            reasons.update(error for error in errors if error in reasons or len(reasons) < 10_000)
            pending += kept
            while len(pending) >= SHARD_ROWS:
                writer.write_table(pa.Table.from_pylist(pending[:SHARD_ROWS], SCHEMA))
                del pending[:SHARD_ROWS]
        if pending:
            writer.write_table(pa.Table.from_pylist(pending, SCHEMA))
    mean, seconds = total / scored if scored else math.nan, time.monotonic() - began
    return Summary(len(last), scored, len(last) - scored, added, mean, dict(reasons.most_common(5)), seconds)


def _check_job(out: Path, parts: Path, told: str) -> None:
    """Raise ValueError where what is there is of another job."""
    if out.exists():
        try:
            found = (pq.read_schema(out).metadata or {}).get(JOB, b"").decode()
        except (pa.ArrowInvalid, OSError):
            found = ""
        _expect_job(out, found, told)
    note = parts / "job.json"
    if note.is_file():
        _expect_job(parts, note.read_text(encoding="utf-8"), told)


def _expect_job(path: Path, found: str, told: str) -> None:
    if found != told:
        was = f"the scores of another job, {found[:300]}" if found else "no scores of `rlkit reward score`"
        raise ValueError(f"{path}: holds {was}; this one is {told[:300]}. Choose another name, or remove it.")


def _key(id_: str) -> bytes:
    return hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Where to write a file that is there, complete, only after the block ended well."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # processes of two machines may share a number
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _alone(parts: Path, rank: int) -> Iterator[None]:
    """Hold the parts for this process of the job, until it ends in whatever way."""
    try:
        import fcntl
    except ImportError:  # Windows has none; there the user sees to it
        yield
        return
    with (parts / f".lock{rank}").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"{parts}: another process scores into it. Wait for it, or stop it first.") from None
        yield
