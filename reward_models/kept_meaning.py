"""Does a rewritten prompt still say what the short one said? Rules on text, no model.

    score = load()
    score(prompts=["two red balls"], completions=["Two red bars on a teal background, close-up."])    # -> [0.67]

Where the prompt is about things of the world (reward_models/world_picture.py), the score is the share of the parts it
names that the rewrite names alike: number, colour, shape, and ground and distance where they were asked for. Of any
other prompt it is the share of its words, but for the little ones, that the rewrite has, a plural counting as its
singular; that does not see what is added or turned into its opposite, so take an embedding or a language model where
these matter. An empty prompt scores None.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from reward_models.completions import text_of
from reward_models.world_picture import asked

LITTLE = frozenset("a an the of on in at to with and or is are it its this that some my me i please".split())


def load(device: str = "cpu") -> Callable[..., list[float | None]]:
    """The reward function."""

    def score(*, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
        return [kept(text_of(one), text_of(other)) for one, other in zip(prompts, completions, strict=True)]

    return score


def kept(prompt: str, rewrite: str) -> float | None:
    """The share in [0, 1] of what `prompt` says that `rewrite` says too; None for a prompt that says nothing."""
    named = asked(prompt)
    if named:
        again = asked(rewrite)
        return sum(again.get(part) == told for part, told in named.items()) / len(named)
    words, again = _words(prompt), _words(rewrite)
    return len(words & again) / len(words) if words else None


def _words(text: str) -> set[str]:
    found = re.findall(r"\w+", text.lower())
    return {word[:-1] if len(word) > 3 and word.endswith("s") else word for word in found} - LITTLE
