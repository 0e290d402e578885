"""insert_event: an event that did not happen is told in the middle of those that did."""

import random
import re
from collections.abc import Sequence

from data_synth.events import Caption, Event, Negative, parse, zh
from data_synth.events.edit import end_as, lower_first
from data_synth.events.mentions_zh import is_fragment
from data_synth.events.order import content_words, overlap
from data_synth.negatives.event_replace import POOL

CONNECTIVES = {"en": ("Then", "Next,", "After that,"), "zh": ("然后", "接着", "随后")}


def corrupt(
    caption: str | Caption, *, seed: int = 0, pool: Sequence[str] = (), after: int | None = None
) -> Negative | None:
    """Insert one event from `pool` (events of other captions; a built-in list without it) as a sentence of its own.

    `after`: index of the sentence that it follows; drawn from `seed` without it. None when every event of the pool
    resembles one of the caption.
    """
    caption = parse(caption) if isinstance(caption, str) else caption
    told = sorted({e.sentence for e in caption.events if _happens(caption, e)}) if after is None else [after]
    if not told:
        return None  # nothing happens that something could come after
    draw = random.Random(f"{seed} {caption.text}")
    known = [content_words(e.text, caption.language) for e in caption.events]
    source = [p.strip().rstrip(".。") for p in (pool or POOL[caption.language])]
    source = [p for p in source if p and all(overlap(content_words(p, caption.language), k) < 0.5 for k in known)]
    if not source:
        return None
    new = draw.choice(source)
    chinese = caption.language == "zh"
    open_places = [k for k in told if not _leans(caption, k) and not _quoted(caption, k)]
    if not open_places:
        return None
    place = draw.choice(open_places)
    end = caption.sentences[place][1]
    following = caption.text[end:].lower()
    said = draw.choice([c for c in CONNECTIVES[caption.language] if not following.lstrip().startswith(c.lower())])
    sentence = f"{said}{new}。" if chinese else f"{said} {lower_first(new)}."
    closed = caption.text[end - 1] in '.!?。！？"”'
    lead = ("" if closed else ("，" if chinese else ".")) + ("" if chinese else " ")
    sentence = sentence if caption.text[end:].strip() else end_as(sentence, caption.text)
    text = caption.text[:end] + lead + sentence + caption.text[end:]
    start = end + len(lead)
    edit = {"spans": [[end, end]], "rejected_spans": [[start, start + len(sentence)]], "after": place}
    return Negative(text, "insert_event", edit, f"'{new}' did not happen")


_POINTS_BACK = re.compile(r"\b(?:he|she|it|they|his|her|their|its)\b|它|" + zh.PRONOUN, re.IGNORECASE)


def _happens(caption: Caption, event: Event) -> bool:
    """Not a state, and in Chinese no thing without a verb (一张照片)."""
    return not event.stative and not (caption.language == "zh" and is_fragment(event.text))


def _quoted(caption: Caption, place: int) -> bool:
    """Does a Chinese sentence end within a quotation (“…跳过了懒狗。@2024！”)?"""
    told = caption.text[: caption.sentences[place][1]]
    return told.count("“") > told.count("”") or (caption.language == "zh" and told.endswith("”"))


def _leans(caption: Caption, place: int) -> bool:
    """Does the next sentence speak of "him", who would then be the actor of what was inserted?"""
    if place + 1 >= len(caption.sentences):
        return False
    return _POINTS_BACK.search(caption.text[slice(*caption.sentences[place + 1])]) is not None
