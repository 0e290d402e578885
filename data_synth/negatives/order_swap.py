"""order_swap: two neighbouring events change places, only where something says which comes first.

In a caption that is one text, the evidence is a connective ("then", "before",
"先…再"). In a list of sentences it is that,
or a sequence judged likely enough by `events.narrative`. Connectives stay in their slots, subjects that name the
same one
stay too, a first mention keeps the full noun. Refused: simultaneous, unordered, repeated and stative events, and every
swap that the round trip through the parser does not read as the opposite order (clauses swapped together with their
connective, for one).
"""

import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from data_synth.events import (
    AFTER,
    BEFORE,
    Caption,
    Event,
    Negative,
    detect_language,
    en,
    mentions,
    mentions_zh,
    parse,
    zh,
)
from data_synth.events.background import is_background
from data_synth.events.edit import recase, splice
from data_synth.events.narrative import overlap_risk
from data_synth.events.order import content_words, order_flipped, order_of, overlap

REPEAT = 0.6
"""Two events that share more than this part of their content words count as the same event repeated."""
_SUMMARY = re.compile(r"\bhow to\b|\b(?:tutorial|lesson|demonstration)\b", re.IGNORECASE)
"""A sentence that says what the whole clip is about goes on while the next one happens."""
_GOES_ON = re.compile(r"(?:[^\s,]+ ){1,6}?(?:is|are|was|were) (?:\w+ly )?(?!being|seen|shown)\w+ing\b", re.IGNORECASE)
"""He is pulling the handles: two of these in a row go on at the same time."""
_ORDER_WORD = re.compile(r"now|then|next|finally|first|later|eventually|afterwards")
RISK = -0.52
"""Highest `overlap_risk` at which two neighbouring sentences without a connective still count as a sequence."""


def corrupt(caption: str | Caption, *, seed: int = 0, pair: tuple[int, int] | None = None) -> Negative | None:
    """Swap two neighbouring events whose order is stated; None when no pair qualifies.

    `pair`: indices of the events to swap; without it, every pair is tried in an order drawn from `seed`.
    """
    caption = parse(caption) if isinstance(caption, str) else caption
    pairs = [pair] if pair else [(i, i + 1) for i in range(len(caption.events) - 1)]
    random.Random(f"{seed} {caption.text}").shuffle(pairs)
    for first, second in pairs:
        if refusal(caption, first, second):
            continue
        negative = _swap(caption, first, second)
        if negative is not None:
            return negative
    return None


def refusal(caption: Caption, first: int, second: int) -> str:
    """Why these two events must not be swapped, in words; "" when nothing speaks against it."""
    kind = order_of(caption, first, second)
    if kind not in (BEFORE, AFTER):
        return f"their order is {kind}"
    a, b = caption.events[first], caption.events[second]
    if overlap(content_words(a.text, caption.language), content_words(b.text, caption.language)) >= REPEAT:
        return "the event is repeated"
    if caption.parser == "given":
        return ""
    if a.stative or b.stative:
        return "a state has no place in the order"
    return ""


def _swap(caption: Caption, first: int, second: int) -> Negative | None:
    """Swap the clauses, or the whole sentences when the events stand in two; None when it does not read well."""
    a, b = caption.events[first], caption.events[second]
    spans = [(a.start, a.end), (b.start, b.end)]
    if a.sentence != b.sentence and caption.parser != "given":
        spans = [_sentence_body(caption, a), _sentence_body(caption, b)]
    if caption.language == "en" and _carries_on(caption, first, second):
        return None
    texts = [caption.text[slice(*span)] for span in spans]
    swapped = _exchange(texts[0], texts[1], caption, caption.text[: spans[0][0]])
    if swapped is None:
        return None
    text, landed = splice(caption.text, [(*spans[0], swapped[0]), (*spans[1], swapped[1])])
    negative = Negative(
        text,
        "order_swap",
        {"spans": [list(s) for s in spans], "rejected_spans": landed, "events": [first, second]},
        f"'{a.text}' and '{b.text}' change places; the caption orders them by {_cue(caption, first, second)}",
    )
    if caption.parser == "given":
        return negative if text != caption.text else None
    return negative if order_flipped(caption, (first, second), parse(text, caption.language)) else None


