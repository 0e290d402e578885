"""A mixture that length and words cannot tell apart: what one caption loses, another of the same size gets.

Truncation alone says "the longer one is right", verbosity "the shorter one". Mixed at random the signs cancel, the
sizes and the words do not. Here the end cut off caption A is appended to a caption B that is as long as what is left of
A: both pairs then have the same lengths on their two sides, the other way round, and the same words in between.
"""

import random
from bisect import bisect_left, insort

from data_synth.events import Caption, Negative
from data_synth.negatives import truncated, verbose

TOLERANCE = 0.05
"""Largest difference in length of B from what is left of A, as a part of it."""
MOST = 4096
"""Ends that wait for a caption; the memory of the mixture."""


class Mirror:
    """Makes truncated and verbose negatives that are each other's mirror image, caption by caption."""

    def __init__(self):
        self._waiting: list[tuple[int, str]] = []

    def truncated(self, caption: Caption, seed: int) -> Negative | None:
        """The caption cut at the end of a sentence, the end kept for another caption; None for a single sentence."""
        ends = [k + 1 for k, (a, b) in enumerate(_neighbours(caption)) if a.sentence != b.sentence]
        if not ends:
            return None
        negative = truncated.corrupt(caption, keep=_drawn(ends, caption.text, seed))
        if negative is not None and len(self._waiting) < MOST:
            insort(self._waiting, (len(negative.text), caption.text[len(negative.text) :].strip()))
        return negative

    def verbose(self, caption: Caption, seed: int) -> Negative | None:
        """The caption with the end of another one that had its length; None while none fits."""
        size = len(caption.text.rstrip())
        place = bisect_left(self._waiting, (size, ""))
        near = [k for k in (place - 1, place) if 0 <= k < len(self._waiting)]
        best = min(near, key=lambda k: abs(self._waiting[k][0] - size), default=None)
        if best is None or abs(self._waiting[best][0] - size) > TOLERANCE * size:
            return None
        negative = verbose.corrupt(caption, seed=seed, kind="invented", pool=(self._waiting[best][1],))
        if negative is not None:
            del self._waiting[best]
        return negative


def _neighbours(caption: Caption):
    return zip(caption.events, caption.events[1:], strict=False)


def _drawn(ends: list[int], text: str, seed: int) -> int:
    """One of the ends, by the seed and the caption alone."""
    return random.Random(f"{seed} {text}").choice(ends)
