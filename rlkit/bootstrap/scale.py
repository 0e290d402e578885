"""The scale on which samples of all rounds are judged: that of the first round."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scale:
    """What rewards are divided by and samples have to reach: fixed by the first round."""

    mean: np.ndarray
    spread: np.ndarray
    bar: float

    @classmethod
    def of(cls, scores: np.ndarray, weights: Sequence[float], bar: float) -> "Scale":
        """From the scores [samples, rewards] of the first round; `bar` is a share of its samples."""
        known = np.isfinite(scores).any(0)
        mean, spread = np.zeros(scores.shape[1]), np.ones(scores.shape[1])
        mean[known], spread[known] = np.nanmean(scores[:, known], 0), np.nanstd(scores[:, known], 0)
        spread[spread < 1e-8] = 1.0  # all alike: it tells nothing apart
        found = cls(mean, spread, 0.0)
        totals = found.totals(scores, weights)
        level = float(np.nanquantile(totals, bar)) if np.isfinite(totals).any() else 0.0
        return cls(mean, spread, level)

    def totals(self, scores: np.ndarray, weights: Sequence[float]) -> np.ndarray:
        """[samples]: the weighted mean of rewards in spreads of the first round; NaN where one is missing."""
        weighed = np.asarray(weights, float)
        return ((scores - self.mean) / self.spread * weighed).sum(1) / np.abs(weighed).sum()
