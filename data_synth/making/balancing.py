"""Which candidates stay so that nothing tells them from true captions blind: fitted on a sample, applied by shard."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from data_synth import balance, probes
from data_synth.making.options import LENGTH_KINDS, Options
from data_synth.whole import whole

SAMPLE = 10_000
"""Candidates per operator that the probes are fitted on: the first of the data set, so that memory stays the same."""
BUCKETS = 2**16
SLACKS = (None, 1.5, 1.25, 1.0)
"""Tried in turn until probes fitted anew on what stays are no better than balance.ENOUGH."""


@dataclass(frozen=True)
class Fitted:
    """A balance and the scale of its features."""

    balance: balance.Balance
    scale: np.ndarray
    """Float[BUCKETS], what each feature is divided by."""


def needs_fit(operator: str, options: Options) -> bool:
    """Whether candidates of this operator are thinned by blind probes."""
    return options.balance in ("blind", "both") and operator not in LENGTH_KINDS and operator != "imported"


def sample(made: Iterable[Mapping[str, Any]], operator: str) -> list[tuple[str, str, dict[str, Any]]]:
    """The first SAMPLE (source, chosen, candidate) of an operator; reads no further than it must."""
    found = []
    for row in made:
        found += [(row["id"], row["caption"], one) for one in row["found"] if one["operator"] == operator]
        if len(found) >= SAMPLE:
            break
    return found[:SAMPLE]


def fit(found: Sequence[tuple[str, str, Mapping[str, Any]]], operator: str) -> Fitted | None:
    """Fit the thinning of one operator; None where there are too few candidates to see anything but noise."""
    if len(found) < balance.FEWEST:
        return None
    matrix = _contrasts(operator, [(chosen, one["text"]) for _, chosen, one in found])
    scale = np.sqrt(np.maximum(np.asarray(matrix.multiply(matrix).mean(axis=0)).ravel(), 1.0)).astype(np.float32)
    matrix = (matrix @ scipy.sparse.diags(1.0 / scale)).tocsr()
    folds = np.array([balance.fold_of(source) for source, _, _ in found])
    priority = np.array([_priority(source, one) for source, _, one in found])
    fitted = None
    for slack in SLACKS:
        fitted = balance.fit(matrix, folds, priority, slack)
        if fitted is None:
            return None
        keep = balance.kept(fitted, matrix, folds, priority)
        if not keep.any() or probes.hits(probes.margins(matrix[keep], folds[keep])).mean() <= balance.ENOUGH:
            break
    return Fitted(fitted, scale)


def selected(
    made: Sequence[Mapping[str, Any]], fitted: Mapping[str, Fitted | None], options: Options
) -> tuple[list[list[dict[str, Any]]], Counter]:
    """The candidates that become rejected answers, per row of a shard; and how many of each operator were dropped.

    First blind probes thin each operator, then each row takes its first num_negatives, then answers go that have no
    mirror image in length within the shard. Answers that came with the row stay.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    for r, row in enumerate(made):
        for c, one in enumerate(row["found"]):
            places.setdefault(one["operator"], []).append((r, c))
    gone: set[tuple[int, int]] = set()
    for operator, where in places.items():
        if fitted.get(operator) is not None:
            stays = _thinned(made, where, operator, fitted[operator])
            gone.update(place for place, stay in zip(where, stays, strict=True) if not stay)
    taken = [
        [(r, c) for c in range(len(row["found"])) if (r, c) not in gone][: options.num_negatives]
        for r, row in enumerate(made)
    ]
    if options.balance in ("length", "both"):
        ours = [(r, c) for row in taken for r, c in row if made[r]["found"][c]["operator"] != "imported"]
        chosen, texts = [made[r]["caption"] for r, _ in ours], [made[r]["found"][c]["text"] for r, c in ours]
        stays = balance.length_neutral(chosen, texts, [made[r]["id"] for r, _ in ours])
        gone.update(place for place, stay in zip(ours, stays, strict=True) if not stay)
    dropped = Counter(made[r]["found"][c]["operator"] for r, c in gone)
    return [[made[r]["found"][c] for r, c in row if (r, c) not in gone] for row in taken], dropped


def _thinned(made, places: Sequence[tuple[int, int]], operator: str, fitted: Fitted) -> Iterator[bool]:
    pairs = [(made[r]["caption"], made[r]["found"][c]["text"]) for r, c in places]
    matrix = (_contrasts(operator, pairs) @ scipy.sparse.diags(1.0 / fitted.scale)).tocsr()
    folds = np.array([balance.fold_of(made[r]["id"]) for r, _ in places])
    priority = np.array([_priority(made[r]["id"], made[r]["found"][c]) for r, c in places])
    return map(bool, balance.kept(fitted.balance, matrix, folds, priority))


def _contrasts(operator: str, pairs: Sequence[tuple[str, str]]) -> scipy.sparse.csr_matrix:
    """Float[n, BUCKETS]: what blind probes see of each (chosen, rejected); of swaps, what moved is all there is."""
    places = probes.moved(pairs, BUCKETS)
    if operator == "order_swap":
        return places
    return places + probes.hashed((contrast(a, b) for a, b in pairs), BUCKETS)


def contrast(chosen: str, rejected: str) -> probes.Features:
    """What the audit's probes see of the words of a pair, from those around the change alone: most of a caption stays,
    and its features would cancel."""
    left, right = trimmed(chosen, rejected)
    return {
        f"{name} {key}": value
        for name, probe in (("surface", probes.surface), ("ngram", probes.ngram))
        for key, value in probes.contrast(probe, left, right).items()
    }


def trimmed(chosen: str, rejected: str) -> tuple[str, str]:
    """The parts of chosen and rejected without what both begin and end with, except for about
    two words on either side."""
    most = min(len(chosen), len(rejected))
    start = next((k for k in range(most) if chosen[k] != rejected[k]), most)
    end = next((k for k in range(most - start) if chosen[-1 - k] != rejected[-1 - k]), most - start)
    start = max(chosen.rfind(" ", 0, max(chosen.rfind(" ", 0, start), 0)), 0)
    tail = chosen[len(chosen) - end :] if end else ""
    second = tail.find(" ", tail.find(" ") + 1) if tail.find(" ") >= 0 else -1
    end = end - second if second >= 0 else 0
    return chosen[start : len(chosen) - end], rejected[start : len(rejected) - end]


def _priority(source: str, one: Mapping[str, Any]) -> float:
    """Low is kept first: swaps of events that hardly overlap in time, then by chance."""
    return float(one["edit"].get("overlap_risk", 0.0)) + 1e-3 * balance.chance(source, one["text"])


def save(path: Path, fitted: Fitted | None) -> None:
    """Write a fit, whole; an empty file of arrays where there was nothing to fit."""
    arrays = {} if fitted is None else {**vars(fitted.balance), "scale": fitted.scale}
    with whole(path) as file:
        np.savez(file, **arrays)


def load(path: Path) -> Fitted | None:
    """What save wrote."""
    with np.load(path) as arrays:
        if not arrays.files:
            return None
        parts = {name: arrays[name] for name in arrays.files}
    scale = parts.pop("scale")
    return Fitted(balance.Balance(**parts), scale)
