"""Edits on captions: replace spans and know where the replacements landed; upper and lower case at sentence starts."""

import re

from data_synth.events import en_words as words

_COMMON = set(
    "people men women children kids girls boys someone somebody everyone everybody water snow text words music".split()
).union(words.DETERMINERS, words.PREPOSITIONS, words.ADVERBS, words.POSSESSIVES, words.SUBJECT_PRONOUNS)


def splice(text: str, replacements: list[tuple[int, int, str]]) -> tuple[str, list[list[int]]]:
    """Replace non-overlapping spans; returns the new text and the span of each replacement in it, in the order
    given."""
    if not replacements:
        return text, []
    order = sorted(range(len(replacements)), key=lambda k: replacements[k][:2])
    parts, landed, cursor, length = [], [[0, 0] for _ in replacements], 0, 0
    for k in order:
        start, end, new = replacements[k]
        if start < cursor:
            raise ValueError(f"spans overlap at character {start} of {text!r}")
        parts += [text[cursor:start], new]
        length += start - cursor
        landed[k] = [length, length + len(new)]
        length += len(new)
        cursor = end
    parts.append(text[cursor:])
    return "".join(parts), landed


_CLOSED = re.compile(r"[.!?。！？…][\"'”’)]*\s*$")


def end_as(text: str, like: str) -> str:
    """`text` without its full stop where `like` has none: the end must not tell which of the two is the true one."""
    return text if _CLOSED.search(like) else re.sub(r"[.。]\s*$", "", text)


def capital_first(text: str) -> str:
    """First letter upper case, the rest untouched."""
    return text[:1].upper() + text[1:]


def lower_first(text: str, context: str = "") -> str:
    """First letter lower case unless the first word looks like a name, an acronym or "I" (`context`: the whole
    caption)."""
    found = re.match(r"[A-Za-z'’-]+", text)
    if found is None:
        return text
    word = found.group()
    low = word.lower()
    if low in {"i", "i'm", "i'll", "i've"} or (len(word) > 1 and word[1:] != word[1:].lower()):
        return text
    if f" {word}" in context and re.search(rf"[a-z,;] {re.escape(word)}\b", context):
        return text  # capitalised in the middle of a sentence: a name
    known = low in _COMMON or low in words.verb_forms() or low.endswith(("s", "ing", "ly"))
    if not known and low in context:
        known = re.search(rf"(?<![.!?] )(?<!^)\b{re.escape(low)}\b", context) is not None
    return low[:1] + text[1:] if known else text


def recase(text: str, like: str, context: str = "") -> str:
    """Give `text` the first-letter case of the text `like` whose slot it takes."""
    return capital_first(text) if like[:1].isupper() else lower_first(text, context)
