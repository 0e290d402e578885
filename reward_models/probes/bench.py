"""A reward on the bench: each call on copies, within a deadline, its answer audited; and the statistics of the probes.

Differences of scores are given in `spread`: the standard deviation of the reward's own scores, so that probes need not
know its scale.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from reward_models.probes.items import MEDIA, Items, copied, digest
from reward_models.probes.report import ProbeError

Score = Callable[..., list[float | None]]
LEAST = 1e-9
"""A spread below this part of the scores' size is rounding: the scores are constant."""
SAME = 0.01
"""Differences up to this part of the spread are no difference."""
EXCHANGES = 3
"""How many other rows each row's evidence is exchanged with."""


class Bench:
    """A loaded reward with the items it is probed on.

    base: scores of the items in one batch [n], NaN where None; all NaN where that call failed, for which
    `first_failure` says why. slowest: seconds of the longest call. odd_numbers: what was returned that is NaN or
    infinite, in all calls.
    """

    def __init__(
        self, load: Callable[..., Score], items: Items, conditional: bool | Literal["auto"], deadline_s: float
    ) -> None:
        self.load, self.items, self.conditional, self.deadline_s = load, items, conditional, deadline_s
        self.slowest, self.hung, self.odd_numbers = 0.0, False, []
        self.score = load()
        self.base, self.first_failure = np.full(len(items), math.nan), ""
        try:
            self.base = self(items)
        except ProbeError as failed:
            self.first_failure = str(failed)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the scores of the items, or of good completions under own and foreign evidence if that
        is larger (a judge that finds all items right would have none). 0 for constant scores."""
        try:
            pairs = np.concatenate(self.with_other_evidence)
        except ProbeError:  # prompt_exchanged tells
            pairs = np.array([])
        return max(_deviation(self.base[~np.isnan(self.base)]), _deviation(pairs))

    def reloaded(self, **options: str) -> Score:
        """The reward, loaded once more; nothing here keeps it, since two may be more than the memory holds.

        Raises TypeError as `load` does for an option that it does not take, ProbeError for all else that it raises.
        """
        try:
            return self.load(**options)
        except TypeError:
            raise
        except Exception as raised:  # foreign code: whatever it raises is the finding
            raise ProbeError(f"loading once more raised {type(raised).__name__}: {raised}") from raised

    def __call__(self, items: Items, score: Score | None = None) -> np.ndarray:
        """Scores of one batch [n], NaN for None. Raises ProbeError where the reward raises, is late, or returns
        anything but a list of n numbers and None."""
        score = self.score if score is None else score
        columns = {name: copied(list(values)) for name, values in items.columns.items()}
        prompts, completions = copied(list(items.prompts)), copied(list(items.completions))
        found = self.within(lambda: score(prompts=prompts, completions=completions, **columns))
        return self.audited(found, len(items))

    def within(self, call: Callable[[], Any]) -> Any:
        """What `call` returns, in a thread of its own. Raises ProbeError if it raises or passes the deadline; such a
        thread cannot be stopped and is left behind, so that nothing else can be asked of the reward."""
        if self.hung:
            raise ProbeError("not asked: an earlier call still runs")
        answer, error = [], []

        def work() -> None:
            try:
                answer.append(call())
            except Exception as raised:  # foreign code: whatever it raises is the finding
                error.append(raised)

        start = time.perf_counter()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(self.deadline_s)
        self.slowest = max(self.slowest, time.perf_counter() - start)
        if thread.is_alive():
            self.hung = True
            raise ProbeError(
                f"no answer within {self.deadline_s:g} s. A trainer would wait as long: put a time limit on what the "
                "reward waits for and return None for what came too late."
            )
        if error or not answer:
            raised = f"{type(error[0]).__name__}: {error[0]}" if error else "the thread ended without an answer"
            raise ProbeError(f"raised {raised}")
        return answer[0]

    def audited(self, found: Any, n: int) -> np.ndarray:
        """`found` as numbers; NaN and infinite ones are noted in `odd_numbers` and count as no score."""
        if not isinstance(found, list):
            raise ProbeError(f"returned {type(found).__name__}; expected a list of {n} floats or None.")
        if len(found) != n:
            raise ProbeError(f"returned {len(found)} scores for {n} completions; expected one each.")
        wrong = next((one for one in found if isinstance(one, bool) or not isinstance(one, float | int | None)), None)
        if wrong is not None:
            raise ProbeError(f"returned a {type(wrong).__name__} as a score; expected float or None: float(...) it.")
        self.odd_numbers += [one for one in found if one is not None and not math.isfinite(one)]
        return np.array([math.nan if one is None or not math.isfinite(one) else float(one) for one in found])

    def moved(self, items: Items, score: Score | None = None) -> np.ndarray:
        """|change| of each item that had a score, in spreads, when `items` stands in its place. [items with a score].

        Raises ProbeError where an item loses its score: None in place of a number is not the same answer.
        """
        return differences(self.base, self(items, score), self.spread)

    def rises(self, items: Items, places: Sequence[int]) -> np.ndarray:
        """Change of the rows `places` in spreads when `items` (those rows, changed) stand in their place."""
        found = (self(items) - self.base[list(places)]) / self.spread
        return found[~np.isnan(found)]

    def exchanged(self, names: Sequence[str], *, own_completion: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the best rows with their own evidence and with that of other rows: [m], [m], NaN dropped.

        `names`: what is exchanged, "prompts" or columns. own_completion=False exchanges the completion alone. Each row
        meets EXCHANGES others, drawn by lot; where both are equal in what is exchanged, the pair is left out.
        """
        places = np.array(self.items.best())
        ours, theirs = [], []
        for seed in range(EXCHANGES):
            drawn = np.random.default_rng(seed).permutation(len(places))
            others = np.empty_like(places)
            others[drawn] = places[np.roll(drawn, 1)]  # one circle: nobody meets itself
            own, other = self.items.rows(places), self.items.rows(others)
            if own_completion:
                prompts = other.prompts if "prompts" in names else own.prompts
                columns = own.columns | {name: other.columns[name] for name in names if name != "prompts"}
                mixed = Items(own.kind, prompts, own.completions, columns)
            else:
                mixed = own.with_completions(other.completions)
            keep = [i for i in range(len(places)) if _content(own, i) != _content(mixed, i)]
            if keep:
                ours.append(self.base[places][keep])
                theirs.append(self(mixed)[keep])
        if not ours:
            return np.array([]), np.array([])
        own, other = np.concatenate(ours), np.concatenate(theirs)
        scored = ~np.isnan(own) & ~np.isnan(other)
        return own[scored], other[scored]

    @cached_property
    def with_other_evidence(self) -> tuple[np.ndarray, np.ndarray]:
        """Own and other scores of the best rows when all but the completion is exchanged."""
        return self.exchanged(["prompts", *self.items.columns])

    @cached_property
    def with_other_media(self) -> tuple[np.ndarray, np.ndarray]:
        """Own and other scores of captions when only their clips and pictures are exchanged."""
        return self.exchanged([name for name in MEDIA if name in self.items.columns])

    @cached_property
    def reads_media(self) -> bool:
        """Whether pictures or clips matter at all: always for completions that are such, else by exchanging them."""
        if self.items.kind != "text":
            return True
        own, other = self.with_other_media
        return bool((np.abs(own - other) > SAME * self.spread).any())

    @cached_property
    def reads_evidence(self) -> bool:
        """Whether anything but the completion matters for the score."""
        own, other = self.with_other_evidence
        return bool((np.abs(own - other) > SAME * self.spread).any())


