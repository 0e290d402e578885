"""Removing sources from a built folder: pairs, what a later build would take over, and a note to leave them out."""

import json
import shutil
from collections.abc import Collection
from functools import partial
from pathlib import Path

from data_synth.lineage import remove_sources
from data_synth.making import old
from data_synth.making.files import lines_of, whole_json, whole_lines


def remove(out: str | Path, source_ids: Collection[str]) -> int:
    """Remove sources and their descendants; returns the number of pairs that went. See lineage.remove_sources.

    The next build reads the captions again, and quarantines these ids without their content.
    """
    out, gone = Path(out), frozenset(source_ids)
    return remove_sources(out, gone, partial(_forget, out, gone))


def _forget(out: Path, gone: frozenset[str]) -> None:
    """What a later build would take over."""
    old.remember_removed(out, gone)
    work = out / ".work"
    for path in [*work.glob("made/*.zst"), *work.glob("old/*.zst")]:
        rows = list(lines_of(path))
        kept = [row for row in rows if row["id"] not in gone]
        if len(kept) < len(rows):
            whole_lines(path, kept)
    for name in ("rows", "rejected", "bands", "splits"):
        shutil.rmtree(work / name, ignore_errors=True)
    if (work / "plan.json").is_file():
        whole_json(work / "plan.json", {**json.loads((work / "plan.json").read_text()), "source": "removed"})
    for copy in list(out.rglob(".arrow")):
        shutil.rmtree(copy)
