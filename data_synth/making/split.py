"""Splits that keep together what belongs together: near-duplicate captions (MinHash) and captions of the same clip.

Every shard leaves the sketches of its rows on disk, as band hashes that find candidates and as low bytes that judge
them; joining takes one band at a time, so that memory is a few bytes per row. MinHash (Broder 1997) is datasketch's,
which is optional: pip install 'rlkit[data]'.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import connected_components

from data_synth.errors import DataError
from data_synth.lineage import PERMUTATIONS, shingles, split_of
from data_synth.whole import whole

SLACK = 0.05
"""An estimated overlap this much below the threshold still joins: better one pair too many than one in two splits."""


def rows_per_band(threshold: float) -> int:
    """Hashes per band so that captions with this Jaccard overlap share a band with probability of at least 0.95."""
    if not 0 < threshold <= 1:
        raise DataError(f"near_duplicate: found {threshold}, expected more than 0 and at most 1.")
    fitting = [r for r in range(1, 17) if 1 - (1 - threshold**r) ** (PERMUTATIONS // r) >= 0.95]
    return max(fitting, default=1)


def sketches(captions: Iterable[str], clips: Sequence[str], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """(UInt64[rows, 1 + bands], UInt8[rows, PERMUTATIONS]) of a shard: a hash of the clip and one for each band of the
    caption's MinHash; and the low byte of each of its hashes (Li and Koenig 2010)."""
    try:
        from datasketch import MinHash
    except ImportError:
        raise DataError(
            "splits: near-duplicates need the package datasketch; install it: pip install 'rlkit[data]'."
        ) from None
    height = rows_per_band(threshold)
    found, low = [], []
    for caption, clip in zip(captions, clips, strict=True):
        sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update_batch([one.encode("utf-8", "surrogatepass") for one in sorted(shingles(caption))])
        values = np.ascontiguousarray(sketch.hashvalues, dtype=np.uint64)
        parts = [values[k * height : (k + 1) * height].tobytes() for k in range(PERMUTATIONS // height)]
        found.append([_hash(b"clip " + clip.encode("utf-8", "surrogatepass")), *map(_hash, parts)])
        low.append((values & 0xFF).astype(np.uint8))
    columns = 1 + PERMUTATIONS // height
    return np.array(found, np.uint64).reshape(-1, columns), np.array(low, np.uint8).reshape(-1, PERMUTATIONS)


def overlap(low: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Estimated Jaccard overlap of rows `first` and `second` (Int[n]) from their low bytes, Float[n]; +-0.04."""
    same = np.empty(len(first))
    for start in range(0, len(first), 10_000):
        part = slice(start, start + 10_000)
        same[part] = (low[first[part]] == low[second[part]]).mean(axis=1)
    return (same - 1 / 256) / (1 - 1 / 256)  # one in 256 low bytes is equal by chance


def groups(columns: Iterable[np.ndarray], similar: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Int[rows]: for each row the first row of its group. Rows are in one group that share a value in the first column,
    or in a later one where `similar` says so; each is compared with its neighbour and with the first of that value."""
    edges = None
    for k, column in enumerate(columns):
        count = len(column)
        order = np.argsort(column, kind="stable")
        starts = np.append(True, column[order][1:] != column[order][:-1])
        heads = order[np.maximum.accumulate(np.where(starts, np.arange(count), 0))]
        inside = np.flatnonzero(~starts)
        first = np.concatenate([order[inside - 1], heads[inside]])
        second = np.concatenate([order[inside], order[inside]])
        keep = similar(first, second) if k else np.ones(len(first), bool)
        ones = np.ones(int(keep.sum()), dtype=bool)
        found = scipy.sparse.csr_matrix((ones, (first[keep], second[keep])), shape=(count, count))
        edges = found if edges is None else _forest(edges + found, count)
    if edges is None:
        return np.zeros(0, dtype=np.int64)
    number, label = connected_components(edges, directed=False)
    lead = np.full(number, edges.shape[0], dtype=np.int64)
    np.minimum.at(lead, label, np.arange(edges.shape[0]))
    return lead[label]


def _forest(edges: scipy.sparse.csr_matrix, count: int) -> scipy.sparse.csr_matrix:
    """Each row tied to its neighbour in the same component: says as much, in less memory."""
    _, label = connected_components(edges, directed=False)
    order = np.argsort(label, kind="stable")
    same = np.flatnonzero(label[order][1:] == label[order][:-1])
    ones = np.ones(len(same), dtype=bool)
    return scipy.sparse.csr_matrix((ones, (order[same], order[same + 1])), shape=(count, count))


def assign(work: Path, shards: int, fractions: Mapping[str, float], threshold: float, seed: int) -> dict[str, int]:
    """Write splits/NNNNN.npy, Int8 place of each row's split among `fractions`; returns the rows of each split.

    A split is a function of the group's first caption alone (its first band), so that adding rows moves others only
    where they join their groups.
    """
    sizes = [np.load(_bands(work, k), mmap_mode="r").shape for k in range(shards)]
    width = sizes[0][1] if sizes else 0

    def column(k: int) -> np.ndarray:
        return np.concatenate([np.load(_bands(work, s), mmap_mode="r")[:, k] for s in range(shards)])

    with whole(work / "bands" / "low") as file:
        for shard in range(shards):
            file.write(np.load(_low(work, shard)).tobytes())
    low = np.memmap(work / "bands" / "low", np.uint8, "r").reshape(-1, PERMUTATIONS) if width else None
    leader = groups((column(k) for k in range(width)), lambda a, b: overlap(low, a, b) >= threshold - SLACK)
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


def _low(work: Path, shard: int) -> Path:
    return work / "bands" / f"low-{shard:05d}.npy"


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