def _deviation(scores: np.ndarray) -> float:
    """Standard deviation with the lowest and highest twentieth drawn in: one outlier must not hide all else, while a
    judge of rare defects keeps the few low scores that make up its spread."""
    if len(scores) < 2 or np.ptp(scores) <= LEAST * max(1.0, float(np.abs(scores).max())):
        return 0.0
    inner = float(np.std(np.clip(scores, *np.quantile(scores, [0.05, 0.95]))))
    return inner or float(np.std(scores))


def differences(before: np.ndarray, after: np.ndarray, spread: float) -> np.ndarray:
    """|after - before| / spread of the items scored before; ProbeError where one of them has no score after."""
    scored = ~np.isnan(before)
    lost = int(np.isnan(after[scored]).sum())
    if lost:
        raise ProbeError(f"{lost} of {int(scored.sum())} items lose their score (None, NaN or infinite).")
    change = np.abs(after[scored] - before[scored])
    return change / spread if spread else np.where(change == 0, 0.0, math.inf)


def t_of(values: np.ndarray) -> float:
    """Student's t of the mean against 0; infinite where all values are equal and not 0."""
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    if deviation == 0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / deviation * math.sqrt(len(values))


def _content(items: Items, row: int) -> str:
    return digest(
        [items.prompts[row], items.completions[row], *(values[row] for values in items.columns.values())],
    )
