"""drop_event: one event is left out; the connectives keep their slots, so that nothing tells where."""

import random
import re
from collections.abc import Sequence

from data_synth.events import Caption, Event, Negative, parse, zh
from data_synth.events import en_words as words
from data_synth.events.edit import capital_first, end_as, recase
from data_synth.events.fragments import CAMERA_TAG, HALF, SETTING, listed, opens_a_sequence, runs_on, shares_object
from data_synth.events.nouns import noun_phrases, same_referent, subject_of


def corrupt(caption: str | Caption, *, seed: int = 0, event: int | None = None) -> Negative | None:
    """Leave out one event: the later ones move up into its slot and the last slot goes.

    `event`: index of the one to leave out; drawn from `seed` without it. None when there is only one, when a
    subordinate clause ("before", "while") ties it to another, or when what comes after leans on it ("again").
    """
    caption = parse(caption) if isinstance(caption, str) else caption
    count = len(caption.events)
    if count < 2:
        return None
    index = random.Random(f"{seed} {caption.text}").randrange(count) if event is None else event
    around = [caption.relation(k, k + 1) for k in (index - 1, index) if 0 <= k < count - 1]
    if any(r.kind in ("after", "simultaneous") or r.cue in ("before", "until", "when", "后", "前") for r in around):
        return None
    if runs_on(caption) or _tied(caption, index) or (index == count - 1 and listed(caption, index)):
        return None
    text, dropped = caption.text, caption.events[index]
    remaining = [e for k, e in enumerate(caption.events) if k != index]
    bodies = [_body(caption, e, k, index) for k, e in enumerate(remaining)]
    if len(bodies) == 1 and caption.language == "zh" and SETTING.search(remaining[0].text):
        return None
    if any(body is None for body in bodies) or _loses_subject(caption, remaining) or _needed(caption, index):
        return None
    parts, cursor = [], 0
    for slot, body in zip(caption.events, bodies, strict=False):
        parts += [text[cursor : slot.start], body if caption.language == "zh" else recase(body, slot.text, text)]
        cursor = slot.end
    last = caption.events[-1]
    ending = text[last.end :] if text[last.end :].strip() else ("。" if caption.language == "zh" else ".")
    rejected = "".join(parts) + ending
    rejected = rejected if caption.language == "zh" or text[:1].islower() else capital_first(rejected)
    rejected = end_as(rejected, text)
    if caption.language == "zh" and opens_a_sequence(parse(rejected, "zh")):
        return None
    edit = {"spans": [[dropped.start, dropped.end]], "rejected_spans": [], "event": index}
    return Negative(rejected, "drop_event", edit, f"'{dropped.text}' is missing")


_CONTINUES = re.compile(
    r"\b(?:again|continues?|continuing|still|also|another|others?|both|rest|more|so|same|as well as)\b", re.IGNORECASE
)
_PRONOUN = re.compile(r"\b(?:he|she|it|they|him|them|his|its|their|her)\b", re.IGNORECASE)
_SUBORDINATE = re.compile(r"\b(?:as|after|before|once|when|while|whilst|until|if|because|since)\b", re.IGNORECASE)
_SOMEBODY = re.compile(r"[人孩女男师员生手者们狗猫豹狐]")
_ZH_LEANS = re.compile(
    r"^(?:[后前旁上里下]面|旁边|[背身]后|背景|周围|四周|其中|以及|和|并|或|而)|[向到进给成][\u3400-\u9fff]|^[露现]出|它|其"
)
"""A clause that leans on the one before it: 后面有, 以及, 喷向人群 (what?)."""


def _tied(caption: Caption, index: int) -> bool:
    """Do the slots from here on hold "as" or "after", or 之后 and 时, which go with their own clause alone?"""
    events, text = caption.events[index:], caption.text
    if caption.language == "zh":
        return any(HALF.match(text, one.end) for one in events)
    start = caption.events[index - 1].end if index else 0
    starts = [start, *(one.end for one in events)]
    return any(_SUBORDINATE.search(text, low, one.start) for low, one in zip(starts, events, strict=False))


def _needed(caption: Caption, index: int) -> bool:
    """Whether what comes after speaks of something that only this event introduces, or goes on from it."""
    event, after = caption.events[index], caption.events[index + 1 :]
    if caption.language == "zh":
        before = caption.text[: event.start]
        return _needed_zh(event, after, index == 0) or _unknown_zh(before, event.text, after)
    if not subject_of(event.text) and re.match(r"\w+ing\b", event.text):
        return True  # "dancing … and moving their arms": a manner, no event
    if shares_object(caption, index) or (index and shares_object(caption, index - 1)):
        return True
    if not after:
        return False
    if not subject_of(after[0].text) and re.match(r"\w+ing\b", after[0].text):
        return True  # "clips of women smiling | and looking": half of a list
    who = subject_of(event.text)
    carried = who if index == 0 and same_referent(who, subject_of(after[0].text)) else ""
    if _CONTINUES.search(after[0].text) or _named_later(caption, index, carried):
        return True
    pronouns = {found.lower() for found in _PRONOUN.findall(after[0].text)}
    stranger = index == 0 and not carried
    return bool(pronouns) if stranger else not pronouns.isdisjoint(("it", "them"))


def _needed_zh(event: Event, after: Sequence[Event], first: bool) -> bool:
    if CAMERA_TAG.fullmatch(event.text) or re.match(r"以及|和|并|或", event.text):
        return True
    if after and "不是" in event.text and re.match("而?是", after[0].text):
        return True  # nothing is lost with what did not happen
    leans = bool(after) and _ZH_LEANS.search(after[0].text) is not None
    nobody = first and any(re.search(zh.PRONOUN, one.text) for one in after)
    return leans or nobody or any(not one.subject for one in after[1:])


def _unknown_zh(before: str, dropped: str, after: Sequence[Event]) -> bool:
    """Does 他们 of the next event speak of somebody whom only the dropped one names?"""
    pronoun = bool(after) and re.search(zh.PRONOUN, after[0].text) is not None
    return pronoun and _SOMEBODY.search(before) is None and _SOMEBODY.search(dropped) is not None


def _named_later(caption: Caption, index: int, carried: str) -> bool:
    """Whether a later event says "the jack" of a jack that this one tells of first; not of the subject that stays."""
    event = caption.events[index]
    before = caption.text[: event.start].lower()
    rest = " ".join(one.text for one in caption.events[index + 1 :]).lower()
    new = [p for p in noun_phrases(event.text) if p.determiner != "the" and not carried.endswith(p.text)]
    heads = [re.escape(p.head) for p in new if not re.search(rf"\b{re.escape(p.head)}", before)]
    return any(re.search(rf"\b(?:the|this|that|these|those) (?:\w+ )?{head}", rest) for head in heads)


def _loses_subject(caption: Caption, remaining: list[Event]) -> bool:
    """Would an English event without a subject of its own move to a place where a sentence or a clause needs one, or a
    whole sentence to the end of a list (", and …")?"""
    if caption.language == "zh":
        return False
    return any(
        slot is not event and not subject_of(event.text) and (subject_of(slot.text) or event.sentence != slot.sentence)
        for slot, event in zip(caption.events[1:], remaining[1:], strict=False)
    ) or any(
        slot.sentence != event.sentence and caption.text[previous.end : slot.start].startswith(",")
        for previous, slot, event in zip(caption.events, caption.events[1:], remaining[1:], strict=False)
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
