"""Files of the work folder, each whole or not there; and waiting for those of other ranks."""

import io
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_synth.whole import whole


def whole_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with whole(path) as file:
        file.write((json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode())


def whole_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON lines, compressed (zstd), whole or not at all; the same rows give the same bytes."""
    with whole(path) as file, pa.CompressedOutputStream(pa.PythonFile(file, mode="w"), "zstd") as stream:
        for row in rows:
            stream.write((json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n").encode())


def lines_of(path: Path) -> Iterator[Any]:
    """The rows of a file of whole_lines."""
    with pa.input_stream(str(path), compression="zstd") as stream:
        for line in io.TextIOWrapper(stream, encoding="ascii"):
            yield json.loads(line)


def wait_for(path: Path, accept=lambda path: True) -> None:
    """Wait until another rank has written a file; ranks may sit on different machines, so nothing but files is shared.

    The launcher ends all ranks when one of them fails.
    """
    pause = 0.05
    while not (path.is_file() and accept(path)):
        time.sleep(pause)
        pause = min(1.0, pause * 1.05)  # a twentieth of the time waited until then, which is what waiting costs
