"""Sampled pictures on disk, in shards that are written whole, and what the ledger says of each."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rlkit.bootstrap.ledger import LINEAGE

SHARD_NAME = "samples-{:05d}.parquet"
SAMPLES = pa.schema(
    [
        ("number", pa.int64()),  # in its round
        ("prompt", pa.string()),  # without the trigger
        ("seed", pa.int64()),  # of its noise
        ("png", pa.binary()),
        ("scores", pa.list_(pa.float64())),  # one a reward, null where it gave none
    ]
)
LEDGER = pa.schema(
    [
        *LINEAGE,
        ("prompt", pa.string()),
        ("shard", pa.string()),  # where the picture is, from the run folder
    ]
)


def read_samples(folder: Path, shards: int) -> list[dict[str, Any]]:
    """The rows of all shards, in the order of their numbers."""
    return [row for number in range(shards) for row in pq.read_table(folder / SHARD_NAME.format(number)).to_pylist()]


def pixels(row: Mapping[str, Any]) -> np.ndarray:
    """A row's picture, uint8 RGB [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(row["png"])).convert("RGB"))
