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
import scipy.spatial
from sklearn.linear_model import LogisticRegression

from data_synth import probes

Contrast = Callable[[str, str], probes.Features]
"""Named numbers of a pair (chosen, rejected) that change sign when the two change places."""

MAX_SLACK, BINS, FOLDS = 1.8, 10, 5
ENOUGH, CHECKS = 0.55, 3
"""Accuracy of probes fitted anew, the highest of so many ways to fold, at which `refine` is content; above it, it
tries a smaller slack."""
SMALLER = (1.0, 0.8, 0.6, 0.45, 0.3, 0.15, 0.0)
"""What of the slack above 1 is tried, one after the other."""
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
    matrix: scipy.sparse.csr_matrix,
    folds: np.ndarray,
    priority: np.ndarray,
    slack: float | None = None,
) -> Balance | None:
    """Fit on contrasts (Float[n, buckets], Int[n] folds, Float[n] priority, low is kept first); None when too few.

    `slack` grows with the leak where it is None: 1 without one, MAX_SLACK where the probes tell 70 % and more.
    """
    probed = _probe(matrix, folds)
    return None if probed is None else _thin(*probed, priority, slack, MAX_SLACK)


def _probe(matrix: scipy.sparse.csr_matrix, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(weights of each fold's probe, held-out margins); None when there are too few pairs."""
    if matrix.shape[0] < FEWEST or len(np.unique(folds)) < 2:
        return None
    weights = np.zeros((FOLDS, matrix.shape[1]), dtype=np.float32)
    margin = np.zeros(matrix.shape[0])
    used = np.unique(matrix.indices)
    dense = matrix[:, used]  # the solver walks over every column, also over empty ones
    for k in range(FOLDS):
        train, test = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        flip = np.where(np.arange(len(train)) % 2 == 0, 1.0, -1.0)
        model = LogisticRegression(C=0.15, solver="liblinear", fit_intercept=False, tol=1e-2)
        model.fit(probes.flipped(dense[train], flip), flip)
        weights[k, used] = model.coef_[0]
        margin[test] = matrix[test] @ weights[k]
    return weights, margin


def _thin(weights: np.ndarray, margin: np.ndarray, priority: np.ndarray, slack: float | None, most: float) -> Balance:
    """Where to cut the rightly told pairs of each size of margin; see `fit`."""
    size = np.abs(margin)
    edges = np.quantile(size, np.linspace(0, 1, BINS + 1))[1:-1]
    bins = np.searchsorted(edges, size, side="right")
    right = np.bincount(bins[margin > 0], minlength=BINS)
    wrong = np.bincount(bins[margin < 0], minlength=BINS)
    if slack is None:
        told = right.sum() / max(right.sum() + wrong.sum(), 1)
        slack = min(most, 1.0 + (most - 1.0) / 0.2 * max(0.0, told - 0.5))
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
    fitted = fit(matrix, folds, priority, slack) if slack is not None else refine(matrix, sources, priority)
    return np.ones(len(chosen), bool) if fitted is None else kept(fitted, matrix, folds, priority)


def refine(
    matrix: scipy.sparse.csr_matrix,
    sources: Sequence[str],
    priority: np.ndarray,
    *,
    most: float = MAX_SLACK,
    enough: float = ENOUGH,
    checks: int = CHECKS,
) -> Balance | None:
    """`fit` with the largest slack, from `most` down, after which probes fitted anew tell at most `enough`; None when
    there are too few pairs. Each check folds the sources in another way."""
    folds = np.array([fold_of(s) for s in sources])
    probed = _probe(matrix, folds)
    if probed is None:
        return None
    for smaller in SMALLER:
        fitted = _thin(*probed, priority, None, 1.0 + smaller * (most - 1.0))
        stay = np.flatnonzero(kept(fitted, matrix, folds, priority))
        if len(stay) < FEWEST or _told(matrix[stay], [sources[k] for k in stay], checks) <= enough:
            break
    return fitted


def _told(matrix: scipy.sparse.csr_matrix, sources: list[str], checks: int) -> float:
    """What probes fitted anew tell, the highest of `checks` ways to fold."""
    ways = [probes.folds(sources, FOLDS, seed) for seed in range(checks)]
    return max(probes.hits(probes.margins(matrix, folds, solver="newton-cg")).mean() for folds in ways)


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


NEIGHBOURS, REACH = 12, 2.0
"""Of each pair so many mirror images are looked at, none farther than this in the units of `_UNITS`."""
_UNITS = {"chars": 4.0, "words": 1.0, "sentences": 0.1, "log_chars": 0.06}
"""Differences that count as the same: four characters, one word, no sentence, 6 % of the length."""


def length_neutral(chosen: Sequence[str], rejected: Sequence[str], sources: Sequence[str]) -> np.ndarray:
    """Which pairs of a mixture to keep, Bool[n], so that no measure of length tells a side.

    Sign and ratio of the number of characters are not enough: a tail is a sentence of its own and a cut often is not,
    so that characters and sentences together tell them apart. Pairs are therefore matched one to one with their mirror
    image in all length features of the audit at once; those of equal length stay, those without a mirror image go.
    """
    gaps = np.array([_length_gap(c, r) for c, r in zip(chosen, rejected, strict=True)]).reshape(len(chosen), -1)
    keep = ~gaps.any(axis=1)
    longer, shorter = np.flatnonzero(gaps[:, 0] < 0), np.flatnonzero(gaps[:, 0] > 0)
    even = np.flatnonzero((gaps[:, 0] == 0) & ~keep)  # as many characters, in other words or sentences
    if not len(longer) or not len(shorter):
        return keep
    order = np.array([chance(s, r) for s, r in zip(sources, rejected, strict=True)])
    for one, other in ((longer, shorter), (even, even)):
        if not len(one):
            continue
        tree = scipy.spatial.cKDTree(-gaps[other])
        found = tree.query(gaps[one], k=min(NEIGHBOURS, len(other)), distance_upper_bound=REACH)
        distance, place = (np.reshape(x, (len(one), -1)) for x in found)
        rows, columns = np.nonzero(np.isfinite(distance))
        ends = one[rows], other[place[rows, columns]]
        for k in np.lexsort((order[ends[1]], order[ends[0]], distance[rows, columns])):
            a, b = ends[0][k], ends[1][k]
            if a != b and not keep[a] and not keep[b]:
                keep[[a, b]] = True
    return keep


def _length_gap(chosen: str, rejected: str) -> list[float]:
    """The length features of chosen - rejected in the units of `_UNITS`, characters first."""
    left, right = probes.length(chosen), probes.length(rejected)
    return [(left[name] - right[name]) / unit for name, unit in _UNITS.items()]
