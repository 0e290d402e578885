"""Call a reward on rows so that a bad row costs that row only, and whatever is no finite number is no score.

outcomes(score, [Row("a dog", image), Row("a cat", broken)])   # [Outcome(0.7), Outcome(error="ValueError: ...")]
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


class RewardUnusable(RuntimeError):  # noqa: N818
    """Raised by a reward that cannot score anything at all (a refused token, an unknown name): no row is to blame, and
    going on would only mask everything."""


@dataclass(frozen=True)
class Row:
    """One thing to score, with its values of further columns."""

    prompt: Any
    completion: Any
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A score, or the reason why there is none; neither where the reward itself says None."""

    score: float | None = None
    error: str | None = None


def outcomes(score: Callable[..., Iterable[Any]], rows: Sequence[Row]) -> list[Outcome]:
    """One outcome per row, in order. Rows with the same columns go into one call; a call that raises, or returns
    another number of scores than it was given rows, is repeated row by row.

    Raises RewardUnusable where the reward does.
    """
    found: list[Outcome] = [Outcome()] * len(rows)
    alike: dict[frozenset[str], list[int]] = {}
    for place, row in enumerate(rows):
        alike.setdefault(frozenset(row.columns), []).append(place)
    for places in alike.values():
        group = [rows[place] for place in places]
        for place, outcome in zip(places, _together(score, group), strict=True):
            found[place] = outcome
    return found


def mean(found: Iterable[Outcome]) -> float:
    """Mean over the rows that have a score; NaN where none has. A missing score is not 0."""
    scores = [one.score for one in found if one.score is not None]
    return math.fsum(scores) / len(scores) if scores else math.nan


def as_outcome(value: Any) -> Outcome:
    """What a reward returned for one row: a number (also of numpy or torch), or None."""
    if value is None:
        return Outcome()
    try:
        if isinstance(value, str | bytes):
            raise TypeError("text")
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several numbers
        return Outcome(error=f"the reward returned a {type(value).__name__}; expected one number or None.")
    return Outcome(number) if math.isfinite(number) else Outcome(error=f"the reward returned {number}.")


def _together(score: Callable[..., Iterable[Any]], rows: Sequence[Row]) -> list[Outcome]:
    columns = {name: [row.columns[name] for row in rows] for name in rows[0].columns}
    try:
        values = list(
            score(prompts=[row.prompt for row in rows], completions=[row.completion for row in rows], **columns)
        )
        if len(values) != len(rows):
            raise ValueError(f"the reward returned {len(values)} scores for {len(rows)} rows")
        return [as_outcome(value) for value in values]
    except RewardUnusable:
        raise
    except (Exception, SystemExit) as error:  # a reward is anybody's code; one that exits must not end its server
        if len(rows) == 1:
            return [Outcome(error=f"{type(error).__name__}: {str(error)[:300]}")]
    return [outcome for row in rows for outcome in _together(score, [row])]
