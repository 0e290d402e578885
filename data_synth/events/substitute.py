"""One word or phrase of a caption gives way to another of its group: what several operators share."""

import random
import re
from collections.abc import Sequence
from functools import lru_cache

from data_synth.events.edit import capital_first, splice
from data_synth.events.types import Caption, Negative

Groups = Sequence[Sequence[str]]
"""Each group holds phrases that exclude each other ("left", "right"); any of them may take the place of another."""


def substitute(
    caption: Caption,
    groups: Groups,
    kind: str,
    seed: int,
    why: str,
    *,
    guard: re.Pattern | None = None,
    absent: bool = True,
    once: bool = False,
) -> Negative | None:
    """Replace one phrase, drawn by `seed`, by another of its group; None when the caption holds none.

    `guard`: places that it matches are left alone ("right away"). `absent`: never take a phrase that the caption
    already holds, since the result might be true of another thing in it. `once`: leave a phrase alone that stands
    twice, since the two may speak of the same thing.
    """
    text, draw = caption.text, random.Random(f"{seed} {kind} {caption.text}")
    low = text.lower()
    blocked = [m.span() for m in guard.finditer(text)] if guard is not None else []
    places = [
        (m.start(), m.end(), group)
        for group in groups
        if _named(low, tuple(group))
        for m in _pattern(tuple(group), caption.language).finditer(text)
        if not any(s < m.end() and m.start() < e for s, e in blocked)
    ]
    places = [p for p in places if not any(_inside(p, q) for q in places)]
    if once:
        places = [p for p in places if low.count(text[p[0] : p[1]].lower()) == 1]
    draw.shuffle(places)
    for start, end, group in places:
        old = text[start:end]
        others = [p for p in group if p != old.lower() and not (absent and _holds(low, p, caption.language))]
        if not others:
            continue
        new = draw.choice(others)
        new = capital_first(new) if old[:1].isupper() else new
        edits = [(start, end, new), *_article(text, start, new)]
        rejected, landed = splice(text, edits)
        edit = {"spans": [[start, end]], "rejected_spans": landed[:1], "from": old, "to": new}
        return Negative(rejected, kind, edit, why.format(old=old, new=new))
    return None


def _inside(place: tuple, other: tuple) -> bool:
    """Is the phrase only a part of another: the "close-up" of a "close-up shot"?"""
    return other[0] <= place[0] and place[1] <= other[1] and other[1] - other[0] > place[1] - place[0]


def _named(low: str, group: tuple[str, ...]) -> bool:
    """Whether any phrase may stand in the text: mostly not. A loop, since any() takes three times as long."""
    for phrase in group:
        if phrase in low:
            return True
    return False


@lru_cache(maxsize=4096)
def _pattern(group: tuple[str, ...], language: str) -> re.Pattern:
    options = "|".join(re.escape(p) for p in sorted(group, key=len, reverse=True))
    return re.compile(options if language == "zh" else rf"(?<![\w-])(?:{options})(?![\w-])", re.IGNORECASE)


def _holds(low: str, phrase: str, language: str) -> bool:
    return phrase in low if language == "zh" else re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", low) is not None


def _article(text: str, start: int, new: str) -> list[tuple[int, int, str]]:
    """The edit that turns "a" into "an" or back in front of the new word."""
    found = re.search(r"\b(an?) $", text[:start], re.IGNORECASE)
    if not found:
        return []
    article = "an" if new[:1].lower() in "aeiou" else "a"
    article = capital_first(article) if found.group(1)[0].isupper() else article
    return [] if article == found.group(1) else [(found.start(1), found.end(1), article)]
