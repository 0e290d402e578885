"""Rule parser for Chinese captions: sentences and clauses by punctuation, connectives at their start."""

import re

from data_synth.events.types import BEFORE, SIMULTANEOUS, UNKNOWN, Caption, Event, Relation

_MARKER = re.compile(
    r"(?P<sequence>然后|随后|接着|接下来|紧接着|之后|最后|最终|随即|再)|(?P<neutral>首先|起初|一开始|先)"
)
_CUT = re.compile(r"[，。！？；,!?;\n]+")


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Sentence spans, closing punctuation included."""
    return [m.span() for m in re.finditer(r"[^。！？!?\n]*[^。！？!?\n\s][。！？!?]*", text)]


def leading_marker(text: str, start: int, end: int) -> tuple[str, str, int]:
    """The connective that `text[start:end]` opens with: (words, class, where the rest starts)."""
    found = _MARKER.match(text, start, end)
    return (found.group(), found.lastgroup or "", found.end()) if found else ("", "", start)


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Narrow a span to the event: no connective in front, no punctuation or space around."""
    while end > start and not text[end - 1].isalnum():
        end -= 1
    while start < end and not text[start].isalnum():
        start += 1
    found = _MARKER.match(text, start, end)
    return (trim(text, found.end(), end)) if found else (start, end)


def clause_parts(text: str, start: int, end: int) -> tuple[str, tuple[int, int] | None, int | None]:
    """(verb, span of the subject, where the predicate starts); the rules leave them open."""
    return "", None, None


def parse(text: str, use_jieba: bool = False) -> Caption:
    """Parse a Chinese caption."""
    sentences = split_sentences(text)
    events, relations = [], []
    for number, (start, end) in enumerate(sentences):
        bounds = [start] + [m.end() for m in _CUT.finditer(text, start, end)] + [end]
        for s, e in zip(bounds, bounds[1:], strict=False):
            cue = _MARKER.match(text, s, e)
            low, high = trim(text, s, e)
            if high <= low:
                continue
            events.append(Event(low, high, text[low:high], sentence=number))
            if len(events) > 1:
                kind = (
                    BEFORE if cue and cue.lastgroup == "sequence" else SIMULTANEOUS if "同时" in text[s:e] else UNKNOWN
                )
                relations.append(
                    Relation(len(events) - 2, len(events) - 1, kind, cue.group() if cue and kind == BEFORE else "")
                )
    return Caption(text, "zh", tuple(sentences), tuple(events), tuple(relations), "rules")
