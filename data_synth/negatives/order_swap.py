"""order_swap: two neighbouring events change places, only where the caption itself says which comes first.

The connectives stay in their slots ("Then", "Finally", "before"), subjects that name the same one stay too, a first
mention keeps the full noun. Refused: simultaneous, unordered, repeated and stative events, and every swap that the round
trip through the parser does not read as the opposite order (clauses swapped together with their connective, for one).
"""

import random

from data_synth.events import AFTER, BEFORE, Caption, Event, Negative, parse
from data_synth.events.edit import recase, splice
from data_synth.events.order import content_words, order_flipped, order_of, overlap

REPEAT = 0.6
"""Two events that share more than this part of their content words count as the same event repeated."""


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
    """Swap the clauses, or the whole sentences when the events stand in two of them; None when it does not read well."""
    a, b = caption.events[first], caption.events[second]
    spans = [(a.start, a.end), (b.start, b.end)]
    if a.sentence != b.sentence and caption.parser != "given":
        spans = [_sentence_body(caption, a), _sentence_body(caption, b)]
    texts = [caption.text[slice(*span)] for span in spans]
    swapped = exchange(texts[0], texts[1], caption)
    if swapped is None:
        return None
    text, landed = splice(caption.text, [(*spans[0], swapped[0]), (*spans[1], swapped[1])])
    negative = Negative(
        text,
        "order_swap",
        {"spans": [list(s) for s in spans], "rejected_spans": landed, "events": [first, second]},
        f"{_quote(a)} and {_quote(b)} change places; the caption orders them by {_cue(caption, first, second)}",
    )
    if caption.parser == "given":
        return negative if text != caption.text else None
    return negative if order_flipped(caption, (first, second), parse(text, caption.language)) else None


def exchange(first: str, second: str, caption: Caption) -> tuple[str, str] | None:
    """What stands in the first and in the second slot after the swap; None when a word would dangle."""
    if caption.language == "zh":
        from data_synth.events import mentions_zh

        return mentions_zh.swap(first, second)
    from data_synth.events import mentions

    swapped = mentions.swap(first, second, caption.text)
    if swapped is None and caption.parser == "given":
        swapped = recase(second, first, caption.text), recase(first, second, caption.text)
    return swapped


def _sentence_body(caption: Caption, event: Event) -> tuple[int, int]:
    """The sentence of an event without its opening connective and closing punctuation."""
    inside = [e for e in caption.events if e.sentence == event.sentence]
    return inside[0].start, inside[-1].end


def _quote(event: Event) -> str:
    return f"'{event.text}'"


def _cue(caption: Caption, first: int, second: int) -> str:
    cues = [caption.relation(i, i + 1).cue for i in range(first, second)]
    return ", ".join(f"'{cue}'" for cue in cues if cue) or "its order"
