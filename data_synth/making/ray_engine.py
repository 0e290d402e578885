"""The shard functions on Ray Data, for a cluster of CPU machines that share the folder: `engine: ray`.

Ray is optional: pip install 'rlkit[ray]'. It starts a local cluster, or joins the one that RAY_ADDRESS names.
"""

from collections.abc import Callable
from pathlib import Path

from data_synth.errors import DataError
from data_synth.making.options import Options


def run(function: Callable[[Path, Options, int], None], work: Path, options: Options, shards: list[int]) -> None:
    """Run a shard function for each shard, one task each; returns when all are done, raises the first error."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise DataError("engine: ray needs the package ray; install it: pip install 'rlkit[ray]'.") from None
    if not shards:
        return
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def one(row: dict) -> dict:
        function(work, options, int(row["shard"]))
        return row

    ray.data.from_items([{"shard": k} for k in shards], override_num_blocks=len(shards)).map(one).materialize()
