"""Scripts in words, English and Chinese: true captions, probe questions, and the parser that reads captions back."""

import re
from dataclasses import dataclass

from data_synth.world.script import ACTIONS, CAMERA, COLOURS, SHAPES, Event, Script

PROMPTS = {"en": "Describe the video.", "zh": "请描述视频。"}
MARKERS = {"en": ("", "Then ", "Finally "), "zh": ("", "然后", "最后")}

_ZH = {
    "red": "红色", "green": "绿色", "blue": "蓝色", "yellow": "黄色", "purple": "紫色", "white": "白色",
    "ball": "球", "ring": "圆环", "bar": "横条", "pole": "竖条",
    "moves left": "向左移动", "moves right": "向右移动", "moves up": "向上移动", "moves down": "向下移动",
    "grows": "变大", "shrinks": "变小", "shakes": "抖动", "blinks": "闪烁", "camera": "镜头",
    "zooms in": "推近", "zooms out": "拉远", "pans left": "左移", "pans right": "右移",
    "grey": "灰色", "brown": "棕色", "teal": "青色", "pink": "粉色",
    "close-up": "特写", "medium shot": "中景", "wide shot": "远景", 1: "一", 2: "两", 3: "三", 4: "四",
}  # fmt: skip
_EN_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
_EN_EVENT = re.compile(
    rf"(?:(?:a|the) )?(?P<actor>(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})|camera) "
    rf"(?P<action>{'|'.join(ACTIONS + CAMERA)})$",
    re.IGNORECASE,
)
_EN_OF = {chinese: english for english, chinese in _ZH.items()}
_ZH_EVENT = re.compile(
    rf"(?:(?:一个)?(?P<colour>{'|'.join(_ZH[c] for c in COLOURS)})的(?P<shape>{'|'.join(_ZH[s] for s in SHAPES)})"
    rf"|(?P<camera>镜头))(?P<action>{'|'.join(_ZH[a] for a in ACTIONS + CAMERA)})$"
)
_EN_MARKER = re.compile(r"^(?:first|then|next|after that|afterwards|finally|later),? +", re.IGNORECASE)
_ZH_MARKER = re.compile(r"^(?:首先|先|然后|接着|随后|之后|最后)，?")


def event_clause(event: Event, language: str = "en") -> str:
    """ "a red ball moves left" / "一个红色的球向左移动": one event without marker, capital or full stop."""
    if language == "en":
        return f"{'the' if event.actor == 'camera' else 'a'} {event.actor} {event.action}"
    if event.actor == "camera":
        return f"镜头{_ZH[event.action]}"
    colour, shape = event.actor.split()
    return f"一个{_ZH[colour]}的{_ZH[shape]}{_ZH[event.action]}"


def caption(events: tuple[Event, ...] | list[Event], language: str = "en") -> str:
    """The events as sentences in the order given: the first bare, "Then" between, "Finally" on the last."""
    return join(sentences(events, language), language)


def sentences(events: tuple[Event, ...] | list[Event], language: str = "en") -> list[str]:
    """One sentence an event, markers included; see `caption`."""
    first, middle, last = MARKERS[language]
    result = []
    for index, event in enumerate(events):
        marker = first if index == 0 else last if index == len(events) - 1 and len(events) > 2 else middle
        text = marker + event_clause(event, language)
        result.append(text[0].upper() + text[1:] + ("." if language == "en" else "。"))
    return result


def join(parts: list[str], language: str) -> str:
    """Sentences to one text: a space between them in English, nothing in Chinese."""
    return (" " if language == "en" else "").join(parts)


def true_caption(script: Script, language: str = "en") -> str:
    """What really happens in the clip, in order."""
    return caption(script.events, language)


def probes(script: Script) -> list[tuple[str, str, str]]:
    """(skill, question, answer) triples that captions never mention: what preference training might destroy."""
    number = _EN_NUMBERS[script.marks]
    return [
        ("colour", "What colour is the background?", script.background.capitalize() + "."),
        ("count", "How many marks are on the ground?", number.capitalize() + "."),
        ("shape", "What shape is the sign?", script.sign.capitalize() + "."),
        ("camera", "What is the shot scale?", script.shot.capitalize() + "."),
        ("chinese", "背景和地上有什么？", f"背景是{_ZH[script.background]}，地上有{_ZH[script.marks]}个圆点。"),
    ]


@dataclass(frozen=True)
class Parsed:
    """What a caption claims: its events in the order told, and the sentences that tell no event."""

    events: tuple[Event, ...]
    extra: tuple[str, ...]


def parse(text: str, language: str | None = None) -> Parsed:
    """Read a world caption back. Sentences that name no event (padding, broken grammar) land in `extra`.

    The language is found from the characters when it is not given.
    """
    chinese = language == "zh" or (language is None and re.search(r"[\u4e00-\u9fff]", text) is not None)
    events, extra = [], []
    for part in re.split(r"[。；]" if chinese else r"[.;]", text):
        part = part.strip()
        if not part:
            continue
        match = (
            _ZH_EVENT.fullmatch(_ZH_MARKER.sub("", part)) if chinese else _EN_EVENT.fullmatch(_EN_MARKER.sub("", part))
        )
        if match is None:
            extra.append(part)
        elif not chinese:
            events.append(Event(match["actor"].lower(), match["action"].lower()))
        elif match["camera"]:
            events.append(Event("camera", _EN_OF[match["action"]]))
        else:
            events.append(Event(f"{_EN_OF[match['colour']]} {_EN_OF[match['shape']]}", _EN_OF[match["action"]]))
    return Parsed(tuple(events), tuple(extra))
