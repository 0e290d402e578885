"""event_replace: one event of the caption gives way to one that did not happen."""

import random
from collections.abc import Sequence

from data_synth.events import Caption, Negative, parse
from data_synth.events.edit import recase, splice
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
        "一只鸟啄着窗户",
        "一只猫跳下椅子",
        "一个人拉上窗帘",
        "服务员倒了一杯咖啡",
    ),
}


def corrupt(
    caption: str | Caption, *, seed: int = 0, pool: Sequence[str] = (), event: int | None = None
) -> Negative | None:
    """Replace one event by one from `pool` (events of other captions; a built-in list without it).

    `event`: index of the event to replace; drawn from `seed` without it. None when the caption has no event or the pool
    has nothing that differs from all events of the caption.
    """
    caption = parse(caption) if isinstance(caption, str) else caption
    if not caption.events:
        return None
    draw = random.Random(f"{seed} {caption.text}")
    index = draw.randrange(len(caption.events)) if event is None else event
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


def _new(candidate: str, caption: Caption) -> bool:
    """Is this event of a given pool different from every event of the caption?"""
    return all(candidate.lower() != e.text.lower() for e in caption.events)
