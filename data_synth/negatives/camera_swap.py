"""camera_swap: another shot scale, angle or camera movement than the one that the caption names."""

import re

from data_synth.events import Caption, Negative, parse
from data_synth.events.substitute import substitute

GROUPS = {
    "en": (
        ("extreme close-up", "medium shot", "wide shot", "long shot"),
        ("close-up", "wide shot", "long shot"),
        ("medium shot", "extreme close-up"),
        ("close-up shot", "wide shot", "long shot"),
        ("close-up shots", "wide shots", "long shots"),
        ("extreme close-up shot", "medium shot", "wide shot", "long shot"),
        ("pans left", "pans right", "tilts up", "tilts down", "zooms in", "zooms out"),
        ("pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out"),
        ("panning left", "panning right", "tilting up", "tilting down", "zooming in", "zooming out"),
        ("pans to the left", "pans to the right", "tilts up", "tilts down", "zooms in", "zooms out"),
        ("dollies in", "dollies out", "trucks left", "trucks right", "pedestals up", "pedestals down"),
        ("moves forward", "moves backward", "orbits clockwise", "orbits counterclockwise"),
        ("static camera", "handheld camera", "tracking camera", "orbiting camera"),
        ("fixed camera", "handheld camera", "tracking camera"),
        ("remains fixed", "zooms in slowly", "moves forward slowly"),
        ("remains static", "zooms in slowly", "moves forward slowly"),
        ("low angle", "high angle"),
        ("low-angle", "high-angle"),
        ("bird's-eye view", "worm's-eye view", "eye-level view"),
        ("aerial view", "ground-level view"),
        ("slow motion", "fast motion"),
        ("slow motion", "time-lapse"),
        ("pan shot", "tilt shot", "tracking shot", "dolly shot", "static shot"),
    ),
    "zh": (
        ("大特写", "中景", "全景", "远景"),
        ("特写", "全景", "远景"),
        ("近景", "远景"),
        ("推镜头", "拉镜头", "摇镜头", "移镜头", "跟镜头", "固定镜头"),
        ("俯拍", "仰拍", "平拍"),
        ("俯视", "仰视", "平视"),
        ("静态摄像机", "手持摄像机", "跟踪摄像机"),
        ("镜头静止", "镜头左摇", "镜头右摇", "镜头推近", "镜头拉远"),
        ("慢动作", "快动作"),
        ("推近", "拉远"),
    ),
}

_ABOUT_CAMERA = re.compile(
    r"camera|shot|view|lens|frame|footage|video|scene|angle|motion|镜头|摄像|画面|景|拍|视角", re.IGNORECASE
)

GUARD = re.compile(
    r"\bzoom(?:s|ing)? (?:in|out) (?:(?:on|to|into|from)\b|(?:\w+ )?(?:clos|furth|farth|tight|wide)\w*)|"
    r"\b(?:left|right|up|down|forward|backward) (?:\w+ly )?to (?:face|cross|reach|enter)\b|"
    r"\bclose-up (?:views?|angles?|images?|photos?|footage|look|perspective|details?|camera)\b|"
    r"\b(?:slow|fast) motion (?:as well as|and|or)\b|\b(?:slow|fast) (?:as well as|and|or) (?:slow|fast) motion\b|"
    r"\b(?:high|low)[ -]angle\b[^.]{0,30}\b(?:down|up)\b|"
    r"[脸头手面眼][部睛]?的?(?:大?特写|近景)|(?<=大)特写|[推拉][近远](?:到|至|[^镜，。；、\s])|"
    r"镜头(?:静止|[左右]摇)[^，。；、\s]",
    re.IGNORECASE,
)
"""A zoom that names its end, a movement with a purpose that fits no other, 静止不动, two speeds at once, and the
close-up of a face, which cannot be a wide shot."""
_MOVE = re.compile(r"\b(pan|tilt|zoom)\w* (?:to the )?(left|right|up|down|in|out)\b", re.IGNORECASE)
_STILL = re.compile(
    r"\b(?:no|without(?: any)?|not|nor) (?:[\w-]+ )*(?:movements?|motions?|shak\w+|mov\w+)\b|"
    r"stationary|steady|\bstill\b|tripod",
    re.IGNORECASE,
)
"""Says of the camera again that it stands: another movement would contradict the rest of the sentence."""


def corrupt(caption: str | Caption, *, seed: int = 0) -> Negative | None:
    """Swap one term of camera language; None when the caption does not speak of the camera."""
    caption = parse(caption) if isinstance(caption, str) else caption
    if not _ABOUT_CAMERA.search(caption.text):
        return None
    groups = GROUPS[caption.language]
    if _STILL.search(caption.text):
        groups = [g for g in groups if not re.search("fixed|static", " ".join(g))]
    why = "the camera does '{old}', not '{new}'"
    negative = substitute(caption, groups, "camera_swap", seed, why, guard=GUARD)
    return None if negative is None or _said_twice(negative.text) else negative


def _said_twice(text: str) -> bool:
    """Does the camera do one thing in two forms: "tilts down while tilting down"?"""
    moves = [(stem.lower(), where.lower()) for stem, where in _MOVE.findall(text)]
    return len(set(moves)) < len(moves)