def _carries_on(caption: Caption, first: int, second: int) -> bool:
    """ "…, his back is done | then lifts his tail": does what follows in the sentence share the subject of `second`?"""
    if second + 1 >= len(caption.events):
        return False
    a, b, following = (caption.events[k] for k in (first, second, second + 1))
    if following.sentence != b.sentence or mentions.subject_of(following.text):
        return False
    return not mentions.same_referent(mentions.subject_of(a.text), mentions.subject_of(b.text))


def _exchange(first: str, second: str, caption: Caption, before: str) -> tuple[str, str] | None:
    """What stands in the first and in the second slot after the swap; None when a word would dangle."""
    if caption.language == "zh":
        swapped = mentions_zh.swap(first, second)
        return (second, first) if swapped is None and caption.parser == "given" else swapped
    swapped = mentions.swap(first, second, caption.text, before)
    if swapped is None and caption.parser == "given":
        swapped = recase(second, first, caption.text), recase(first, second, caption.text)
    return swapped


def _sentence_body(caption: Caption, event: Event) -> tuple[int, int]:
    """The sentence of an event without its opening connective and closing punctuation."""
    inside = [e for e in caption.events if e.sentence == event.sentence]
    return inside[0].start, inside[-1].end


def _cue(caption: Caption, first: int, second: int) -> str:
    cues = [caption.relation(i, i + 1).cue for i in range(first, second)]
    return ", ".join(f"'{cue}'" for cue in cues if cue) or "its order"


def corrupt_sentences(sentences: Sequence[str], *, first: int, language: str | None = None) -> Negative | None:
    """Swap sentences `first` and `first + 1` of a description given as a list; None when the order has no evidence.

    `Negative.text` joins the sentences (by a space; Chinese without); `edit["sentences"]` holds the two positions.
    """
    language = language or detect_language(" ".join(sentences))
    gap = "" if language == "zh" else " "
    a, b = sentences[first], sentences[first + 1]
    a_kind, a_span = _body(a, language)
    b_kind, b_span = _body(b, language)
    if "simultaneous" in (a_kind, b_kind) or a_span[0] >= a_span[1] or b_span[0] >= b_span[1]:
        return None
    risk = overlap_risk(sentences, first, RISK) if language == "en" else 0.0
    if (language == "zh" and b_kind != "sequence") or risk > RISK:
        return None
    texts = a[slice(*a_span)], b[slice(*b_span)]
    if language == "en" and _at_once(texts, first):
        return None
    keys = [content_words(texts[0], language), content_words(texts[1], language)]
    if not keys[0] or not keys[1] or overlap(*keys) >= REPEAT:
        return None
    before = gap.join(sentences[:first])
    swapped = mentions_zh.swap(*texts) if language == "zh" else mentions.swap(*texts, " ".join(sentences), before)
    if swapped is None or (language == "en" and _said_twice(a[: a_span[0]], swapped[0])):
        return None
    if not _turned(keys, [content_words(text, language) for text in swapped]):
        return None
    replaced = a[: a_span[0]] + swapped[0] + a[a_span[1] :], b[: b_span[0]] + swapped[1] + b[b_span[1] :]
    text = gap.join([*sentences[:first], *replaced, *sentences[first + 2 :]])
    edit = _sentence_edit(sentences, first, gap, (a_span, b_span), swapped) | {"overlap_risk": risk}
    evidence = "a connective" if b_kind == "sequence" else f"the course of the story (overlap risk {risk:.2f})"
    return Negative(text, "order_swap", edit, f"sentences {first} and {first + 1} change places; ordered by {evidence}")


def _said_twice(lead: str, clause: str) -> bool:
    """Would "Now" stand in front of "she is now going"?"""
    said = _ORDER_WORD.findall(lead.lower()) if lead else []
    return bool(said) and not set(clause.lower().split(",")[0].split()[:5]).isdisjoint(said)


