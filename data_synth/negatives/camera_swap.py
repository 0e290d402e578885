"""camera_swap: another shot scale, angle or camera movement than the one that the caption names."""

import re

from data_synth.events import Caption, Negative, parse
from data_synth.events.substitute import substitute

GROUPS = {
    "en": (
        ("extreme close-up", "close-up", "medium shot", "wide shot", "long shot"),
        ("close-up shot", "medium shot", "wide shot", "long shot"),
        ("pans left", "pans right", "tilts up", "tilts down", "zooms in", "zooms out", "remains static"),
        ("pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out"),
        ("panning left", "panning right", "tilting up", "tilting down", "zooming in", "zooming out"),
        ("pans to the left", "pans to the right", "tilts up", "tilts down", "zooms in", "zooms out"),
        ("dollies in", "dollies out", "trucks left", "trucks right", "pedestals up", "pedestals down"),
        ("moves forward", "moves backward", "orbits clockwise", "orbits counterclockwise"),
        ("pans", "tilts", "zooms"),
        ("static camera", "handheld camera", "tracking camera", "orbiting camera"),
        ("fixed camera", "handheld camera", "tracking camera"),
        ("remains fixed", "pans slowly", "tilts slowly", "zooms slowly"),
        ("remains static", "pans slowly", "tilts slowly", "zooms slowly"),
        ("low angle", "high angle", "eye level"),
        ("low-angle", "high-angle", "eye-level"),
        ("bird's-eye view", "worm's-eye view", "eye-level view"),
        ("aerial view", "ground-level view"),
        ("slow motion", "fast motion", "time-lapse"),
        ("pan shot", "tilt shot", "tracking shot", "dolly shot", "static shot"),
    ),
    "zh": (
        ("大特写", "特写", "近景", "中景", "全景", "远景"),
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


def corrupt(caption: str | Caption, *, seed: int = 0) -> Negative | None:
    """Swap one term of camera language; None when the caption does not speak of the camera."""
    caption = parse(caption) if isinstance(caption, str) else caption
    if not _ABOUT_CAMERA.search(caption.text):
        return None
    return substitute(caption, GROUPS[caption.language], "camera_swap", seed, "the camera does '{old}', not '{new}'")
