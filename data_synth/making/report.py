"""What a finished folder of pairs says of itself: audit.json on a fixed number of pairs, and the card."""

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_synth import audit
from data_synth.card import Counts, card, splits_of
from data_synth.making.files import whole_json
from data_synth.pair_files import Pair
from data_synth.records import JSON_DEPTH, REJECTED_NAME, shards_of, text_of
from data_synth.whole import whole

AUDITED = 10_000
"""Pairs that are audited; a larger set is sampled by the hash of its pairs, so that time and memory stay the same."""


def count(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of some records as JSON; those of a folder are the sum over its shards."""
    counts = Counts()
    for record in records:
        counts.add_row(record)
        counts.sources += 1  # a source has one record
    return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(counts).items()}


def write_report(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Write audit.json and README.md of a finished build; returns the audit."""
    pairs = audited(out)
    found = {"n": 0, "operators": {}, "overall": {"n": 0}, "leaks": []}
    if pairs:
        found = audit.audit(pairs, seed=seed)
        found["leaks"] = audit.leaks(found)
    whole_json(out / "audit.json", found)
    counts = Counts()
    for path in sorted((out / ".work" / "counts").glob("done-*.json")):
        counts.add(json.loads(path.read_text())["card"])
    counts.add_rejected(out / REJECTED_NAME)
    with whole(out / "README.md") as file:
        file.write(card(counts, out.resolve().name, found if pairs else None, splits_of(out)).encode())
    return found


def audited(out: Path) -> list[Pair]:
    """At most AUDITED pairs of a folder, grouped by clip: the same ones whatever the order of the rows."""
    chosen: list[tuple[int, int, Pair]] = []
    number = 0
    for record in _texts(out):
        group = next(iter([*record["videos"], *record["images"]]), record["source_id"] or record["pair_id"])
        text = text_of(record["chosen"])
        for kind, answer in zip(record["rejected_kind"], record["rejected"], strict=True):
            pair = Pair(group, text, text_of(answer), kind)
            digest = hashlib.blake2b(f"{group}\n{pair.rejected}".encode("utf-8", "surrogatepass"), digest_size=8)
            item = (-int.from_bytes(digest.digest(), "big"), number, pair)
            number += 1
            if len(chosen) < AUDITED:
                heapq.heappush(chosen, item)
            elif item > chosen[0]:
                heapq.heapreplace(chosen, item)
    return [pair for _, _, pair in sorted(chosen, key=lambda item: item[1])]


def _texts(out: Path) -> Iterator[dict[str, Any]]:
    """The columns of each record that the audit reads, some rows at a time."""
    columns = ["pair_id", "source_id", "videos", "images", "chosen", "rejected", "rejected_kind"]
    for shard in shards_of(out):
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(200, columns=columns):
                for row in batch.to_pylist():
                    yield row | {name: _decoded(row[name], JSON_DEPTH[name]) for name in ("chosen", "rejected")}


def _decoded(value: Any, depth: int) -> Any:
    if depth:
        return [_decoded(one, depth - 1) for one in value]
    return json.loads(value) if isinstance(value, str) else value
