"""Work in several processes that survives neither its main process nor, in silence, the loss of a worker.

multiprocessing.Pool waits for ever for the answer of a worker that the system killed, and the workers of a
ProcessPoolExecutor whose main process was killed wait for ever for work.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, *, chunksize: int = 32
) -> Iterator[Result]:
    """`function(item)` in order, from fresh processes (never forked: threads may run), `chunksize` items at a time.

    Raises what `function` does, and BrokenProcessPool where a worker was killed. Who stops reading waits for nobody.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, end_with_parent) as pool:
        try:
            yield from pool.map(function, items, chunksize=chunksize)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def end_with_parent() -> None:
    """The `initializer` of a pool: from here on this process ends, without a word, once its parent has."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent) -> None:
    parent.join()
    os._exit(1)
