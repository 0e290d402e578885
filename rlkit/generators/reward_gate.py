"""The gate of rewards that steer a loop of a generator: what they choose must please a judge that chooses nothing.

A reward whose choice the held-out judge likes no better than what comes unchosen teaches its own taste and nothing
else. So a loop that keeps, or learns from, what its rewards rank first measures that before it goes on, and stops; as
rlkit/caption/judge_gate.py does for judges of captions, where the truth is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reward_models import agreement
from reward_models.agreement import Interval
from rlkit.gates import figure


@dataclass(frozen=True)
class Gate:
    """Means of the held-out judge, in its own unit, with 95 % intervals that draw whole prompts."""

    plain: Interval
    chosen: Interval
    gain: Interval
    """chosen - plain."""
    about: str
    """What was chosen from what."""

    @property
    def open(self) -> bool:
        """Whether the choice pleases the held-out judge by more than chance."""
        return self.gain.low > 0

    def sentence(self) -> str:
        """All figures."""
        return (
            f"{self.about}; by the held-out judge the choice is worth {figure(self.chosen)}, the rest with it "
            f"{figure(self.plain)}, difference {figure(self.gain, '+')}"
        )


def of_samples(held_out: Sequence[float], chosen: Sequence[bool], prompts: Sequence[str], about: str) -> Gate:
    """Some samples chosen from all: `held_out` [samples] of each, NaN where it has no score."""

    def mean(values: np.ndarray) -> float:
        return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan

    statistics = (lambda v, _: mean(v), lambda v, m: mean(v[m]), lambda v, m: mean(v[m]) - mean(v))
    values, mask = np.asarray(held_out, float), np.asarray(chosen, bool)
    return Gate(*(agreement.bootstrap_by_prompt(one, prompts, values, mask) for one in statistics), about)


def of_prompts(plain: Sequence[float], best: Sequence[float], prompts: Sequence[str], about: str) -> Gate:
    """For each prompt its plain outcome and the one that rewards chose, [prompts] each, NaN where one has no score."""
    both = np.stack([np.asarray(plain, float), np.asarray(best, float)], 1)
    known = np.isfinite(both).all(1)
    names, both = [one for one, here in zip(prompts, known, strict=True) if here], both[known]
    found = [
        agreement.bootstrap_by_prompt(lambda v: float(np.mean(v)), names, one)
        for one in (both[:, 0], both[:, 1], both[:, 1] - both[:, 0])
    ]
    return Gate(*found, about)
