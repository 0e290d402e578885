"""Best of n: what to expect of it for every n from one draw of N samples, and how far it goes from the model.

The estimator is that of WebGPT, https://huggingface.co/papers/2112.09332, appendix I, used for the curves of "Scaling
laws for reward model overoptimization", https://huggingface.co/papers/2210.10760: the mean over all subsets of n of the
N samples, which is unbiased for every n up to N. Sorted by what ranks them, sample i (from 1, lowest first) is the best
of C(i - 1, n - 1) of the C(N, n) subsets. Among equals the best is drawn by lot. Means over prompts come from
rlkit/evaluate/intervals.py.

The KL of the best of n from the model is log n - (n - 1) / n nats where no two samples rank the same
(https://huggingface.co/papers/2009.01325); otherwise it is an upper bound (https://huggingface.co/papers/2401.01879).
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Samples = Float[np.ndarray, " samples"]


def kl(n: int, keep: int = 1) -> float:
    """Nats between one of the `keep` best of `n`, drawn by lot, and the model; for keep = 1 log n - (n - 1) / n.

    The share u of samples that rank below the kept one has the density n / keep * P(fewer than keep of n - 1 lie above
    it); its KL from the uniform one is integrated by Gauss-Legendre. Raises ValueError unless 1 <= keep <= n.
    """
    if not 1 <= keep <= n:
        raise ValueError(f"{keep} kept of {n} made; at least 1 and at most all.")
    if keep == 1:
        return math.log(n) - (n - 1) / n
    nodes, weights = np.polynomial.legendre.leggauss(400)
    above = (nodes + 1) / 2  # P(a sample lies above), in (0, 1)
    fewer = sum(math.comb(n - 1, j) * above**j * (1 - above) ** (n - 1 - j) for j in range(keep))
    density = n / keep * fewer
    return float(np.sum(weights / 2 * density * np.log(np.maximum(density, 1e-300))))


def sizes(make: int) -> list[int]:
    """1, 2, 4, ... and `make` itself."""
    return sorted({*(2**power for power in range(make.bit_length())), make})


def chances(total: int, n: int) -> Samples:
    """Of each of `total` samples, lowest first, the chance to be the best of n of them."""
    subsets = math.comb(total, n)
    return np.array([math.comb(below, n - 1) / subsets for below in range(total)])


def expected(order: Sequence[float], values: Sequence[float], n: int) -> float | None:
    """What `values` is expected to be of the best of n by `order`; both [samples], NaN for what is not known.

    A sample without a rank or without a value takes no part; None where fewer than n are left.
    """
    order, values = np.asarray(order, float), np.asarray(values, float)
    known = np.isfinite(order) & np.isfinite(values)
    if known.sum() < n:
        return None
    order, values = order[known], values[known]
    _, tied = np.unique(order, return_inverse=True)  # equals get one number, in rising order
    chance = np.bincount(tied, weights=chances(len(order), n)[np.argsort(np.argsort(tied, kind="stable"))])
    return float(np.sum(chance * np.bincount(tied, weights=values) / np.bincount(tied)))


def overoptimisation(gains: Sequence[tuple[int, float]]) -> dict[str, float | None]:
    """Gao et al.'s gain(d) = d (alpha - beta d), d = sqrt(KL), fitted by least squares to (n, gain over n = 1).

    `best_n` is where it peaks, None where it does not (beta <= 0) or lies beyond the n measured. Fewer than three
    points fit nothing: all None.
    """
    points = [(math.sqrt(kl(n)), gain) for n, gain in gains if n > 1]
    nothing: dict[str, float | None] = {"alpha": None, "beta": None, "best_n": None}
    if len(points) < 3:
        return nothing
    distance, gain = np.array(points).T
    alpha, minus_beta = np.linalg.lstsq(np.stack([distance, distance**2], 1), gain, rcond=None)[0]
    peak = alpha / (-2 * minus_beta) if minus_beta < 0 < alpha else math.inf
    within = peak <= distance.max()
    best_n = min((n for n, _ in gains), key=lambda n: abs(math.sqrt(kl(n)) - peak)) if within else None
    return {"alpha": float(alpha), "beta": float(-minus_beta), "best_n": best_n}
