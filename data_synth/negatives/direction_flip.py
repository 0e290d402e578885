"""direction_flip: left <-> right, up <-> down, in <-> out, clockwise <-> counter-clockwise; 左右, 上下, 推拉."""

import re

from data_synth.events import Caption, Negative, parse
from data_synth.events import en_words as words
from data_synth.events.substitute import substitute

_MOVES = "move go run walk look climb tilt slide jump fly point swing scroll drift float pan".split()


def _forms(verb: str, particle: str) -> list[str]:
    stem = (
        verb[:-1]
        if verb.endswith("e")
        else verb + (verb[-1] if verb in {"run", "swing", "pan"} and verb != "swing" else "")
    )
    third = verb + ("es" if verb == "go" else "s")
    third = third.replace("flys", "flies")
    return [f"{verb} {particle}", f"{third} {particle}", f"{stem}ing {particle}"]


def _pairs(verbs: list[str], first: str, second: str) -> list[tuple[str, str]]:
    return [pair for verb in verbs for pair in zip(_forms(verb, first), _forms(verb, second), strict=True)]


GROUPS = {
    "en": (
        ("left", "right"),
        ("leftward", "rightward"),
        ("leftwards", "rightwards"),
        ("upward", "downward"),
        ("upwards", "downwards"),
        ("forward", "backward"),
        ("forwards", "backwards"),
        ("clockwise", "counterclockwise"),
        ("clockwise", "counter-clockwise"),
        ("clockwise", "anticlockwise"),
        *_pairs(_MOVES, "up", "down"),
        *_pairs(["zoom", "dolly", "fade"], "in", "out"),
        ("pushes in", "pulls out"),
        ("pushing in", "pulling out"),
        ("into the room", "out of the room"),
        ("upstairs", "downstairs"),
        ("uphill", "downhill"),
        ("left-hand", "right-hand"),
    ),
    "zh": (
        ("向左", "向右"),
        ("往左", "往右"),
        ("朝左", "朝右"),
        ("左侧", "右侧"),
        ("左边", "右边"),
        ("左手", "右手"),
        ("左转", "右转"),
        ("左移", "右移"),
        ("左上角", "右上角"),
        ("左下角", "右下角"),
        ("向上", "向下"),
        ("往上", "往下"),
        ("上升", "下降"),
        ("上摇", "下摇"),
        ("上楼", "下楼"),
        ("上坡", "下坡"),
        ("向前", "向后"),
        ("往前", "往后"),
        ("推近", "拉远"),
        ("推进", "拉远"),
        ("拉近", "拉远"),
        ("逆时针", "顺时针"),
        ("走进", "走出"),
        ("跑进", "跑出"),
    ),
}
"""Phrases that exclude each other; bare "up" and "in" are left alone ("picks up", "in a room")."""

GUARD = re.compile(
    r"\b(?:has|have|had|having|is|are|was|were|be|been|being) left\b|\bleft (?:the|a|an|his|her|their|him|them|it|"
    r"over|behind)\b|"
    r"\b(?:all|just|that's) right\b|\bright (?:ways?|ones?|technique|form|order|amount|time|tools?|answers?)\b|"
    r"\bright (?:away|now|before|after|in|on|at|next|behind|beside|there|here|angle)\b|"
    r"\b(?:up and down|down and up|in and out|forwards? and backwards?|backwards? and forwards?)\b|"
    r"\b(?:\w+) (?:up|down|in|out) and (?:up|down|in|out)\b|"
    r"\bleft and right\b|\bright and left\b|\bfrom (?:left|right) to (?:left|right)\b|\bback and forth\b|"
    r"\bthe fade (?:in|out)\b|"
    r"\bzoom(?:s|ing)? (?:in|out) (?:(?:on|to|into|from)\b|(?:\w+ )?(?:clos|furth|farth|tight|wide)\w*)|"
    r"\b(?:up|down) (?:\w+ ){1,3}?(?:tracks?|roads?|streets?|halls?|hallways?|corridors?|aisles?|sidewalks?|paths?|"
    r"trails?|lanes?|alleys?|runways?|courts?|fields?|beach|driveway)\b|"
    r"\b(?:pulls|pulling) out (?:an?|the|his|her|its|their|some|two|several|more)\b|"
    r"拉[近远](?:到|至|[^镜，。；、\s])|拉近[^。]{0,14}特写|上升空|(?:力|量|率|温|位|价格?)(?:上升|下降)|"
    r"从[上下][往向][上下]|从[^，。]{1,12}(?:上升|下降)到|[往向]上[^。]{0,14}(?:天空|夜空)|(?:高处|坡顶|山顶)[^。]{0,4}[往向]下|"
    r"\b(?:look|looks|looking) forward\b|\bwalk(?:s|ing)? (?:up|down) and (?:up|down)\b|左右|上下",
    re.IGNORECASE,
)
_LEFT = re.compile(r"([^.!?,;]{0,40})\b(\w+) left\b(?! (?:of|side|hand|arm|leg|foot|corner))", re.IGNORECASE)
_SIDES = set("far top bottom upper lower front back and or then center middle near".split())
_TURNS = re.compile(
    r"\b(?:mov|turn|pan|slid|shift|sw[iu]ng|go|look|fac|lean|point|roll|rotat|tilt|step|kick|thr[oe]w|push|pull|drift|"
    r"glid|truck|steer|swip|veer|scroll|spin|bend|walk|r[ua]n|jump|hop|twist|doll|arc|float|fl[iy]|camera|drag|drive)",
    re.IGNORECASE,
)


def corrupt(caption: str | Caption, *, seed: int = 0) -> Negative | None:
    """Turn one direction around; None when the caption names none, or both ("left and right")."""
    caption = parse(caption) if isinstance(caption, str) else caption
    if "left" in caption.text and any(map(_remains, _LEFT.finditer(caption.text))):
        return None
    why = "the direction is '{old}', not '{new}'"
    return substitute(caption, GROUPS[caption.language], "direction_flip", seed, why, guard=GUARD)


def _remains(found: re.Match) -> bool:
    """Is "left" what is still there, or a verb ("the sauce left", "the men left"): behind a noun, nothing moves?"""
    said, before = found[1], found[2].lower()
    if before in words.verb_forms() or before in words.DETERMINERS | words.PREPOSITIONS or words.is_adverb(before):
        return False
    return before not in _SIDES and _TURNS.search(f"{said}{before}") is None
