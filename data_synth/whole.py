"""Files appear whole, by rename: a process that is killed never leaves half of one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def whole(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write that is there, complete, only after the block ended well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
