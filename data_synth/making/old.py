"""What an earlier build of the same folder made: looked up by row, so that only new and changed rows are made anew."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_synth.making.files import lines_of, whole_json
from data_synth.sources import CaptionRow

REMOVED_NAME = "removed_sources.json"


def keep(work: Path) -> None:
    """Set the candidates of the earlier build aside; the newest complete ones are kept."""
    if (work / "made").is_dir():
        shutil.rmtree(work / "old", ignore_errors=True)
        (work / "made").rename(work / "old")


def index(work: Path) -> None:
    """Make old/index.sqlite, from which every rank and worker reads; nothing where there is no earlier build."""
    if not (work / "old").is_dir():
        return
    aside = work / "old" / ".index.part"
    aside.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as base:
        base.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;"
            "CREATE TABLE made (id TEXT PRIMARY KEY, parent TEXT, line TEXT) WITHOUT ROWID; BEGIN"
        )
        for path in sorted((work / "old").glob("*.zst")):
            rows = ((one["id"], one["parent"], json.dumps(one)) for one in lines_of(path))
            base.executemany("INSERT OR REPLACE INTO made VALUES (?, ?, ?)", rows)
        base.execute("COMMIT")
    aside.replace(work / "old" / "index.sqlite")


@contextlib.contextmanager
def opened(work: Path) -> Iterator[sqlite3.Connection | None]:
    """The index, or None."""
    path = work / "old" / "index.sqlite"
    if not path.is_file():
        yield None
        return
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as base:
        yield base


def found(known: sqlite3.Connection | None, row: CaptionRow) -> dict[str, Any] | None:
    """What was made of this very row; None where it is new or changed."""
    if known is None:
        return None
    line = known.execute("SELECT line FROM made WHERE id = ? AND parent = ?", (row.id, row.content_id)).fetchone()
    return json.loads(line[0]) if line else None


def removed(out: Path) -> frozenset[str]:
    """Ids of sources that were removed on request; later builds leave them out."""
    path = out / REMOVED_NAME
    return frozenset(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else frozenset()


def remember_removed(out: Path, source_ids: frozenset[str]) -> None:
    """Add to the ids that later builds leave out."""
    whole_json(out / REMOVED_NAME, sorted(removed(out) | source_ids))
