"""A function over many inputs as tasks on Ray, for a cluster of machines that share the files: `engine: ray`.

A task whose process or machine dies is run again, so the function must do the same when it is: return a value, or write
a file that appears whole. Ray is optional: pip install 'rlkit[ray]'. A local cluster is started, or the one joined that
RAY_ADDRESS names; it has `rlkit` installed on every machine.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from data_synth.errors import DataError

Input = TypeVar("Input")
Result = TypeVar("Result")
RETRIES = 3  # an input that kills four processes would kill the next one too
AHEAD = 4  # tasks per core that are under way, so that a slow one does not leave the others without work


def results(
    function: Callable[[Input], Result], inputs: Iterable[Input], *, gpus: float = 0
) -> Iterator[tuple[Input, Result]]:
    """Each input with its result, in the order of the inputs; some are read ahead. gpus: of each task.

    Raises what the function raised, and DataError where ray is missing or a task's process died RETRIES times more.
    """
    try:
        import ray
    except ImportError:
        raise DataError("engine: ray needs the package ray; install it: pip install 'rlkit[ray]'.") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)

    here = Path.cwd()

    def called(one: Input) -> Result:
        os.chdir(here)  # paths are those of the process that started it all
        return function(one)

    # as options, Ray keeps a process that holds a GPU for the next task; given to ray.remote it would end it
    task = ray.remote(called).options(num_gpus=gpus, max_retries=RETRIES)
    most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    under_way: deque = deque()
    try:
        for one in inputs:
            under_way.append((one, task.remote(one)))
            if len(under_way) >= most:
                yield _next(under_way)
        while under_way:
            yield _next(under_way)
    finally:
        for _, left in under_way:
            ray.cancel(left, force=True)


def _next(under_way: deque):
    import ray

    one, result = under_way.popleft()
    try:
        return one, ray.get(result)
    except ray.exceptions.RayTaskError as error:
        raise error.cause or error from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        said = str(error).strip().splitlines()[0]
        raise DataError(f"the process of a task on Ray died {RETRIES + 1} times ({said}).") from None
