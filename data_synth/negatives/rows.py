"""Rows of a caption file: read one by one, checked, and either usable or named with the field and the reason why
not."""

import json
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LONGEST = 20_000
"""Characters of a caption; longer ones are documents, not descriptions of a clip."""
ID_FIELDS = ("id", "source_id", "video", "image")
"""Where the id of a row may stand, in this order."""
OUTPUT_FIELDS = {"source_id", "chosen", "rejected", "kind", "edit", "why"}

_HAN = re.compile(r"[\u3400-\u9fff]")
_LATIN_WORD = re.compile(r"[A-Za-z]{2,}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass
class Row:
    """One line of the input."""

    number: int
    """1-based line number."""
    raw: str
    source_id: str = ""
    text: str = ""
    sentences: list[str] = field(default_factory=list)
    passed: dict = field(default_factory=dict)
    """The other fields, copied to the output and never read."""
    field: str = ""
    reason: str = ""
    """Empty for a usable row; else what is wrong, in one sentence."""

    def quarantined(self) -> dict:
        """The line of the quarantine file: where, what, why, and the row itself."""
        return {"row": self.number, "field": self.field, "reason": self.reason, "id": self.source_id, "raw": self.raw}


def read_rows(path: Path, seen: sqlite3.Connection) -> Iterator[Row]:
    """Rows of a JSONL file; blank lines are skipped. `seen` keeps the ids on disk, so that memory stays constant."""
    seen.execute("create table if not exists ids (id text primary key) without rowid")
    seen.execute("pragma journal_mode = off")
    seen.execute("pragma synchronous = off")
    seen.execute("begin")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            row = check(number, line)
            if not row.reason and not seen.execute("insert or ignore into ids values (?)", (row.source_id,)).rowcount:
                row.field, row.reason = (
                    "id",
                    f"the id {row.source_id!r} stands in an earlier row; give every row its own",
                )
            yield row


def check(number: int, line: bytes) -> Row:
    """One line as a `Row`, with field and reason set where it cannot be used."""
    raw = line.decode("utf-8", errors="backslashreplace").rstrip("\r\n")
    row = Row(number, raw)
    try:
        data = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return _bad(row, "", f"byte {error.start} is not UTF-8; save the file as UTF-8")
    except (json.JSONDecodeError, RecursionError) as error:
        return _bad(row, "", f"not JSON ({error}); expected one object per line")
    if not isinstance(data, dict):
        return _bad(row, "", f"a JSON {type(data).__name__}, expected an object with id and caption or sentences")
    row = _identified(row, data)
    if row.reason:
        return row
    name = "sentences" if "sentences" in data else "caption"
    if name not in data:
        return _bad(row, "caption", f"no caption and no sentences among the fields {sorted(map(str, data))[:8]}")
    if "sentences" in data and "caption" in data:
        return _bad(row, "caption", "both caption and sentences are given; keep one of them")
    reason = _sentences_reason(data[name]) if name == "sentences" else text_reason(data[name])
    if reason:
        return _bad(row, name, reason)
    if name == "sentences":
        row.sentences = [s.strip() for s in data[name]]
        whole = " ".join(row.sentences)
        row.text = whole if whole.isascii() or not _HAN.search(whole) else "".join(row.sentences)
    else:
        row.text = data[name]
    row.passed = _passed(data, name)
    return row


def _identified(row: Row, data: dict) -> Row:
    """Set the id from the first id field; a number is fine, an empty or a nested one is not."""
    name = next((n for n in ID_FIELDS if n in data), "")
    if not name:
        return _bad(row, "id", f"no id among the fields {sorted(map(str, data))[:8]}; every row needs one")
    value = data[name]
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        return _bad(row, name, f"the id is {value!r:.60}, expected a string or a number")
    row.source_id = str(value)
    if _SURROGATE.search(row.source_id):
        return _bad(row, name, "the id holds half a surrogate pair; write it as UTF-8")
    return row


def _passed(data: dict, name: str) -> dict:
    """The fields that pass through; one that the output uses itself gets the prefix input_."""
    used = {name, "id"}
    return {(f"input_{k}" if k in OUTPUT_FIELDS else k): v for k, v in data.items() if k not in used}


def _sentences_reason(value: object) -> str:
    """What is wrong with a `sentences` field; "" when nothing is."""
    if not isinstance(value, list):
        return f"sentences is a {type(value).__name__}, expected a list of strings"
    if not value:
        return "sentences is empty, expected at least one"
    for k, sentence in enumerate(value):
        if not isinstance(sentence, str):
            return f"sentence {k} is a {type(sentence).__name__}, expected a string"
        if not sentence.strip():
            return f"sentence {k} is blank"
    return text_reason(" ".join(value))


def text_reason(value: object) -> str:
    """What is wrong with a caption; "" when nothing is."""
    if not isinstance(value, str):
        return f"the caption is a {type(value).__name__}, expected a string"
    if not value.strip():
        return "the caption is blank"
    if len(value) > LONGEST:
        return f"the caption has {len(value)} characters, more than {LONGEST}"
    if value.isprintable():  # neither half pairs nor control characters, and sooner known
        return _language_reason(value)
    if _SURROGATE.search(value):
        return "the caption holds half a surrogate pair; write it as UTF-8"
    found = _CONTROL.search(value)
    if found:
        return f"the caption holds the control character U+{ord(found.group()):04X} at {found.start()}; remove it"
    return _language_reason(value)


def _language_reason(text: str) -> str:
    """English or Chinese, not both in equal parts and nothing else."""
    if text.isascii():
        return "" if _LATIN_WORD.search(text) else "the caption holds no word"
    han, latin = len(_HAN.findall(text)), len(_LATIN_WORD.findall(text))
    other = sum(c.isalpha() and not c.isascii() and not _HAN.match(c) for c in text)
    foreign = (
        sum(
            1
            for c in text
            if c.isalpha() and not c.isascii() and not unicodedata.name(c, "").startswith(("LATIN", "CJK", "FULLWIDTH"))
        )
        if other
        else 0
    )
    if not han and not latin and not foreign:
        return "the caption holds no word"
    if foreign > max(han, 4 * latin):
        return "the caption is neither English nor Chinese; only these two are read"
    if min(latin, foreign) >= 3 or (latin >= 4 and han >= 4 and min(latin, han / 2) > 0.4 * max(latin, han / 2)):
        return "the caption mixes two languages; give one caption per language"
    return ""


def _bad(row: Row, field_name: str, reason: str) -> Row:
    """The row, marked as unusable."""
    row.field, row.reason = field_name, reason
    return row
