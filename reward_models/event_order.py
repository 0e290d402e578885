"""Order-aware caption reward without a model: event F1 x order x brevity, from the events a caption tells.

    score = load(parse=my_parser)
    score(prompts=[...], completions=["A red circle moves left. ..."], events=[[["red circle", "moves left"], ...]])

The signature is TRL's reward function. The truth comes as the column `events`; a row without it scores None.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from reward_models.completions import text_of

Parse = Callable[[str], tuple[Sequence[Hashable], int]]
"""caption -> (events told in their order, number of sentences that tell none)"""


def load(device: str = "cpu", *, parse: Parse, extra_penalty: float = 0.8) -> Callable[..., list[float | None]]:
    """The reward function. `extra_penalty` multiplies the score once for every sentence that tells no event."""

    def score(
        *, prompts: Sequence[Any], completions: Sequence[Any], events: Sequence[Any], **_: Any
    ) -> list[float | None]:
        return [
            None if truth is None else reward([_key(event) for event in truth], *parse(text_of(one)), extra_penalty)
            for one, truth in zip(completions, events, strict=True)
        ]

    return score


def reward(truth: Sequence[Hashable], told: Sequence[Hashable], extra: int, extra_penalty: float = 0.8) -> float:
    """F1 of the events told, times (1 + tau) / 2 of their order, times extra_penalty per empty sentence; in [0, 1].

    tau is Kendall's over the events both tell; below two such events order cannot be wrong and counts 1.
    """
    told = [_key(event) for event in told]
    matched, left = [], list(truth)
    for event in told:
        if event in left:
            left.remove(event)
            matched.append(list(truth).index(event))
    if not told or not truth:
        return float(not told and not truth)
    precision, recall = len(matched) / len(told), len(matched) / len(truth)
    f1 = 2 * precision * recall / (precision + recall) if matched else 0.0
    return f1 * (1 + _tau(matched)) / 2 * extra_penalty**extra


def _tau(positions: Sequence[int]) -> float:
    pairs = [(a, b) for i, a in enumerate(positions) for b in positions[i + 1 :] if a != b]
    if not pairs:
        return 1.0
    return sum(1 if a < b else -1 for a, b in pairs) / len(pairs)


def _key(event: Any) -> Hashable:
    return tuple(event) if isinstance(event, list) else event
