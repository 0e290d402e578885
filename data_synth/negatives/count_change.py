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
    r"\b(?:\d+[.,:/-]\d+\w*|\d+(?:st|nd|rd|th|s|d|k|p|x|%)|(?:19|20)\d\d)\b|"
    r"\b(?:(?:the|these|those|other|their|his|her) (?:two|three|four|five|six|seven|eight)|two of|in two|"
    r"(?:two|three|four|five|six)[- ](?:way|wheel\w*|piece|story|door|person|lane|on))\b|\d{2,}",
    re.IGNORECASE,
)
"""Times, ordinals, years and fixed phrases count nothing that one can see."""


_COUNTED_BELOW = re.compile(
    r"\b(?:both|either|neither|each other|one another|(?:the |an)?others?|one of|more|each|remaining|"
    r"(?:the|these|those) (?:two|three|four|five|six)|\d+ \w+ and (?:an?|one|two|\d+))\b|"
    r"一[黑白黄红蓝绿大小男女老少]一|另一|两者|双方|彼此|互相",
    re.IGNORECASE,
)
"""Words that tell the number again: "two teams … both"."""


def corrupt(caption: str | Caption, *, seed: int = 0) -> Negative | None:
    """Change one count of two to eight to another of these (the noun stays plural); None when nothing is counted."""
    caption = parse(caption) if isinstance(caption, str) else caption
    if _COUNTED_BELOW.search(caption.text):
        return None
    why = "there are '{old}', not '{new}'"
    return substitute(caption, GROUPS[caption.language], "count_change", seed, why, guard=GUARD, once=True)
