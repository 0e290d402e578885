"""Which words two captions share: pieces of each, marked as common or its own, for highlighting."""

import re
from difflib import SequenceMatcher

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# A Chinese or Japanese character, a word, a run of spaces, or one other character; joined they give the text back.
_PIECE = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+(?:['’-][^\W{_CJK}]+)*|\s+|.", re.DOTALL)

Pieces = list[tuple[str, bool]]


def word_diff(before: str, after: str) -> tuple[Pieces, Pieces]:
    """(pieces of `before`, pieces of `after`), each `(text, changed)`; the texts of one list join to the whole.

    Case counts as a change only where the word is another: "The" and "the" are the same word.
    """
    left, right = _PIECE.findall(before), _PIECE.findall(after)
    matcher = SequenceMatcher(None, [w.casefold() for w in left], [w.casefold() for w in right], autojunk=False)
    old: Pieces = []
    new: Pieces = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        _add(old, "".join(left[i1:i2]), tag != "equal")
        _add(new, "".join(right[j1:j2]), tag != "equal")
    return _close_gaps(old), _close_gaps(new)


def _add(pieces: Pieces, text: str, changed: bool) -> None:
    if text:
        pieces.append((text, changed))


def _close_gaps(pieces: Pieces) -> Pieces:
    """Join changed words over the space between them, and leave spaces at the ends of a change unmarked."""
    joined: Pieces = []
    for index, (text, changed) in enumerate(pieces):
        inner = 0 < index < len(pieces) - 1 and pieces[index - 1][1] and pieces[index + 1][1]
        _append(joined, text, changed or (inner and not text.strip()))
    out: Pieces = []
    for text, changed in joined:
        word = text.strip()
        if not changed or not word:
            _append(out, text, False)
            continue
        start = text.index(word)
        _append(out, text[:start], False)
        _append(out, word, True)
        _append(out, text[start + len(word) :], False)
    return out


def _append(pieces: Pieces, text: str, changed: bool) -> None:
    if text and pieces and pieces[-1][1] == changed:
        pieces[-1] = (pieces[-1][0] + text, changed)
    elif text:
        pieces.append((text, changed))
