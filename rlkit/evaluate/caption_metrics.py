"""What a generated caption got right: event order, events told, left out and invented, padding, length, repetition.

Pure functions over the events of the true script and the events found in a caption. An event is any hashable value;
two events match when they are equal. Lists are multisets: an event told twice where it happened once matches once, and
the second telling counts as invented. Precision and recall follow scikit-learn's `zero_division=0`, except where there
was nothing to tell, and are averaged over clips (macro), since clips are what the intervals draw.
"""

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence

from rlkit.evaluate.intervals import paired_difference, pool_seeds, summarise

__all__ = ["METRICS", "matched_positions", "paired_difference", "pool_seeds", "score", "summarise"]

METRICS = (
    "order_exact",
    "order_tau",
    "event_precision",
    "event_recall",
    "event_f1",
    "invented_events",
    "extra_sentences",
    "length_words",
    "repetition",
)

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# One token per Chinese or Japanese character; elsewhere a run of word characters, "don't" and "half-way" being one.
_TOKEN = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+(?:['’-][^\W{_CJK}]+)*")


def score(
    true_events: Sequence[Hashable], predicted_events: Sequence[Hashable], extra_sentences: int, text: str
) -> dict[str, float]:
    """All metrics of one caption (`METRICS`, as floats); `order_tau` is NaN when fewer than two events matched."""
    matched = len(matched_positions(true_events, predicted_events))
    precision = event_precision(true_events, predicted_events)
    recall = event_recall(true_events, predicted_events)
    return {
        "order_exact": order_exact(true_events, predicted_events),
        "order_tau": order_tau(true_events, predicted_events),
        "event_precision": precision,
        "event_recall": recall,
        "event_f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "invented_events": float(len(predicted_events) - matched),
        "extra_sentences": float(extra_sentences),
        "length_words": length_words(text),
        "repetition": repetition(text),
    }


def order_exact(true_events: Sequence[Hashable], predicted_events: Sequence[Hashable]) -> float:
    """1.0 when every true event is told, in the true order, and nothing else; 0.0 otherwise."""
    return float(list(true_events) == list(predicted_events))


def order_tau(true_events: Sequence[Hashable], predicted_events: Sequence[Hashable]) -> float:
    """Kendall's tau-b between the true and the told order of the matched events, in [-1, 1]; NaN below two.

    Matched positions are distinct, so there are no ties, and tau-b equals (concordant - discordant) / pairs.
    """
    places = [place for _, place in matched_positions(true_events, predicted_events)]
    pairs = len(places) * (len(places) - 1) // 2
    if pairs == 0:
        return math.nan
    concordant = sum(places[i] < places[j] for i in range(len(places)) for j in range(i + 1, len(places)))
    return (2 * concordant - pairs) / pairs


def event_precision(true_events: Sequence[Hashable], predicted_events: Sequence[Hashable]) -> float:
    """Share of the told events that happened; 0.0 when nothing is told although something happened."""
    if not predicted_events:
        return float(not true_events)
    return len(matched_positions(true_events, predicted_events)) / len(predicted_events)


def event_recall(true_events: Sequence[Hashable], predicted_events: Sequence[Hashable]) -> float:
    """Share of the events that happened which are told; 1.0 when nothing happened."""
    if not true_events:
        return 1.0
    return len(matched_positions(true_events, predicted_events)) / len(true_events)


def invented_events(true_events: Sequence[Hashable], predicted_events: Sequence[Hashable]) -> int:
    """How many told events match no true one (a second telling of the same event included)."""
    return sum((Counter(predicted_events) - Counter(true_events)).values())


def length_words(text: str) -> float:
    """Words of `text`; a Chinese or Japanese character counts as one, punctuation as none."""
    return float(len(_TOKEN.findall(text)))


def repetition(text: str, n: int = 4) -> float:
    """Share of the n-grams of `text` that occurred before in it: 1 - distinct / all; 0.0 below n tokens."""
    tokens = [token.lower() for token in _TOKEN.findall(text)]
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def matched_positions(true_events: Sequence[Hashable], predicted_events: Sequence[Hashable]) -> list[tuple[int, int]]:
    """(true, told) positions of each matched event, in true order; the k-th telling matches the k-th occurrence."""
    told: dict[Hashable, list[int]] = {}
    for position, event in enumerate(predicted_events):
        told.setdefault(event, []).append(position)
    pairs = []
    for position, event in enumerate(true_events):
        if told.get(event):
            pairs.append((position, told[event].pop(0)))
    return pairs
