"""How far a pair can be trusted: gold, silver, bronze by explicit rules, and what a tier weighs in loss and sampling.

Rules for one rejected answer (the rubric of version RUBRIC_VERSION of data_synth/making/options.py):
gold    at least two people decided, and the adjudicated label is `chosen` with probability >= 0.9.
silver  at least one person, label `chosen` with probability >= 0.7; or nobody voted, and either one of our operators
        made the answer wrong by construction, or a reward separates the two by at least 0.2 of its range.
bronze  nobody voted and neither holds: imported rows, operators of the user's own, small margins.
none    people say otherwise, or cannot tell: the pair weighs nothing.
A record is worth what its least trusted answer with a weight is worth.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

ORDER = ("gold", "silver", "bronze")
WEIGHTS = {"gold": 2.0, "silver": 1.0, "bronze": 0.5, None: 0.0}
"""Silver counts as one: constructed pairs train as they did before anybody voted."""
GOLD_VOTES, GOLD_SURE, SILVER_SURE, SILVER_MARGIN = 2, 0.9, 0.7, 0.2


@dataclass(frozen=True)
class Evidence:
    """What is known of one rejected answer."""

    provenance: str
    """constructed (by an operator of ours), own (the user's operator), imported, or sampled (from a model)."""
    votes: int = 0
    """People who decided: chosen, rejected, tie or both bad; unsure and skip do not count."""
    label: str | None = None
    """The adjudicated label."""
    sure: float = 0.0
    """Probability of that label."""
    margin: float | None = None
    """Reward of chosen minus rejected, as a part of the reward's range."""


def tier(evidence: Evidence) -> str | None:
    """The tier of one rejected answer; None where it should not be trained on."""
    if evidence.votes:
        if evidence.label != "chosen" or evidence.sure < SILVER_SURE:
            return None
        return "gold" if evidence.votes >= GOLD_VOTES and evidence.sure >= GOLD_SURE else "silver"
    if evidence.provenance == "constructed" or (evidence.margin or 0.0) >= SILVER_MARGIN:
        return "silver"
    return "bronze"


def provenance(operator: str) -> str:
    """Where an answer with this operator comes from."""
    if operator.startswith("import"):
        return "imported"
    if operator == "own_samples":
        return "sampled"
    return "own" if operator.endswith(".py") or not operator else "constructed"


def worst(tiers: Iterable[str | None]) -> str | None:
    """The tier of a record: that of its least trusted answer; answers without one carry no weight and do not count."""
    found = [one for one in tiers if one is not None]
    return max(found, key=ORDER.index) if found else None


def draw(tiers: Sequence[str | None], count: int, *, seed: int = 0) -> np.ndarray:
    """Int[count] record numbers, drawn with replacement in proportion to the weight of their tier.

    Raises ValueError where no record weighs anything.
    """
    weights = np.array([WEIGHTS[one] for one in tiers], dtype=float)
    if not weights.sum() > 0:
        raise ValueError("no record has a tier with a weight above 0; nothing can be drawn.")
    return np.random.default_rng(seed).choice(len(weights), size=count, p=weights / weights.sum())
