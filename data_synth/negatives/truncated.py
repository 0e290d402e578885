"""truncated: the caption stops too early, at the end of an event and properly closed; or, as a kind of its own, in
mid-clause."""

import random
import re

from data_synth.events import Caption, Negative, parse
from data_synth.events.edit import end_as
from data_synth.events.fragments import no_ending


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
    if no_ending(caption, count):
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
