"""truncated: the caption stops too early, at the end of an event and properly closed; or, as a kind of its own, in
mid-clause."""

import random
import re

from data_synth.events import Caption, Negative, parse, zh
from data_synth.events import en_words as words
from data_synth.events.edit import end_as
from data_synth.negatives.drop_event import shares_object

_SETTING = re.compile(
    r"(?:[上下中里内外前后旁边]|时候?|之[前后])$|^(?:随着|当|为了|因为|由于)|"
    r"^[一几两三][名位个只][^，]{0,4}(?:穿着|身穿|戴着|背着)[^的]*$"
)
"""出门前, 昏暗的天空下, 一名穿着深绿色衬衫: where and when, or half a subject, no event that could end a caption."""

_HALF = re.compile(r"(?:的?时候?|的同时|之[前后时]|以[前后]|[前后时])(?=[，,])")
"""男人用力|时，: the clause says when something else happens."""


def corrupt(
    caption: str | Caption, *, seed: int = 0, dangling: bool = False, keep: int | None = None
) -> Negative | None:
    """Keep the first events of a caption and close the sentence; None when there are fewer than two.

    `keep`: how many events stay; drawn from `seed` without it. `dangling`: stop within the next event instead, without
    a full stop (kind truncated_dangling): that teaches grammar, not completeness, and is told apart for that reason.
    """
    caption = parse(caption) if isinstance(caption, str) else caption
    if len(caption.events) < 2:
        return None
    count = keep or random.Random(f"{seed} {caption.text}").randrange(1, len(caption.events))
    if not 0 < count < len(caption.events):
        return None
    text, last = caption.text, caption.events[count - 1]
    lost = [[last.end, len(text.rstrip())]]
    if dangling:
        cut = _inside(caption, caption.events[count].start, caption.events[count].end)
        if cut is None:
            return None
        kept = text[:cut].rstrip()
        return Negative(
            kept,
            "truncated_dangling",
            {"spans": [[len(kept), len(text)]], "events": count},
            "it breaks off in mid-clause",
        )
    stop = "。" if caption.language == "zh" else "."
    rest = text[last.end :]
    closing = re.match(r"[\"'”’]*[.!?。！？]+[\"'”’]*", rest)
    if shares_object(caption, count - 1) or last.text.split()[-1].lower() in words.AUXILIARIES:
        return None
    if caption.language == "zh" and (_SETTING.search(last.text) or _HALF.match(rest)):
        return None
    if caption.language == "zh" and all(zh.CAMERA_TAG.fullmatch(e.text) for e in caption.events[:count]):
        return None
    kept = end_as(text[: last.end] + (closing.group() if closing else stop), text)
    missing = len(caption.events) - count
    return Negative(
        kept,
        "truncated",
        {"spans": lost, "events": count},
        f"the last {missing} of {len(caption.events)} events are missing",
    )


def _inside(caption: Caption, start: int, end: int) -> int | None:
    """A place inside an event after which something must follow."""
    if caption.language == "zh":
        return start + (end - start) // 2 if end - start >= 4 else None
    gaps = [start + m.start() for m in re.finditer(r" ", caption.text[start:end])]
    return gaps[len(gaps) // 2] if gaps else None
