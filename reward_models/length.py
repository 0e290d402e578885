"""Length prior: 1 for a caption whose number of words lies in a range, less outside of it.

    score = load(low=12, high=40)
    score(prompts=[""], completions=["A red circle moves left."])    # -> [5 / 12]

A prior, which knows nothing of the clip: alone, or weighed too high, it is hacked at once (recipes/hack_length.yaml).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from reward_models.completions import text_of

WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['\u2019-][^\W\u3040-\u30ff\u3400-\u9fff]+)*"
)
"""A Chinese or Japanese character counts as a word."""


def load(device: str = "cpu", *, low: int = 0, high: int | None = None) -> Callable[..., list[float | None]]:
    """The reward function: words / low below `low`, high / words above `high`, 1 between; null: no upper bound.

    Raises ValueError where low is above high, or high is 0.
    """
    if low < 0 or (high is not None and (high < 1 or high < low)):
        raise ValueError(f"length: low is {low} and high {high}, expected 0 <= low <= high and high of at least 1.")

    def score(*, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
        return [of_count(len(WORD.findall(text_of(one))), low, high) for one in completions]

    return score


def of_count(words: int, low: int, high: int | None) -> float:
    """The score of a number of words, in [0, 1]."""
    if words < low:
        return words / low
    return 1.0 if high is None or words <= high else high / words
