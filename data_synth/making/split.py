"""Splits that keep together what belongs together: near-duplicate captions (MinHash) and captions of the same clip.

Every shard leaves the band hashes of its rows on disk; joining them takes one band at a time, so that memory is a few
bytes per row. MinHash (Broder 1997) is datasketch's, which is optional: pip install 'rlkit[data]'.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from data_synth.errors import DataError
from data_synth.lineage import PERMUTATIONS, shingles, split_of
from data_synth.making.files import whole


def rows_per_band(threshold: float) -> int:
    """Hashes per band so that captions with this Jaccard overlap share a band with probability of at least 0.95."""
    if not 0 < threshold <= 1:
        raise DataError(f"near_duplicate: found {threshold}, expected more than 0 and at most 1.")
    fitting = [r for r in range(1, 17) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= 0.95]
    return max(fitting, default=1)


def bands(captions: Iterable[str], clips: Sequence[str], threshold: float) -> np.ndarray:
    """UInt64[rows, 1 + bands]: a hash of the clip, then one for each band of the caption's MinHash."""
    try:
        from datasketch import MinHash
    except ImportError:
        raise DataError(
            "splits: near-duplicates need the package datasketch; install it: pip install 'rlkit[data]'."
        ) from None
    height = rows_per_band(threshold)
    found = []
    for caption, clip in zip(captions, clips, strict=True):
        sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update_batch([one.encode("utf-8", "surrogatepass") for one in sorted(shingles(caption))])
        values = np.ascontiguousarray(sketch.hashvalues, dtype=np.uint64)
        parts = [values[k * height : (k + 1) * height].tobytes() for k in range(PERMUTATIONS // height)]
        found.append([_hash(b"clip " + clip.encode("utf-8", "surrogatepass")), *map(_hash, parts)])
    return np.array(found, dtype=np.uint64).reshape(len(found), 1 + PERMUTATIONS // height)


def groups(columns: Iterable[np.ndarray], count: int) -> np.ndarray:
    """Int[count]: for each row the first row of its group; rows that share a value in a column are in one group."""
    edges = scipy.sparse.csr_matrix((count, count), dtype=np.int8)
    for column in columns:
        order = np.argsort(column, kind="stable")
        same = np.flatnonzero(column[order][1:] == column[order][:-1])
        ones = np.ones(len(same), dtype=np.int8)
        found = scipy.sparse.csr_matrix((ones, (order[same], order[same + 1])), shape=(count, count))
        edges = edges.maximum(found)
        if edges.nnz > 2 * count:  # a spanning forest says as much, in less memory
            edges = _forest(edges, count)
    _, label = connected_components(edges, directed=False)
    first = np.full(label.max() + 1 if count else 0, count, dtype=np.int64)
    np.minimum.at(first, label, np.arange(count))
    return first[label]


def _forest(edges: scipy.sparse.csr_matrix, count: int) -> scipy.sparse.csr_matrix:
    """Each row tied to its neighbour in the same component."""
    _, label = connected_components(edges, directed=False)
    order = np.argsort(label, kind="stable")
    same = np.flatnonzero(label[order][1:] == label[order][:-1])
    ones = np.ones(len(same), dtype=np.int8)
    return scipy.sparse.csr_matrix((ones, (order[same], order[same + 1])), shape=(count, count))


def assign(work: Path, shards: int, fractions: Mapping[str, float], seed: int) -> dict[str, int]:
    """Write splits/NNNNN.npy, Int8 place of each row's split among `fractions`; returns the rows of each split.

    A split is a function of the group's first caption alone (its first band), so that adding rows moves others only
    where they join their groups.
    """
    sizes = [np.load(_bands(work, k), mmap_mode="r").shape for k in range(shards)]
    count = sum(rows for rows, _ in sizes)
    width = sizes[0][1] if sizes else 0

    def column(k: int) -> np.ndarray:
        return np.concatenate([np.load(_bands(work, s), mmap_mode="r")[:, k] for s in range(shards)])

    leader = groups((column(k) for k in range(width)), count) if count else np.zeros(0, dtype=np.int64)
    names = list(fractions)
    key = column(1) if width else np.zeros(0, dtype=np.uint64)
    place = np.array([names.index(split_of(f"{key[k]:016x}", fractions, seed=seed)) for k in leader], dtype=np.int8)
    start = 0
    for shard, (rows, _) in enumerate(sizes):
        with whole(work / "splits" / f"{shard:05d}.npy") as file:
            np.save(file, place[start : start + rows])
        start += rows
    return {name: int((place == k).sum()) for k, name in enumerate(names)}


def _bands(work: Path, shard: int) -> Path:
    return work / "bands" / f"{shard:05d}.npy"


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
