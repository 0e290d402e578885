"""Means over clips with bootstrap intervals: one system, two systems compared clip by clip, several training seeds.

A row is one clip: `{"clip": optional id, metric: number, ...}`. A metric that is missing, None or NaN in a row does not
count for that clip (`order_tau` of a caption with fewer than two matched events); `n` counts the clips that did and
`excluded` the others. Every number comes as `{"value", "low", "high", "n", "excluded"}`.

Percentile bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Clips are the unit that
is drawn, and all metrics share the same draws. Two things to know when reading an interval: with all clips equal it has
width zero (for n of n right, the true rate may still be as low as 1 - 3/n), and three training seeds are few, so that
the part of the spread that comes from seeds is underestimated.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

Row = Mapping[str, object]
Interval = dict[str, float | int | None]

RESAMPLES = 2_000
LEVEL = 0.95
# Resampling counts are drawn in blocks of at most this many entries (32 MB), so memory does not grow with the clips.
BLOCK = 4_000_000


def summarise(
    rows: Sequence[Row], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """Mean over clips and percentile interval of every metric in `rows`."""
    names = metric_names(rows)
    return _intervals(names, [_matrix(rows, names)], shared=True, resamples=resamples, level=level, seed=seed)


def pool_seeds(
    rows_by_seed: Sequence[Sequence[Row]], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, Interval]:
    """Mean over training seeds of the mean over clips, with a two-level interval: draw seeds, then clips.

    Where all seeds were evaluated on the same clips (same `clip` ids in the same order), one draw of clips serves all
    seeds of a resample, since a hard clip is hard for every seed; otherwise each drawn seed draws its own clips.
    """
    rows_by_seed = [list(rows) for rows in rows_by_seed]
    names = metric_names([row for rows in rows_by_seed for row in rows])
    matrices = [_matrix(rows, names) for rows in rows_by_seed]
    shared = len({tuple(_ids(rows)) for rows in rows_by_seed}) == 1 and None not in _ids(rows_by_seed[0])
    return _intervals(names, matrices, shared=shared, resamples=resamples, level=level, seed=seed)


def paired_difference(
    rows: Sequence[Row],
    versus: Sequence[Row],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """Mean over clips of `rows` minus `versus`, clip by clip, with intervals; both hold the same clips in one order.

    Raises `ValueError` when they do not. A clip that misses a metric in either system is excluded for that metric.
    """
    return paired_difference_over_seeds([rows], [versus], resamples=resamples, level=level, seed=seed)


def paired_difference_over_seeds(
    rows_by_seed: Sequence[Sequence[Row]],
    versus_by_seed: Sequence[Sequence[Row]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """`paired_difference`, pooled over training seeds: seed i of one system is compared with seed i of the other."""
    if len(rows_by_seed) != len(versus_by_seed):
        raise ValueError(f"{len(rows_by_seed)} seeds cannot be paired with {len(versus_by_seed)} seeds.")
    names = metric_names(rows_by_seed[0]) if rows_by_seed else []
    names = [name for name in names if name in set(metric_names(versus_by_seed[0]))]
    matrices = []
    for one, other in zip(rows_by_seed, versus_by_seed, strict=True):
        if len(one) != len(other):
            raise ValueError(f"{len(one)} clips cannot be paired with {len(other)} clips.")
        for position, (left, right) in enumerate(zip(_ids(one), _ids(other), strict=True)):
            if left != right:
                raise ValueError(f"row {position} compares clip {left!r} with clip {right!r}: pair the same clips.")
        matrices.append(_matrix(one, names) - _matrix(other, names))
    ids = {tuple(_ids(rows)) for rows in rows_by_seed}
    shared = len(ids) == 1 and None not in next(iter(ids))
    return _intervals(names, matrices, shared=shared, resamples=resamples, level=level, seed=seed)


def metric_names(rows: Sequence[Row]) -> list[str]:
    """The metrics of `rows`, in order of first appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    names.pop("clip", None)
    return list(names)


def _ids(rows: Sequence[Row]) -> list[object]:
    return [row.get("clip") for row in rows]


def _matrix(rows: Sequence[Row], names: Sequence[str]) -> np.ndarray:
    """Values [clips, metrics] as float64; NaN where a clip has none."""
    values = np.full((len(rows), len(names)), np.nan)
    for i, row in enumerate(rows):
        for j, name in enumerate(names):
            value = row.get(name)
            if value is not None:
                values[i, j] = float(value)
    return values


def _intervals(
    names: Sequence[str],
    matrices: Sequence[np.ndarray],
    *,
    shared: bool,
    resamples: int,
    level: float,
    seed: int,
) -> dict[str, Interval]:
    if not names:
        return {}
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.stack([_weighted_means(matrix, np.ones((1, len(matrix))))[0] for matrix in matrices])
        values = _mean_without_nan(means)
        draws = _draw(matrices, shared=shared, resamples=resamples, seed=seed)
    counts = sum(np.isfinite(matrix).sum(axis=0) for matrix in matrices)
    totals = sum(len(matrix) for matrix in matrices)
    tail = 100 * (1 - level) / 2
    out: dict[str, Interval] = {}
    for j, name in enumerate(names):
        kept = draws[:, j][np.isfinite(draws[:, j])]
        low, high = np.percentile(kept, [tail, 100 - tail]) if len(kept) else (math.nan, math.nan)
        out[name] = {
            "value": _number(values[j]),
            "low": _number(low),
            "high": _number(high),
            "n": int(counts[j]),
            "excluded": int(totals - counts[j]),
        }
    return out


def _draw(matrices: Sequence[np.ndarray], *, shared: bool, resamples: int, seed: int) -> np.ndarray:
    """Resampled means [resamples, metrics]."""
    generator = np.random.default_rng(seed)
    blocks = []
    largest = max(1, *(len(matrix) for matrix in matrices))
    block = max(1, min(resamples, BLOCK // largest))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        if len(matrices) == 1:
            blocks.append(_weighted_means(matrices[0], _clip_draws(generator, len(matrices[0]), size)))
            continue
        picks = generator.integers(len(matrices), size=(size, len(matrices)))
        common = _clip_draws(generator, len(matrices[0]), size) if shared else None
        drawn = np.full((len(matrices), size, matrices[0].shape[1]), np.nan)
        for slot in range(len(matrices)):
            for which, matrix in enumerate(matrices):
                chosen = picks[:, slot] == which
                if chosen.any():
                    weights = (
                        common[chosen] if common is not None else _clip_draws(generator, len(matrix), int(chosen.sum()))
                    )
                    drawn[slot, chosen] = _weighted_means(matrix, weights)
        blocks.append(_mean_without_nan(drawn))
    return np.concatenate(blocks)


def _clip_draws(generator: np.random.Generator, clips: int, size: int) -> np.ndarray:
    """How often each clip is drawn [size, clips], each row a draw of `clips` clips with replacement."""
    if clips == 0:
        return np.zeros((size, 0))
    return generator.multinomial(clips, np.full(clips, 1 / clips), size=size).astype(np.float64)


def _weighted_means(matrix: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means [draws, metrics] of `matrix` [clips, metrics] under `weights` [draws, clips], NaN entries left out."""
    present = np.isfinite(matrix)
    return (weights @ np.where(present, matrix, 0.0)) / (weights @ present)


def _mean_without_nan(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of the entries that are numbers; NaN where there are none."""
    present = np.isfinite(values)
    return np.where(present, values, 0.0).sum(axis=0) / present.sum(axis=0)


def _number(value: float) -> float | None:
    # None rather than NaN: results.json must be JSON.
    return float(value) if math.isfinite(value) else None
