"""count_change: another number of things than the caption counts."""

import re

from data_synth.events import Caption, Negative, parse
from data_synth.events.substitute import substitute

_CLASSIFIERS = "个只条名位匹头辆架艘对颗朵座台枚张本杯瓶根件份片盆盘碗袋束支把棵块"

GROUPS = {
    "en": (
        ("two", "three", "four", "five", "six", "seven", "eight"),
        ("2", "3", "4", "5", "6", "7", "8"),
        ("twice", "three times", "four times"),
    ),
    "zh": (
        *(tuple(number + c for number in "两三四五六七八") for c in _CLASSIFIERS),
        ("两次", "三次", "四次"),
        ("两下", "三下", "四下"),
    ),
}
GUARD = re.compile(
    r"\b(?:\d+[.,:/-]\d+|\d+(?:st|nd|rd|th|s|d|k|p|x|%)|(?:19|20)\d\d)\b|"
    r"\b(?:(?:the|these|those|other) two|two of|in two)\b|\d{2,}",
    re.IGNORECASE,
)
"""Times, ordinals, years and fixed phrases count nothing that one can see."""


def corrupt(caption: str | Caption, *, seed: int = 0) -> Negative | None:
    """Change one count of two to eight to another of these (the noun stays plural); None when nothing is counted."""
    caption = parse(caption) if isinstance(caption, str) else caption
    why = "there are '{old}', not '{new}'"
    return substitute(caption, GROUPS[caption.language], "count_change", seed, why, guard=GUARD)
