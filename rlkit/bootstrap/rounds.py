"""The rounds of one system: what each came to, when the loop ends, and which round is the best."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from rlkit.bootstrap.choose import Decision
from rlkit.running.folder import RunFolder


@dataclass
class Round:
    """What one training came to."""

    number: int
    folder: RunFolder
    rows: list[dict[str, Any]]
    """Samples, as they are on disk."""
    totals: np.ndarray
    """What they are ranked by, [samples]."""
    decisions: list[Decision]
    looked: dict[str, Any]
    """What was measured; `guard` has the `held_out` judge and the `diversity` by which the loop ends and goes back."""
    trained: dict[str, Any]
    """`sha256` of the weights, `seconds`, and what else was counted."""

    @property
    def acceptance(self) -> float:
        """Share of the samples that were accepted."""
        return float(np.mean([one.accepted for one in self.decisions]))

    @property
    def kept(self) -> list[int]:
        """Numbers of the samples that are kept."""
        return [at for at, one in enumerate(self.decisions) if one.kept]

    def told(self) -> dict[str, Any]:
        """Its numbers, for results.json and the curves."""
        return {
            "round": self.number,
            "acceptance": self.acceptance,
            "kept": len(self.kept),
            "copies_drawn": sum(one.copy for one in self.decisions),
            "copies_kept": sum(self.decisions[at].copy for at in self.kept),
            "missing_rewards": int(np.isnan(self.totals).sum()),
            "guard_held_out": self.looked["guard"]["held_out"],
            "guard_diversity": self.looked["guard"]["diversity"],
        }


One = TypeVar("One", bound=Round)


@dataclass
class Course(Generic[One]):
    """The rounds of one system and seed."""

    rounds: list[One]
    last: One
    """The one that is reported and saved."""
    stopped: str | None


def go_on(
    first: One,
    after: Callable[[One], One],
    *,
    naive: bool,
    rounds: int,
    patience: int,
    max_diversity_drop: float,
) -> Course[One]:
    """At most `rounds` rounds from the first; `naive` goes through all and reports the last, else the best counts."""
    found, stopped = [first], None
    while len(found) < rounds and stopped is None:
        found.append(after(found[-1]))
        if not naive:
            stopped = ended(found, patience=patience, max_diversity_drop=max_diversity_drop)
    return Course(found, found[-1 if naive else best(found, max_diversity_drop)], stopped)


def best(rounds: Sequence[Round], max_diversity_drop: float) -> int:
    """The place of the round that the held-out judge liked best, among those that kept the first one's diversity."""
    allowed = [at for at, one in enumerate(rounds) if not _narrow(one, rounds[0], max_diversity_drop)]
    return max(allowed, key=lambda at: (rounds[at].looked["guard"]["held_out"], -at))


def ended(rounds: Sequence[Round], *, patience: int, max_diversity_drop: float) -> str | None:
    """Why the loop is over after these rounds, or None."""
    last = rounds[-1]
    if not last.kept:
        return f"round {last.number} kept no sample"
    if _narrow(last, rounds[0], max_diversity_drop):
        return f"round {last.number} lost more than {max_diversity_drop:.0%} of the first one's diversity"
    since = len(rounds) - 1 - best(rounds, max_diversity_drop)
    if since >= patience:
        return f"the held-out judge has not risen for {since} round{'s' if since > 1 else ''}"
    return None


def _narrow(one: Round, first: Round, max_drop: float) -> bool:
    return one.looked["guard"]["diversity"] < (1 - max_drop) * first.looked["guard"]["diversity"]
