"""What a caption cannot consist of: events that lean on the next one, settings, and notes on how it was filmed."""

import re

from data_synth.events import en_words as words
from data_synth.events.types import Caption

CAMERA_TAG = re.compile(r"(?:固定|静态|静止)(?:的?镜头|机位)?|(?:镜头|摄像机|相机|机位)(?:保持)?(?:固定|静止)(?:不动)?")
"""固定镜头, 镜头静止: how it was filmed, which is no event and no description by itself."""
SETTING = re.compile(
    r"(?:[上下中里内外前后旁边]|时候?|之[前后])$|^(?:随着|当|为了|因为|由于)|"
    r"^[一几两三][名位个只][^，]{0,4}(?:穿着|身穿|戴着|背着)[^的]*$"
)
"""出门前, 昏暗的天空下, 一名穿着深绿色衬衫: where and when, or half a subject, no event that could end a caption."""
_MARK = re.compile(r"[,;:.!?]")
_FIRST = re.compile(r"首先|起初|一开始|先是|先(?!生|前|后|进|锋|辈)")
"""Leaves one waiting for what comes next."""
HALF = re.compile(r"(?:的?时候?|的同时|之[前后时]|以[前后]|[前后时])(?=[，,])")
"""男人用力|时，: what follows the event says that it tells when something else happens."""


def shares_object(caption: Caption, index: int) -> bool:
    """ "He picks | and places the block": does the English event end on a verb whose object the next one tells?"""
    if caption.language == "zh" or index + 1 >= len(caption.events):
        return False
    event, following = caption.events[index], caption.events[index + 1]
    between = caption.text[event.end : following.start].strip(" ,").lower()
    return between in ("", "and", "or", "then", "and then") and event.text.split()[-1].lower() in words.verb_forms()


def listed(caption: Caption, count: int) -> bool:
    """Are the events before and after number `count - 1` of one English list ("pans, | pauses, | and tilts"), which
    cannot end on a comma?"""
    if caption.language == "zh" or count < 2:
        return False
    previous, last = caption.events[count - 2 : count]
    return caption.text[previous.end : last.start].strip() == "," and not last.subject


def runs_on(caption: Caption) -> bool:
    """Does an English sentence of more than thirty words stand without a mark: several steps of which nobody says where
    one ends?"""
    if caption.language == "zh":
        return False
    told = (caption.text[s:e] for s, e in caption.sentences)
    return any(text.count(" ") > 30 and _MARK.search(text[:-1]) is None for text in told)


def opens_a_sequence(caption: Caption, count: int | None = None) -> bool:
    """Does the last of the first `count` Chinese events hold 先, so that one waits for what comes next?"""
    events = caption.events[:count]
    before = events[-2].end if len(events) > 1 else 0
    return bool(events) and _FIRST.search(caption.text, before, events[-1].end) is not None


def no_ending(caption: Caption, count: int) -> bool:
    """Would the caption stop short of an event if its first `count` events were all of it?"""
    last = caption.events[count - 1]
    if caption.language == "en":
        if runs_on(caption) or listed(caption, count):
            return True
        return shares_object(caption, count - 1) or last.text.split()[-1].lower() in words.AUXILIARIES
    told = [event.text for event in caption.events[:count]]
    setting = SETTING.search(last.text) or HALF.match(caption.text, last.end)
    if opens_a_sequence(caption, count):
        return True
    return setting is not None or all(CAMERA_TAG.fullmatch(text) for text in told)
