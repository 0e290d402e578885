"""What follows from where pairs came from: removing a source with all that descends from it, and splits by group."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_synth.errors import DataError
from data_synth.records import (
    REJECTED_NAME,
    Rejected,
    content_id,
    read_records,
    shards_of,
    write_shard,
)
from data_synth.whole import whole

REMOVING_NAME = "removing.json"
SHINGLE = 4  # words, or characters of Chinese, per shingle
PERMUTATIONS = 128


def remove_sources(folder: str | Path, source_ids: Collection[str], also: Callable[[], object] | None = None) -> int:
    """Remove all pairs that descend from these sources, directly or through other pairs; returns how many went.

    A pair descends from a source when its source_id names it, or its source_id or parent_id names a removed pair. A
    rejected answer that borrows words of a removed source (`borrowed_from` in its edit) goes as well, and with the last
    one its pair. Quarantined rows of these sources go too. Shards without a descendant keep their bytes. A source that
    nothing descends from is an error, so that a mistyped id is not taken for done.

    `also` is called when they are gone. What goes is noted in removing.json until then: where this was killed, the same
    call goes on, though the sources themselves may be gone already and only their descendants are left.
    """
    folder, wanted = Path(folder), set(source_ids)
    note = folder / REMOVING_NAME
    begun = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {"sources": [], "pairs": []}
    records = read_records(folder)
    lineage = records.select_columns(["pair_id", "source_id", "parent_id", "edit"])
    found = {row["source_id"] for row in lineage}
    found |= {lender for row in lineage for lender in _lenders(row)}
    found |= {str(bad.row.get(key)) for bad in _quarantine(folder) if bad.row for key in ("source_id", "id")}
    missing = wanted - found - set(begun["sources"])
    if missing:
        raise DataError(f"{folder}: no pair has the source_id {', '.join(map(repr, sorted(missing)))}.")
    wanted |= set(begun["sources"])
    gone, parents, size = set(begun["pairs"]), wanted | set(begun["pairs"]), -1
    while len(gone) > size:  # until no further pair descends from a removed one
        size = len(gone)
        for row in lineage:
            if row["source_id"] in parents or row["parent_id"] in gone:
                gone.add(row["pair_id"])
        parents |= gone
    with whole(note, "w") as file:
        json.dump({"sources": sorted(wanted), "pairs": sorted(gone)}, file)
    number = 0
    for shard in shards_of(folder):
        rows = read_records(shard)
        touched = [row["pair_id"] in gone or bool(wanted & set(_lenders(row))) for row in rows]
        if any(touched):
            kept = [_without(row, gone, wanted) for row in rows]
            number += sum(row is None for row in kept)
            write_shard(shard, [row for row in kept if row is not None])
    _write_quarantine(folder, parents)
    if also is not None:
        also()
    note.unlink()
    return number


def _lenders(row: Mapping[str, Any]) -> list[str]:
    """Sources whose words stand in a rejected answer."""
    return [edit["borrowed_from"] for edit in row["edit"] or [] if edit and edit.get("borrowed_from")]


def _without(row: dict[str, Any], gone: Collection[str], wanted: Collection[str]) -> dict[str, Any] | None:
    """The record without answers that borrow from a removed source; None where nothing is left."""
    if row["pair_id"] in gone:
        return None
    stays = [k for k, edit in enumerate(row["edit"]) if (edit or {}).get("borrowed_from") not in wanted]
    if len(stays) == len(row["edit"]):
        return row
    lists = {name: [row[name][k] for k in stays] for name in ("rejected", "rejected_kind", "rejected_weight", "edit")}
    scores = {name: _of(value, stays, len(row["edit"])) for name, value in (row["scores"] or {}).items()}
    return {**row, **lists, "scores": scores} if stays else None


def _of(value: Any, stays: list[int], count: int) -> Any:
    """A score per answer, of the answers that stay; one with the chosen answer in front keeps that."""
    if not isinstance(value, list) or len(value) not in (count, count + 1):
        return value
    front = len(value) - count
    return value[:front] + [value[front + k] for k in stays]


def _quarantine(folder: Path) -> Iterator[Rejected]:
    path = folder / REJECTED_NAME
    if path.exists():
        with path.open(encoding="ascii") as file:
            for line in file:
                bad = Rejected(**json.loads(line))
                yield bad if isinstance(bad.row, Mapping) else Rejected(bad.where, bad.reasons, {})


def _write_quarantine(folder: Path, gone: Collection[str]) -> None:
    """The quarantine file without the rows of removed sources, byte for byte as it was otherwise."""
    path = folder / REJECTED_NAME
    if not path.exists():
        return
    with path.open(encoding="ascii") as old, whole(path, "w") as new:
        for line in old:
            row = json.loads(line).get("row")
            names = [row.get(key) for key in ("source_id", "id")] if isinstance(row, Mapping) else []
            if not any(str(name) in gone for name in names):
                new.write(line)


def shingles(text: str) -> set[str]:
    """Runs of SHINGLE words (single characters where there are no spaces), lower-cased, without punctuation."""
    words = re.findall(r"[\u3040-\u30ff\u4e00-\u9fff]|\w+", text.lower())
    if len(words) <= SHINGLE:
        return {" ".join(words)}
    return {" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)}


def split_of(group: str, fractions: Mapping[str, float], *, seed: int = 0) -> str:
    """The split a group belongs to, for example {"train": .9, "test": .1}: a pure function of its name, so that adding
    data never moves old data from one split to another."""
    total = sum(fractions.values())
    if not fractions or not abs(total - 1) < 1e-6:
        raise DataError(f"fractions: add up to {total:g}, expected 1.")
    place, reached = int(content_id(seed, group)[:12], 16) / 16**12, 0.0
    for name, fraction in fractions.items():
        reached += fraction
        if place < reached:
            return name
    return name
