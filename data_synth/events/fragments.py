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
HALF = re.compile(r"(?:的?时候?|的同时|之[前后时]|以[前后]|[前后时])(?=[，,])")
"""男人用力|时，: what follows the event says that it tells when something else happens."""


def shares_object(caption: Caption, index: int) -> bool:
    """ "He picks | and places the block": does the English event end on a verb whose object the next one tells?"""
    if caption.language == "zh" or index + 1 >= len(caption.events):
        return False
    event, following = caption.events[index], caption.events[index + 1]
    between = caption.text[event.end : following.start].strip(" ,").lower()
    return between in ("", "and", "or", "then", "and then") and event.text.split()[-1].lower() in words.verb_forms()


def no_ending(caption: Caption, count: int) -> bool:
    """Would the caption stop short of an event if its first `count` events were all of it?"""
    last = caption.events[count - 1]
    if caption.language == "en":
        return shares_object(caption, count - 1) or last.text.split()[-1].lower() in words.AUXILIARIES
    told = [event.text for event in caption.events[:count]]
    setting = SETTING.search(last.text) or HALF.match(caption.text, last.end)
    return setting is not None or all(CAMERA_TAG.fullmatch(text) for text in told)
