"""drop_event: one event is left out; the connectives keep their slots, so that nothing tells where."""

import random

from data_synth.events import Caption, Event, Negative, parse
from data_synth.events import en_words as words
from data_synth.events.edit import capital_first, recase
from data_synth.events.mentions import subject_of


def corrupt(caption: str | Caption, *, seed: int = 0, event: int | None = None) -> Negative | None:
    """Leave out one event: the later ones move up into its slot and the last slot goes.

    `event`: index of the one to leave out; drawn from `seed` without it. None when there is only one, or when a
    subordinate clause ("before", "while") ties it to another.
    """
    caption = parse(caption) if isinstance(caption, str) else caption
    count = len(caption.events)
    if count < 2:
        return None
    index = random.Random(f"{seed} {caption.text}").randrange(count) if event is None else event
    around = [caption.relation(k, k + 1) for k in (index - 1, index) if 0 <= k < count - 1]
    if any(r.kind in ("after", "simultaneous") or r.cue in ("before", "until", "when", "后", "前") for r in around):
        return None
    text, dropped = caption.text, caption.events[index]
    remaining = [e for k, e in enumerate(caption.events) if k != index]
    bodies = [_body(caption, e, k, index) for k, e in enumerate(remaining)]
    if any(body is None for body in bodies) or _loses_subject(caption, remaining):
        return None
    parts, cursor = [], 0
    for slot, body in zip(caption.events, bodies, strict=False):
        parts += [text[cursor : slot.start], body if caption.language == "zh" else recase(body, slot.text, text)]
        cursor = slot.end
    last = caption.events[-1]
    ending = text[last.end :] if text[last.end :].strip() else ("。" if caption.language == "zh" else ".")
    rejected = "".join(parts) + ending
    rejected = rejected if caption.language == "zh" else capital_first(rejected)
    edit = {"spans": [[dropped.start, dropped.end]], "rejected_spans": [], "event": index}
    return Negative(rejected, "drop_event", edit, f"'{dropped.text}' is missing")


def _loses_subject(caption: Caption, remaining: list[Event]) -> bool:
    """Would an English event without a subject of its own move to a place where a sentence or a clause needs one?"""
    if caption.language == "zh":
        return False
    return any(
        slot is not event and not subject_of(event.text) and (subject_of(slot.text) or event.sentence != slot.sentence)
        for slot, event in zip(caption.events[1:], remaining[1:], strict=False)
    )


def _body(caption: Caption, event: Event, place: int, index: int) -> str | None:
    """The words of an event that stays; after the first one is gone its subject stands in for a pronoun."""
    if place != index or index != 0:
        return event.text
    first = caption.events[0]
    if caption.language == "zh":
        who = caption.text[slice(*first.subject)] if first.subject else ""
        return event.text if event.subject else who + event.text
    subject = subject_of(event.text)
    if subject and subject.lower() not in words.SUBJECT_PRONOUNS:
        return event.text
    who = subject_of(first.text)
    if not who:
        return None
    return who + event.text[len(subject) :] if subject else f"{who} {event.text}"
