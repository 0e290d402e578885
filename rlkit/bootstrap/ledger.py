"""The ledger: for every sample of every round where it came from, how it was judged, and what became of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_synth.whole import whole
from rlkit.bootstrap.rounds import Round

LINEAGE = [
    ("sample_id", pa.string()),  # <run seed>-<system>-<round>-<number>
    ("run_seed", pa.int64()),
    ("system", pa.string()),
    ("round", pa.int64()),
    ("number", pa.int64()),  # in its round
    ("seed", pa.int64()),  # it was drawn from
    ("weights", pa.string()),  # sha256 of what drew it
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
]
"""Columns of every ledger; a loop adds what its samples are."""


def lineage(
    run_seed: int, system: str, one: Round, at: int, *, rewards: Sequence[str], originals: Sequence[str], near: float
) -> dict[str, Any]:
    """The columns of LINEAGE for sample `at` of a round; `originals` are names, `near` is copy_distance."""
    row, decision, total = one.rows[at], one.decisions[at], float(one.totals[at])
    return {
        "sample_id": f"{run_seed}-{system}-{one.number}-{row['number']}",
        "run_seed": run_seed,
        "system": system,
        "round": one.number,
        "number": row["number"],
        "seed": row["seed"],
        "weights": one.trained["sha256"],
        "reward_names": list(rewards),
        "scores": row["scores"],
        "reward": total if np.isfinite(total) else None,
        "cluster": decision.cluster,
        "nearest_original": originals[decision.original],
        "nearest_distance": decision.distance,
        "copy_distance": near,
        "copy": decision.copy,
        "accepted": decision.accepted,
        "kept": decision.kept,
        "reason": decision.reason,
    }


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """One parquet file that appears whole; the same rows, the same bytes."""
    columns = [pa.array([row[name] for row in rows], schema.field(name).type) for name in schema.names]
    with whole(path) as file:
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), file, compression="zstd", write_statistics=False)


def scores(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """[samples, rewards] of rows with `scores`, NaN for null."""
    return np.array([[np.nan if one is None else one for one in row["scores"]] for row in rows], float)
