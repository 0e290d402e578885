"""What the machine did to a run, as one sentence: the disk is full or read-only, or the memory is used up.

Libraries tell a full disk in ways of their own, most of them without its number: safetensors, torch.save, numpy and
SQLite, each tried on a full file system.
"""

from __future__ import annotations

import errno
import re
import shutil
import sys
import tempfile
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rlkit.plugins import shown_path

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|database or disk is full|os error (28|122)\b"
    r"|inline_container\.cc.*unexpected pos|PytorchStreamWriter failed writing|^\d+ requested and \d+ written$"
)
MEMORY_WORDS = re.compile("DefaultCPUAllocator: (can't|not enough)|not enough memory: you tried to allocate")


def sentence(error: BaseException, folder: Path) -> str | None:
    """What to do where the disk that holds `folder`, or the file the error names, is full or cannot be written, or
    where a worker was killed; None for any other error."""
    named = Path(str(error.filename)) if isinstance(error, OSError) and error.filename else None
    if _is_full(error):
        place, free = _fullest([named.parent] if named else [folder, Path(tempfile.gettempdir())])
        return (
            f"the disk is full: {_size(free)} are free where {_shown(place)} lies{_of(named)}. What was written whole "
            "stays whole. Make room there and launch again to go on."
        )
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return f"{_shown(named or folder)}: the file system is read-only. Give another folder with out=..."
    if isinstance(error, PermissionError):
        return f"no permission to use {_shown(named or folder)}. Give another folder with out=..."
    if isinstance(error, BrokenProcessPool):
        return (
            "a worker process was killed, as the system does where memory runs out. What was written whole stays "
            "whole; launch again to go on, with fewer workers where there are keys for it (pairs.workers)."
        )
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether the GPU's memory, or that of the machine, did not suffice."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and MEMORY_WORDS.search(str(error)) is not None


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return isinstance(error, Exception) and FULL_WORDS.search(str(error)) is not None


def _fullest(places: list[Path]) -> tuple[Path, int]:
    """The place with the least room, as far as it is there, and its free bytes."""
    there = [next(one for one in (place.absolute(), *place.absolute().parents) if one.is_dir()) for place in places]
    disks = {place.stat().st_dev: place for place in reversed(there)}  # of two on one disk, the first
    return min(((place, shutil.disk_usage(place).free) for place in disks.values()), key=lambda found: found[1])


def _of(named: Path | None) -> str:
    return f" (writing {named.name})" if named else ""


def _shown(path: Path) -> str:
    shown = shown_path(path)
    return "the working directory" if shown == "." else shown


def _size(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