def _at_once(texts: tuple[str, str], first: int) -> bool:
    """Does one of two English sentences tell a background or sum the clip up, or do both tell what goes on?"""
    if is_background(texts[0]) or is_background(texts[1]) or (first == 0 and _SUMMARY.search(texts[0])):
        return True
    return _GOES_ON.match(texts[0]) is not None and _GOES_ON.match(texts[1]) is not None


def sentence_pairs(sentences: Sequence[str], parser: str = "rules") -> Iterator[Negative]:
    """Every neighbouring pair of a list of sentences that may be swapped.

    `parser`: with "spacy" (English, where it is installed) a sentence whose main verb it reads elsewhere is left alone.
    """
    if parser == "spacy":
        yield from (negative for negative in _by_rules(tuple(sentences)) if _confirmed(sentences, negative))
        return
    language = detect_language(" ".join(sentences))
    for first in range(len(sentences) - 1):
        negative = corrupt_sentences(sentences, first=first, language=language)
        if negative is not None:
            yield negative


def to_confirm(sentences: Sequence[str]) -> Iterator[str]:
    """The sentences that spaCy reads for `sentence_pairs`: those that the rules would swap, less than half."""
    for place in sorted({k for negative in _by_rules(tuple(sentences)) for k in negative.edit["sentences"]}):
        yield sentences[place]


@lru_cache(maxsize=512)
def _by_rules(sentences: tuple[str, ...]) -> tuple[Negative, ...]:
    return tuple(sentence_pairs(sentences))


def _confirmed(sentences: Sequence[str], negative: Negative) -> bool:
    """Does spaCy find the main verb of both English sentences where the rules do? True where it is not installed."""
    from data_synth.events import en_spacy

    if en_spacy.model() is None or detect_language(" ".join(sentences)) == "zh":
        return True
    told = [sentences[k] for k in negative.edit["sentences"]]
    found = [(sentence, en.clause_parts(sentence, *_body(sentence, "en")[1])[2]) for sentence in told]
    return all(start is not None and en_spacy.confirms(sentence, start) for sentence, start in found)


@lru_cache(maxsize=1024)
def _body(sentence: str, language: str) -> tuple[str, tuple[int, int]]:
    """(class of the connective that opens the sentence, span of the rest without closing punctuation)."""
    grammar = zh if language == "zh" else en
    kind = grammar.leading_marker(sentence, 0, len(sentence))[1]
    return kind, grammar.trim(sentence, 0, len(sentence))


def proves(chosen: str, rejected: str, edit: dict) -> bool:
    """The round trip on a finished pair, from the two texts and the edit alone: do they tell opposite orders?

    Whole captions are parsed again and their orders compared; for sentences, whose order is that of the telling, each
    slot of the rejected text must hold what the other slot of the chosen text held.
    """
    language = detect_language(chosen)
    if "events" in edit:
        return order_flipped(parse(chosen, language), tuple(edit["events"]), parse(rejected, language))
    told = [content_words(chosen[s:e], language) for s, e in edit["spans"]]
    return _turned(told, [content_words(rejected[s:e], language) for s, e in edit["rejected_spans"]])


def _turned(before: list[frozenset], after: list[frozenset]) -> bool:
    """Round trip: the first slot now tells what the second told, and the other way round."""
    crossed = overlap(after[0], before[1]) + overlap(after[1], before[0])
    return crossed > overlap(after[0], before[0]) + overlap(after[1], before[1])


def _sentence_edit(sentences: Sequence[str], first: int, gap: str, spans: tuple, swapped: tuple[str, str]) -> dict:
    """Where the two bodies stand in the joined chosen and rejected text."""
    start = sum(len(s) + len(gap) for s in sentences[:first])
    second = start + len(sentences[first]) + len(gap)
    chosen = [[start + spans[0][0], start + spans[0][1]], [second + spans[1][0], second + spans[1][1]]]
    shift = len(swapped[0]) - (spans[0][1] - spans[0][0])
    rejected = [
        [chosen[0][0], chosen[0][0] + len(swapped[0])],
        [chosen[1][0] + shift, chosen[1][0] + shift + len(swapped[1])],
    ]
    return {"spans": chosen, "rejected_spans": rejected, "sentences": [first, first + 1]}
