"""attribute_swap: another colour, size, material, age or speed than the one that the caption names."""

import re

from data_synth.events import Caption, Negative, parse
from data_synth.events.substitute import substitute

GROUPS = {
    "en": (
        ("red", "blue", "green", "yellow", "black", "white"),
        ("purple", "green", "yellow", "black", "white"),
        ("orange", "blue", "green", "black", "white"),
        ("brown", "blue", "green", "white"),
        ("pink", "blue", "green", "black"),
        ("big", "small"),
        ("large", "small"),
        ("tall", "short"),
        ("young", "old"),
        ("wooden", "metal", "plastic", "glass", "stone"),
        ("striped", "dotted", "checkered", "plain"),
        ("quickly", "slowly"),
        ("fast", "slow"),
        ("open", "closed"),
        ("empty", "full"),
        ("wet", "dry"),
        ("round", "square"),
        ("sunny", "rainy", "cloudy", "snowy"),
        ("day", "night"),
    ),
    "zh": (
        ("红色", "蓝色", "绿色", "黄色", "黑色", "白色"),
        ("紫色", "绿色", "黄色", "黑色", "白色"),
        ("橙色", "蓝色", "绿色", "黑色", "白色"),
        ("棕色", "蓝色", "绿色", "白色"),
        ("粉色", "蓝色", "绿色", "黑色"),
        ("年轻", "年老"),
        ("高大", "矮小"),
        ("木制", "金属", "塑料", "玻璃"),
        ("条纹", "格子", "圆点"),
        ("快速", "缓慢"),
        ("白天", "夜晚"),
        ("晴天", "雨天", "雪天"),
        ("空的", "满的"),
    ),
}
GUARD = re.compile(
    r"\b(?:orange juice|black and white|black-and-white|red wine|white wine|short (?:film|video|clip|while)|(?:an|the|"
    r"some|of|peels?|eats?) orange(?!\s\w)|"
    r"round and round|(?:a|the|his|her|each|into|wine|shot|martini) glass(?!\s(?:door|window|table|bottle|jar|bowl))|"
    r"old(?! (?:\w+ )?(?:man|woman|men|women|people|person|lady|guy|gentleman|couple|dog|cat)\b)|"
    r"oranges|day of|one day|old town|open the|opens?|to open|full of|full[- ]\w+|dry(?:s|ing)? (?:the|his|her|it)|"
    r"to dry|white house|"
    r"green (?:beans?|onions?|tea|screen)|brown sugar|glass of|fast food|fast motion|slow motion|"
    r"at night|night sk(?:y|ies)|day and night|night and day|"
    r"(?:white|black) (?:man|men|woman|women|people|guys?|lady|ladies|males?|females?)|黑白色?|"
    r"(?:tall|short)(?! (?:\w+ )?(?:man|woman|boy|girl|person|guy|lady|men|women|people|trees?|buildings?)\b))\b",
    re.IGNORECASE,
)
"""Places where the word is no attribute, or one that makes a name with its noun."""
_CHILDREN = re.compile(r"\b(?:girl|boy|child|kid|teen|toddler)", re.IGNORECASE)
"""Somebody young by another word: "an old woman … the girl"."""


def corrupt(caption: str | Caption, *, seed: int = 0) -> Negative | None:
    """Swap one attribute for another of its kind that the caption does not hold; None when it names none."""
    caption = parse(caption) if isinstance(caption, str) else caption
    groups = GROUPS[caption.language]
    if _CHILDREN.search(caption.text):
        groups = [g for g in groups if "old" not in g]
    why = "it is '{old}', not '{new}'"
    return substitute(caption, groups, "attribute_swap", seed, why, guard=GUARD, once=True)
