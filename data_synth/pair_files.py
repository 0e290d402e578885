"""Reads preference pairs for the audit: JSONL, JSON or parquet, one file or a folder, one rejected text per pair or
several."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_synth.errors import DataError

CHOSEN = ("chosen", "caption")
REJECTED = ("rejected", "negative_caption")
OPERATOR = ("rejected_kind", "kind", "operator")
SOURCE = ("source_id", "video", "image", "videos", "images", "filename", "id")


@dataclass(frozen=True)
class Pair:
    """One chosen and one rejected text of one source."""

    source_id: str
    chosen: str
    rejected: str
    kind: str
    """The operator that made the rejected text; "pairs" where the file does not say."""


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of a file or folder; a row that has no pair in it stops with its place."""
    pairs = [pair for place, row in _rows(path) for pair in _pairs(row, place)]
    if not pairs:
        raise DataError(f"no pairs in {path}; expected rows with chosen and rejected")
    return pairs


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    """(place, row) of every row; files of a folder in the order of their names, quarantine files left out."""
    if path.is_dir():
        files = sorted(
            p
            for p in path.rglob("*")
            if p.suffix in (".parquet", ".jsonl")
            and "rejected_rows" not in p.name
            and not any(part.startswith(".") for part in p.relative_to(path).parts)
        )
        if not files:
            raise DataError(f"no .parquet and no .jsonl file in {path}; give the folder of the pairs")
        for file in files:
            yield from _rows(file)
        return
    if not path.is_file():
        raise DataError(f"no file or folder {path}; give the pairs to audit")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
        return
    if path.suffix == ".json":
        yield from _json_rows(path)
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield f"{path}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}:{number} is not JSON ({error.msg}); expected one object per line") from None


def _json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Rows of a JSON list, or of an object whose values are rows (SugarCrepe)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno} is not JSON ({error.msg}); expected a list of objects") from None
    rows = data.values() if isinstance(data, dict) else data
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _pairs(row: object, place: str) -> Iterator[Pair]:
    """The pairs of a row: one per rejected text."""
    if not isinstance(row, dict):
        raise DataError(f"{place} is a {type(row).__name__}; expected an object with chosen and rejected")
    chosen = _text(_first(row, CHOSEN, place), place, "chosen")
    rejected = _first(row, REJECTED, place)
    several = isinstance(rejected, list) and bool(rejected) and not _is_messages(rejected)
    texts = [_text(r, place, "rejected") for r in (rejected if several else [rejected])]
    kind = next((row[n] for n in OPERATOR if row.get(n)), "pairs")
    kinds = list(kind) if isinstance(kind, list) else [str(kind)] * len(texts)
    source = next((row[n] for n in SOURCE if row.get(n)), chosen)
    if len(kinds) != len(texts):
        raise DataError(f"{place} has {len(texts)} rejected texts and {len(kinds)} kinds; expected one kind per text")
    for text, name in zip(texts, kinds, strict=True):
        yield Pair(source if isinstance(source, str) else json.dumps(source), chosen, text, str(name))


def _first(row: dict, names: tuple[str, ...], place: str) -> object:
    for name in names:
        if name in row:
            return row[name]
    raise DataError(f"{place} has no field {names[0]}; its fields are {', '.join(sorted(map(str, row)))}")


def _is_messages(value: list) -> bool:
    """A list of {"role", "content"} (as dicts, or as JSON text: how the datasets library stores Json())."""
    first = value[0]
    if isinstance(first, str) and first.startswith("{"):
        try:
            first = json.loads(first)
        except json.JSONDecodeError:
            return False
    return isinstance(first, dict)


def _text(value: object, place: str, field: str) -> str:
    """The text of a string, of messages, or of one message."""
    if isinstance(value, str):
        if value[:1] in "[{":
            try:
                return _text(json.loads(value), place, field)
            except (json.JSONDecodeError, DataError):
                return value
        return value
    if isinstance(value, dict) and "content" in value:
        return _text(value["content"], place, field)
    if isinstance(value, dict) and value.get("type") == "text":
        return str(value.get("text", ""))
    if isinstance(value, dict) and "type" in value:
        return ""
    if isinstance(value, list):
        return " ".join(t for t in (_text(v, place, field) for v in value) if t)
    raise DataError(f"{place}, field {field} is a {type(value).__name__}; expected a text or messages")
