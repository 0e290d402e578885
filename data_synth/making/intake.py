"""First stage: captions are read once, checked, and laid down in shards of rows; what cannot be used is set aside."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_synth.making.files import lines_of, whole_lines
from data_synth.records import Rejected
from data_synth.sources import CaptionRow
from data_synth.whole import whole


def take_in(
    rows: Iterable[CaptionRow | Rejected], work: Path, *, rows_per_shard: int, removed: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """Write rows/NNNNN of the work folder and rejected/intake; returns `{"shards", "rows", "quarantined", "reasons"}`.

    rows counts all that were read: shards hold rows - quarantined. Repeated ids, and a caption said twice of the same
    clip, are quarantined with the place of the first. Sources in `removed` are counted as quarantined, their content
    is not kept. Memory does not depend on the number of rows: ids are kept on disk.
    """
    known = sqlite3.connect(work / "ids.sqlite", isolation_level=None)
    known.executescript(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;"
        "DROP TABLE IF EXISTS ids; CREATE TABLE ids (id BLOB PRIMARY KEY, place TEXT) WITHOUT ROWID; BEGIN"
    )
    counts: dict[str, Any] = {"shards": 0, "rows": 0, "quarantined": 0, "reasons": {}}
    shard: list[CaptionRow] = []
    try:
        with whole(work / "rejected" / "intake.jsonl") as rejected:
            for row in rows:
                counts["rows"] += 1
                row = row if isinstance(row, Rejected) else _first_time(row, known, removed)
                if isinstance(row, Rejected):
                    _set_aside(row, rejected, counts)
                    continue
                shard.append(row)
                if len(shard) == rows_per_shard:
                    _write(shard, work, counts)
                    shard = []
            if shard:
                _write(shard, work, counts)
    finally:
        known.close()
        (work / "ids.sqlite").unlink(missing_ok=True)
    return counts


def _first_time(row: CaptionRow, known: sqlite3.Connection, removed: frozenset[str]) -> CaptionRow | Rejected:
    if row.id in removed:
        return Rejected(row.where, ["id: the source was removed on request."], {"id": row.id})
    seen = _earlier(known, f"id {row.id}", row.where)
    if seen:
        return Rejected(row.where, [f"id: '{row.id}' is taken by {seen} already."], asdict(row))
    seen = _earlier(known, f"row {row.content_id}", row.where)
    if seen:
        return Rejected(row.where, [f"caption: repeats {seen}, of the same clip."], asdict(row))
    return row


def _earlier(known: sqlite3.Connection, name: str, where: str) -> str | None:
    """Where a name was seen before; remembers it otherwise."""
    key = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    if known.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (key, where)).rowcount:
        return None
    return known.execute("SELECT place FROM ids WHERE id = ?", (key,)).fetchone()[0]


def _set_aside(row: Rejected, file: Any, counts: dict[str, Any]) -> None:
    file.write(row.line().encode())
    counts["quarantined"] += 1
    for name in row.fields():
        counts["reasons"][name] = counts["reasons"].get(name, 0) + 1


def _write(shard: list[CaptionRow], work: Path, counts: dict[str, Any]) -> None:
    whole_lines(work / "rows" / f"{counts['shards']:05d}.zst", (vars(row) for row in shard))
    counts["shards"] += 1


def read_rows(work: Path, shard: int) -> list[CaptionRow]:
    """The rows of a shard."""
    return [_row(line) for line in lines_of(work / "rows" / f"{shard:05d}.zst")]


def _row(line: Mapping[str, Any]) -> CaptionRow:
    return CaptionRow(**line)


def fingerprint(source: str | Path | None, folder: str | Path | None) -> str:
    """Of the files that captions come from: changes with their names, sizes and times. A hub id is its own."""
    said = []
    for path in (Path(p) for p in (source, folder) if p is not None):
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
        said += [str(path), *(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]
