"""The processes of one run under torchrun or accelerate: which one this is, waiting for all, sharing out work.

Alone, everything here returns at once and imports no torch. Run folders lie on a disk that all processes see.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_")
"""Beginnings of the variables by which a launcher tells a process that it is one of several."""
PATIENCE_HOURS = 6  # others wait while the main process renders clips or makes pairs; NCCL's default is 10 minutes


def number() -> int:
    """This process among all, 0 is the main one; known before torch is imported."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes files and talks."""
    return number() == 0


def environment_alone() -> dict[str, str]:
    """The environment without what a launcher sets, for a process that is none of the run's."""
    return {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}


def on_cpu() -> bool:
    """Whether the run computes on the CPU: no CUDA device, or accelerate's own switch for it."""
    import torch

    return not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1")


def sharded() -> bool:
    """Whether the launcher shares weights or optimiser states out among processes: DeepSpeed or FSDP."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true" for name in ("DEEPSPEED", "FSDP"))


def device() -> torch.device:
    """Where this process computes."""
    import torch

    return torch.device("cpu") if on_cpu() else torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def wait() -> None:
    """Until every process is here."""
    if count() > 1:
        join().wait_for_everyone()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block before all others, which then find its files there."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def gathered(value: Result) -> list[Result]:
    """The values of all processes, in their order, on every one of them."""
    if count() == 1:
        return [value]
    import torch

    join()
    if not on_cpu():
        torch.cuda.set_device(device())  # NCCL sends objects through the current device
    values: list[Any] = [None] * count()
    torch.distributed.all_gather_object(values, value)
    return values


def share(items: Sequence[Item]) -> list[Item]:
    """This process's part of the items: every n-th. All parts are of one length, so that all processes make the same
    calls; where the items do not divide, the last parts repeat the first items."""
    size = -(-len(items) // count())
    return [items[(number() + at * count()) % len(items)] for at in range(size)]


def spread(function: Callable[[list[Item]], Sequence[Result]], items: Sequence[Item]) -> list[Result]:
    """`function(items)`, one result per item, with the items shared out among the processes; whole on every one."""
    if count() == 1:
        return list(function(list(items)))
    parts = gathered(list(function(share(items))))
    return [parts[at % count()][at // count()] for at in range(len(items))]


def join():
    """accelerate's state, with its process group joined; gloo where there is no GPU, which accelerate alone would not
    start under torchrun."""
    from datetime import timedelta

    from accelerate import PartialState

    return PartialState(cpu=on_cpu(), timeout=timedelta(hours=PATIENCE_HOURS))
