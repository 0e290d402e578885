"""Ends worker processes whose parent was killed: those of a ProcessPoolExecutor would wait for work for ever."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """The `initializer` of a pool: from here on this process ends, without a word, once its parent has."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent) -> None:
    parent.join()
    os._exit(1)
