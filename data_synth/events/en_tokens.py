"""Words and marks of English captions, with their places; plain texts, which most are, without a pattern."""

import re
from functools import lru_cache

_TOKEN = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*|\d+(?:[.,]\d+)*|[^\w\s]")


class Tokens:
    """Words and marks of a text as parallel lists: what they say in lower case, and their spans [start, end).

    Lists of plain strings and numbers, not one object per token: a caption has hundreds of tokens and is read many
    times.
    """

    __slots__ = ("lower", "spans", "text")

    def __init__(self, text: str, lower: list[str], spans: list[tuple[int, int]]):
        self.text, self.lower, self.spans = text, lower, spans

    def __len__(self) -> int:
        return len(self.lower)

    def upper_first(self, i: int) -> bool:
        """Does token i open with a capital letter?"""
        return self.text[self.spans[i][0]].isupper()

    def without_first(self) -> "Tokens":
        """All but the first token."""
        return Tokens(self.text, self.lower[1:], self.spans[1:])


def tokens(text: str, start: int = 0, end: int | None = None) -> Tokens:
    """Words and punctuation marks of `text[start:end]`, places in the whole text."""
    return _tokens(text, start, len(text) if end is None else end)


@lru_cache(maxsize=1024)
def _tokens(text: str, start: int, end: int) -> Tokens:
    body = text[start:end]
    low, plain = body.lower(), plain_words(body)
    if plain is None:
        found = list(_TOKEN.finditer(low if len(low) == len(body) else body))
        return Tokens(text, [m[0] for m in found], [(start + m.start(), start + m.end()) for m in found])
    spans, place = [], 0
    for word in plain:
        place = low.index(word, place)
        spans.append((start + place, start + place + len(word)))
        place += len(word)
    return Tokens(text, plain, spans)


@lru_cache(maxsize=4096)
def plain_words(text: str) -> list[str] | None:
    """The tokens of a text of nothing but ASCII letters, spaces, commas and full stops, in lower case; else None.

    Most captions are that plain, and splitting at spaces takes a quarter of the time of a pattern.
    """
    low = text.lower()
    if not low.isascii() or not low.replace(" ", "").replace(",", "").replace(".", "").isalpha():
        return None
    return low.replace(",", " , ").replace(".", " . ").split()


@lru_cache(maxsize=4096)
def words_in_order(text: str) -> list[str]:
    """What the words and marks of a text say, in lower case: `tokens(text).lower` without the places."""
    plain = plain_words(text)
    return tokens(text).lower if plain is None else plain
