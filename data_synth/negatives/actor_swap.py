"""actor_swap: somebody else does it. Two actors of a caption change roles; a single one gives way to another."""

import random
import re

from data_synth.events import Caption, Negative, parse, zh
from data_synth.events import en_words as words
from data_synth.events.edit import splice

GROUPS = {
    "en": (
        ("man", "woman", "boy", "girl"),
        ("men", "women", "boys", "girls"),
        ("dog", "cat", "horse", "bird"),
        ("dogs", "cats", "horses", "birds"),
        ("circle", "square", "triangle", "star"),
    ),
    "zh": (
        ("男人", "女人", "男孩", "女孩"),
        ("男子", "女子"),
        ("狗", "猫", "鸟"),
        ("圆形", "方块", "三角形", "星形"),
    ),
}
_FAMILY = {"en": (0, 0, 1, 1, 2), "zh": (0, 0, 1, 2)}
"""Groups of one family name the same kind of actor: of "a boy … a group of boys" both or none changes."""
_COMPOUND = {
    "en": r"(?:\s+made\b)",
    "zh": r"(?:笼|粮|屋|窝|巢|肉|尾|拉松|路|戏|术|上衣|装|厕|士|生|友|朋友|性|儿)",
}
_COMPOUND_HEAD = {
    "en": r"(?<![\w-])(?<!herd of )(?<!flock of )(?<!pack of )(?<!pommel )",
    "zh": r"(?<![热海斑熊野赛飞天鸵菜])",
}
"""A man-made lake, 热狗, 熊猫: names in which the word is no actor."""
_FOOD = re.compile(r"\b(?:hot|corn|chili)[ -]?dogs?\b", re.IGNORECASE)
"""Where these are told of, "the dogs" are food too."""
_STAR = re.compile(
    r"\b(?:film|movie|rock|pop|sports?|five|guest|gold|of) (?:the )?stars?$|\bin an? (?:\w+ )?circle$", re.IGNORECASE
)
_NEXT_WORD = re.compile(r" ([A-Za-z]+)")
_AFTER_NOUN = set("and or but who that which while as when then before after because so can may must".split())
_LEFT_OVER = re.compile(r"\b(?:another|other|others|both|each other|one another)\b|另一|其他|其余|都", re.IGNORECASE)
"""Where one actor is spoken of beside another of its kind, replacing one leaves the other without sense."""
_NEAR = [{"man", "boy"}, {"woman", "girl"}, {"men", "boys"}, {"women", "girls"}, {"男人", "男孩"}, {"女人", "女孩"}]
_MALE = {"man", "men", "boy", "boys", "男人", "男孩", "男子"}
_TO_SHE = {"he": "she", "him": "her", "his": "her", "himself": "herself", "他": "她"}
_TO_HE = {"she": "he", "herself": "himself", "hers": "his", "她": "他"}
_PRONOUN = re.compile(r"\b(?:he|him|his|himself|she|her|hers|herself)\b|" + zh.PRONOUN, re.IGNORECASE)


def corrupt(caption: str | Caption, *, seed: int = 0) -> Negative | None:
    """Exchange two actors of one group, or replace the only one (and its pronouns); None when no actor is named.

    Two actors of different sexes stay where pronouns say who is who.
    """
    caption = parse(caption) if isinstance(caption, str) else caption
    places = _places(caption)
    names = sorted({name for _, _, name, _ in places})
    if not names:
        return None
    exchanged = _exchange(caption, places, seed) if len(names) > 1 else None
    if exchanged is not None:
        return exchanged
    family = _FAMILY[caption.language]
    alone = [
        n
        for n in names
        if sum(family[p[3]] == family[_group(n, caption.language)] for p in places) == sum(p[2] == n for p in places)
    ]
    if not alone or _LEFT_OVER.search(caption.text):
        return None
    draw = random.Random(f"{seed} actor {caption.text}")
    old = draw.choice(alone)
    places = [p for p in places if p[2] == old]
    group = GROUPS[caption.language][places[0][3]]
    others = [p for p in group if p != old and p not in caption.text.lower() and _fits(p, old, caption)]
    if not others:
        return None
    new = draw.choice(others)
    edits = [(s, e, _like(new, caption.text[s:e])) for s, e, _, _ in places]
    gendered = any(old in g and new in g for g in (*GROUPS["en"][:2], *GROUPS["zh"][:2])) and (old in _MALE) != (
        new in _MALE
    )
    edits += _pronouns(caption.text, to_female=old in _MALE) if gendered and len(names) == 1 else []
    if gendered and _said_otherwise(caption.text, edits, male=old in _MALE):
        return None
    text, landed = splice(caption.text, edits)
    edit = {"spans": [[s, e] for s, e, _ in edits], "rejected_spans": landed, "from": old, "to": new}
    return Negative(text, "actor_swap", edit, f"'{old}' does it, not '{new}'")


