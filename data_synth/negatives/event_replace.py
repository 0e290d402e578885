"""event_replace: one event of the caption gives way to one that did not happen."""

import random
import re
from collections.abc import Sequence

from data_synth.events import Caption, Negative, parse
from data_synth.events.edit import recase, splice
from data_synth.events.fragments import runs_on
from data_synth.events.nouns import noun_phrases, subject_of
from data_synth.events.order import content_words, overlap

POOL = {
    "en": (
        "a man ties his shoes",
        "a woman opens an umbrella",
        "a child blows out a candle",
        "a dog shakes off the water",
        "a boy drops a glass",
        "a girl folds a letter",
        "a bird pecks at the window",
        "a cat jumps off the chair",
        "a person closes the curtain",
        "a waiter pours some coffee",
    ),
    "zh": (
        "一个男人系好鞋带",
        "一个女人撑开雨伞",
        "一个孩子吹灭蜡烛",
        "一只狗甩干身上的水",
        "一个男孩摔碎了杯子",
        "一个女孩叠好信纸",
        "一只鸟啄了啄窗户",
        "一只猫跳下椅子",
        "一个人拉上窗帘",
        "服务员倒了一杯咖啡",
    ),
}


def corrupt(
    caption: str | Caption, *, seed: int = 0, pool: Sequence[str] = (), event: int | None = None
) -> Negative | None:
    """Replace one event by one from `pool` (events of other captions; a built-in list without it).

    `event`: index of the event to replace; drawn from `seed` without it, of those that nothing around refers to. None
    when the caption has none or the pool has nothing that differs from all events of the caption.
    """
    caption = parse(caption) if isinstance(caption, str) else caption
    if (len(caption.events) < 2 and event is None) or runs_on(caption):
        return None  # another caption would not do as the wrong telling of this one
    draw = random.Random(f"{seed} {caption.text}")
    free = [k for k in range(len(caption.events)) if _replaceable(caption, k)] if event is None else [event]
    if not free:
        return None
    index = draw.choice(free)
    known = [content_words(e.text, caption.language) for e in caption.events]
    source = [p.strip().rstrip(".。") for p in (pool or POOL[caption.language])]
    source = [
        p
        for p in source
        if (p and all(overlap(content_words(p, caption.language), k) < 0.5 for k in known))
        or (pool and _new(p, caption))
    ]
    if not source:
        return None
    old, new = caption.events[index], draw.choice(source)
    text, landed = splice(caption.text, [(old.start, old.end, recase(new, old.text, caption.text))])
    edit = {"spans": [[old.start, old.end]], "rejected_spans": landed, "event": index}
    return Negative(text, "event_replace", edit, f"'{new}' takes the place of '{old.text}'")


_TIED = re.compile(
    r"\b(?:as|while|when|whilst|until|well as|again|who|which|that|continues?|also|another|other)\b|^(?:以及|并|和)|着",
    re.IGNORECASE,
)
_REFERS = re.compile(
    r"\b(?:he|she|it|they|him|her|them|his|hers|its|their|this|these|those|another|again)\b|[他她它其]"
)


def _replaceable(caption: Caption, index: int) -> bool:
    """Whether an event is a clause of its own: it and what follows it have their subjects, and nothing refers to it."""
    event = caption.events[index]
    before = caption.text[caption.sentences[event.sentence][0] : event.start]
    if _TIED.search(event.text) or _TIED.search(before) or caption.relation(index, index + 1).kind == "simultaneous":
        return False
    following = caption.events[index + 1 :]
    if following and _REFERS.search(following[0].text.lower()):
        return False
    if caption.language == "zh":
        if following and re.match(r"[它他她]", event.text):
            return False  # 它在街道上穿梭，丝绸身躯…: whose?
        return (index == 0 or event.subject is not None) and not (following and following[0].subject is None)
    tied = following and following[0].sentence == event.sentence and following[0].subject is None
    if tied or not subject_of(event.text):
        return False
    rest = " ".join(f.text.lower() for f in following)
    first_told = {p.head for p in noun_phrases(event.text) if p.determiner in ("a", "an", "some", "two", "three")}
    return not any(re.search(rf"\bthe (?:\w+ )?{re.escape(head)}\b", rest) for head in first_told)


def _new(candidate: str, caption: Caption) -> bool:
    """Is this event of a given pool different from every event of the caption?"""
    return all(candidate.lower() != e.text.lower() for e in caption.events)
