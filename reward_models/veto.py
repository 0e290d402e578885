"""Veto: -1 for a caption that is not wanted whatever else is good about it, 0 for all others.

    score = load(phrases=["as an AI", "in conclusion"], max_repetition=0.3)
    score(prompts=[""], completions=["As an AI I see a red circle."])    # -> [-1.0]

To be added to rewards that see the clip, with a weight above what these can make up for.
"""

from collections.abc import Callable, Sequence
from typing import Any

from reward_models.completions import text_of


def load(
    device: str = "cpu", *, phrases: list[str] | None = None, max_repetition: float = 0.5, empty: bool = True
) -> Callable[..., list[float | None]]:
    """The reward function. `phrases` are found in any case, inside words too; `max_repetition` is the largest share of
    three-word runs that occurred before in the caption; `empty` vetoes captions without a letter or digit.

    Raises ValueError for an empty phrase, which every caption holds.
    """
    unwanted = [phrase.lower() for phrase in phrases or ()]
    if not all(phrase.strip() for phrase in unwanted):
        raise ValueError(f"veto: phrases are {phrases}, one of which is empty and would veto every caption.")

    def score(*, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
        return [-1.0 if vetoed(text_of(one)) else 0.0 for one in completions]

    def vetoed(text: str) -> bool:
        lower = text.lower()
        if empty and not any(character.isalnum() for character in text):
            return True
        return any(phrase in lower for phrase in unwanted) or repetition(lower) > max_repetition

    return score


def repetition(text: str, n: int = 3) -> float:
    """Share of the runs of n words that occurred before; 0 for a text of fewer words."""
    words = text.split()
    runs = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