_SEX = {
    True: re.compile(
        r"\b(?:males?|guys?|gentlem[ae]n|father|dad|son|husband|he|him|his)\b|(?!她)" + zh.PRONOUN, re.IGNORECASE
    ),
    False: re.compile(r"\b(?:females?|lad(?:y|ies)|mother|mom|daughter|wife|she|her|hers)\b|她", re.IGNORECASE),
}


def _said_otherwise(text: str, edits: list, *, male: bool) -> bool:
    """Does another word that stays name the actor's sex: "the male's friend", "her" beside a man who may be meant?"""
    return any(not any(s <= m.start() < e for s, e, _ in edits) for m in _SEX[male].finditer(text))


def _group(name: str, language: str) -> int:
    return next(k for k, group in enumerate(GROUPS[language]) if name in group)


def _places(caption: Caption) -> list[tuple[int, int, str, int]]:
    """(start, end, name, group) of every actor, in the order of the text."""
    found = []
    food = _FOOD.search(caption.text) is not None
    for number, group in enumerate(GROUPS[caption.language]):
        if food and ("dogs" in group or "dog" in group):
            continue
        options = "|".join(sorted(group, key=len, reverse=True))
        head, compound = _COMPOUND_HEAD[caption.language], _COMPOUND[caption.language]
        end = "" if caption.language == "zh" else r"(?![\w-]|['’](?!s\b))"
        pattern = rf"{head}(?:{options})(?!{compound}){end}"
        found += [
            (m.start(), m.end(), m.group().lower(), number) for m in re.finditer(pattern, caption.text, re.IGNORECASE)
        ]
    if caption.language == "en":
        found = [p for p in found if _FAMILY["en"][p[3]] == 0 or not _in_compound(caption.text, p[0], p[1])]
    return sorted(found)


def _in_compound(text: str, start: int, end: int) -> bool:
    """Is an animal or a shape only half of a name ("star anise", "a dog collar", "a film star"), or a formation?"""
    following = _NEXT_WORD.match(text, end)
    if following is not None and not following[1].endswith(("ing", "ed", "ly")):
        word = following[1].lower()
        known = words.PREPOSITIONS | words.DETERMINERS | words.AUXILIARIES | words.verb_forms().keys() | _AFTER_NOUN
        if word not in known and not words.is_adverb(word):
            return True
    return _STAR.search(text, max(0, start - 16), end) is not None


def _fits(new: str, old: str, caption: Caption) -> bool:
    """小男孩 may become 小女孩, not 小女人; and "girl" is no wrong word for a young woman."""
    if any({new, old} <= pair for pair in _NEAR):
        return False
    grown = new in ("男人", "女人", "男子", "女子")
    return not (caption.language == "zh" and grown and f"小{old}" in caption.text)


def _exchange(caption: Caption, places: list, seed: int) -> Negative | None:
    """Two names of one group change places wherever they stand; None when the two play the same part in the
    sentence."""
    pairs = sorted({tuple(sorted((a[2], b[2]))) for a in places for b in places if a[3] == b[3] and a[2] != b[2]})
    pairs = [
        p
        for p in pairs
        if not _same_part(caption.text, *p) and (set(p) in _NEAR or all(_fits(*q, caption) for q in (p, p[::-1])))
    ]
    if not pairs:
        return None
    one, two = random.Random(f"{seed} {caption.text}").choice(pairs)
    if (one in _MALE) != (two in _MALE) and _PRONOUN.search(caption.text):
        return None  # "a man … She": the pronouns would say who it was
    turned = {one: two, two: one}
    edits = [(s, e, _like(turned[name], caption.text[s:e])) for s, e, name, _ in places if name in turned]
    text, landed = splice(caption.text, edits)
    edit = {"spans": [[s, e] for s, e, _ in edits], "rejected_spans": landed, "from": one, "to": two}
    return Negative(text, "actor_swap", edit, f"'{one}' and '{two}' change roles")


def _same_part(text: str, one: str, two: str) -> bool:
    """ "a man and a woman", 男人和女人: exchanging them says the same."""
    joined = rf"(?:{one}|{two})(?: and | or |和|与|、)(?:an? |the |two |一个|一名|一只)?(?:\w+ )?(?:{one}|{two})"
    return re.search(joined, text, re.IGNORECASE) is not None


def _pronouns(text: str, *, to_female: bool) -> list[tuple[int, int, str]]:
    """Edits that turn the pronouns; "her" is "his" in front of a noun and "him" elsewhere."""
    edits = []
    for m in _PRONOUN.finditer(text):
        low = m.group().lower()
        if to_female:
            new = _TO_SHE.get(low)
        elif low == "her":
            noun = re.match(r" (?!(?:and|to|in|on|with|at|from|by|as|while)\b)([a-z]+)", text[m.end() :])
            new = "his" if noun and words.verb_forms().get(noun[1], ("", ""))[1] not in ("third", "past") else "him"
        else:
            new = _TO_HE.get(low)
        if new:
            edits.append((m.start(), m.end(), _like(new, m.group())))
    return edits


def _like(new: str, old: str) -> str:
    return new[:1].upper() + new[1:] if old[:1].isupper() else new
