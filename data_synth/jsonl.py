"""JSON lines as users have them: every line is either an object or a reason why it is none."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_synth.errors import DataError
from data_synth.records import Rejected

MAX_LINE = 4 << 20  # bytes; a longer line is no caption


def read_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    """(file:line, object) for each line that is not blank; a broken line gives Rejected, and the next one goes on."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSON lines, one object each.")
    with path.open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{path}: is UTF-16, expected UTF-8; save it as UTF-8.")
        file.seek(0)
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            where = f"{path}:{number}"
            if len(line) > MAX_LINE:
                start = line[:1000].decode("utf-8", "replace")
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE)
                yield where, Rejected(where, [f"line: has more than {MAX_LINE} bytes."], start)
                continue
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # the mark Windows editors put first
            if line.strip():
                yield where, _parse(line, where)


def _parse(line: bytes, where: str) -> dict[str, Any] | Rejected:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        bad = line[error.start]
        reason = f"line: not UTF-8, byte 0x{bad:02X} at {error.start}; save the file as UTF-8."
        return Rejected(where, [reason], line.decode("utf-8", "backslashreplace").strip())
    try:
        row = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        return Rejected(where, [f"line: not JSON, {error.msg} at column {error.colno}."], text)
    except (ValueError, RecursionError) as error:  # NaN, a repeated key, nested too deeply, a number of 5,000 digits
        return Rejected(where, [f"line: {str(error).split(';')[0]}."], text)
    if not isinstance(row, dict):
        return Rejected(where, [f'line: found {type(row).__name__}, expected an object like {{"caption": ...}}.'], row)
    return row


def _no_constant(name: str):
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(n for n in names if names.count(n) > 1)}' appears twice")
    return row
