"""Balancing: drop pairs until blind probes can no longer tell chosen from rejected.

Adversarial refinement (SugarCrepe, arXiv 2306.14610) generalised: instead of two fixed scorers, any set of probes is
fitted on the pairs themselves with folds grouped by source; held-out margins are binned by size, and in each bin the
pairs
that the probes get right are thinned to the number of those they get wrong, times a slack. Slack 1 overshoots (a probe
fitted anew on what is left falls below 0.5) because the margins that were thinned are noisy, and the more so the larger
the leak was: 1 + 4 (accuracy - 0.5), at most 1.8, lands near 0.5 on the sets we measured (leaks of 57 to 82 %).
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from sklearn.linear_model import LogisticRegression

from data_synth import probes

Contrast = Callable[[str, str], probes.Features]
"""Named numbers of a pair (chosen, rejected) that change sign when the two change places."""

MAX_SLACK, BINS, FOLDS = 1.8, 10, 5
ENOUGH = 0.54
"""Accuracy of probes fitted anew at which `balance` is content; above it, it tries a smaller slack."""
FEWEST = 200
"""Below this many pairs nothing is dropped: probes fitted on fewer see noise."""


@dataclass(frozen=True)
class Balance:
    """Fitted weights per fold, and per size of margin the part of the rightly told pairs that stays."""

    weights: np.ndarray
    """Float[FOLDS, buckets]; fold k was fitted without the sources of fold k."""
    edges: np.ndarray
    """Float[BINS - 1], upper edges of |margin|."""
    cut: np.ndarray
    """Float[BINS]; of the pairs with margin above 0, those with a priority below it stay."""


def fold_of(source: str) -> int:
    """Fold of a source, the same in every run."""
    return int.from_bytes(hashlib.blake2b(source.encode(), digest_size=4).digest(), "big") % FOLDS


def chance(source: str, rejected: str) -> float:
    """A number in [0, 1) that depends on the pair alone: the priority where there is no better one."""
    digest = hashlib.blake2b(f"{source}\n{rejected}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def fit(
    matrix: scipy.sparse.csr_matrix, folds: np.ndarray, priority: np.ndarray, slack: float | None = None
) -> Balance | None:
    """Fit on contrasts (Float[n, buckets], Int[n] folds, Float[n] priority, low is kept first); None when too few."""
    if matrix.shape[0] < FEWEST or len(np.unique(folds)) < 2:
        return None
    weights = np.zeros((FOLDS, matrix.shape[1]), dtype=np.float32)
    margin = np.zeros(matrix.shape[0])
    for k in range(FOLDS):
        train, test = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        flip = np.where(np.arange(len(train)) % 2 == 0, 1.0, -1.0)
        model = LogisticRegression(C=0.3, solver="liblinear", fit_intercept=False, tol=1e-2)
        model.fit(scipy.sparse.diags(flip) @ matrix[train], flip)
        weights[k] = model.coef_[0]
        margin[test] = matrix[test] @ weights[k]
    size = np.abs(margin)
    edges = np.quantile(size, np.linspace(0, 1, BINS + 1))[1:-1]
    bins = np.searchsorted(edges, size, side="right")
    right = np.bincount(bins[margin > 0], minlength=BINS)
    wrong = np.bincount(bins[margin < 0], minlength=BINS)
    if slack is None:
        slack = min(MAX_SLACK, 1.0 + 4.0 * max(0.0, right.sum() / max(right.sum() + wrong.sum(), 1) - 0.5))
    keep = np.minimum(1.0, slack * wrong / np.maximum(right, 1))
    cut = np.full(BINS, np.inf)
    for k in np.flatnonzero((keep < 1.0) & (right > 0)):
        cut[k] = np.quantile(priority[(bins == k) & (margin > 0)], keep[k])
    return Balance(weights, edges, cut)


def kept(balance: Balance, matrix: scipy.sparse.csr_matrix, folds: np.ndarray, priority: np.ndarray) -> np.ndarray:
    """Which pairs stay, Bool[n]: all that the probes get wrong, and as many of the others as balance them."""
    margin = np.zeros(matrix.shape[0])
    for k in range(FOLDS):
        rows = np.flatnonzero(folds == k)
        margin[rows] = matrix[rows] @ balance.weights[k]
    bins = np.searchsorted(balance.edges, np.abs(margin), side="right")
    return (margin <= 0) | (priority < balance.cut[bins])


def balance(
    chosen: Sequence[str],
    rejected: Sequence[str],
    sources: Sequence[str],
    *,
    contrasts: Sequence[Contrast] | None = None,
    slack: float | None = None,
) -> np.ndarray:
    """Which pairs to keep, Bool[n], so that the given contrasts (default: all blind probes) carry no more
    information."""
    contrasts = contrasts or [_all_probes]
    blocks = [probes.hashed(c(a, b) for a, b in zip(chosen, rejected, strict=True)) for c in contrasts]
    matrix = probes.scaled(scipy.sparse.hstack(blocks).tocsr())
    folds = np.array([fold_of(s) for s in sources])
    priority = np.array([chance(s, r) for s, r in zip(sources, rejected, strict=True)])
    keep = np.ones(len(chosen), bool)
    for tried in (slack,) if slack is not None else (None, 1.5, 1.25, 1.0):
        fitted = fit(matrix, folds, priority, tried)
        if fitted is None:
            return keep
        keep = kept(fitted, matrix, folds, priority)
        left = probes.margins(matrix[keep], folds[keep])
        if probes.hits(left).mean() <= ENOUGH:
            break
    return keep


def _all_probes(chosen: str, rejected: str) -> probes.Features:
    return {
        f"{name} {key}": value
        for name, probe in probes.PROBES.items()
        for key, value in probes.contrast(probe, chosen, rejected).items()
    }


def stacked(blocks: Sequence[scipy.sparse.csr_matrix]) -> scipy.sparse.csr_matrix:
    """Blocks of rows as one matrix."""
    return scipy.sparse.vstack(list(blocks)).tocsr()


def mirror_ks(chosen: np.ndarray, rejected: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance between the log length ratios and the same with the sides exchanged; 0 =
    symmetric."""
    ratio = np.sort(np.log(np.maximum(rejected, 1.0) / np.maximum(chosen, 1.0)))
    mirrored = np.sort(-ratio)
    points = np.concatenate([ratio, mirrored])
    below = np.searchsorted(ratio, points, side="right") / len(ratio)
    return float(np.abs(below - np.searchsorted(mirrored, points, side="right") / len(ratio)).max())


def length_neutral(chosen: Sequence[str], rejected: Sequence[str], sources: Sequence[str]) -> np.ndarray:
    """Which pairs of a mixture to keep, Bool[n], so that neither the sign nor the size of the length ratio tells a
    side.

    Pairs are matched one to one: a rejected text longer by some ratio needs one that is shorter by as much (within 2
    %).
    """
    long = np.array([len(t) for t in chosen], dtype=float), np.array([len(t) for t in rejected], dtype=float)
    ratio = np.log(np.maximum(long[1], 1.0) / np.maximum(long[0], 1.0))
    order = np.array([chance(s, r) for s, r in zip(sources, rejected, strict=True)])
    size = np.round(np.abs(ratio) / 0.02).astype(int)
    keep = ratio == 0
    for value in np.unique(size):
        longer = np.flatnonzero((size == value) & (ratio > 0))
        shorter = np.flatnonzero((size == value) & (ratio < 0))
        count = min(len(longer), len(shorter))
        for side in (longer, shorter):
            keep[side[np.argsort(order[side], kind="stable")][:count]] = True
    return keep
