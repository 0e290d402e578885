"""Samples on disk, in shards that are written whole, and the ledger: where each came from and what became of it."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_synth.whole import whole

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
        ("sample_id", pa.string()),  # <run seed>-<system>-<round>-<number>
        ("run_seed", pa.int64()),
        ("system", pa.string()),
        ("round", pa.int64()),
        ("number", pa.int64()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("weights", pa.string()),  # sha256 of the adapter that drew it
        ("reward_names", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("reward", pa.float64()),  # what samples are ranked by, in spreads of the first round; null without
        ("cluster", pa.int64()),
        ("nearest_original", pa.string()),
        ("nearest_distance", pa.float64()),
        ("copy_distance", pa.float64()),  # what is nearer is a copy
        ("copy", pa.bool_()),
        ("accepted", pa.bool_()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
        ("shard", pa.string()),  # where the picture is, from the run folder
    ]
)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """One parquet file that appears whole; the same rows, the same bytes."""
    columns = [pa.array([row[name] for row in rows], schema.field(name).type) for name in schema.names]
    with whole(path) as file:
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), file, compression="zstd", write_statistics=False)


def read_samples(folder: Path, shards: int) -> list[dict[str, Any]]:
    """The rows of all shards, in the order of their numbers."""
    return [row for number in range(shards) for row in pq.read_table(folder / SHARD_NAME.format(number)).to_pylist()]


def pixels(row: Mapping[str, Any]) -> np.ndarray:
    """A row's picture, uint8 RGB [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(row["png"])).convert("RGB"))


def scores(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """[samples, rewards], NaN for null."""
    return np.array([[np.nan if one is None else one for one in row["scores"]] for row in rows], float)
