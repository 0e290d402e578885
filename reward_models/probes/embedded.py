"""The items a check has by itself, rendered here: small, the same on every machine, one set a kind of completion.

Pictures show a ball, cube or cone on grass by day or night, clips a ball that rolls, captions tell clips of three
shapes that do something one after another.
"""

from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image, ImageFilter

from reward_models.probes.items import Items, Kind

COLOURS = {"red": (196, 52, 44), "yellow": (214, 180, 48), "blue": (52, 84, 190), "purple": (134, 60, 160)}
SIZE = 128
"""Pixels of a picture's side."""
CLIP = 48
FRAMES, FPS = 16, 8.0
ACTIONS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks")
STEPS = 6
"""Frames an event of a captioned clip takes, at FPS."""


@lru_cache(maxsize=3)
def embedded(kind: Kind) -> Items:
    """The embedded items whose completions are of this kind. Raises ValueError for another kind."""
    if kind == "text":
        return _captions()
    if kind == "image":
        return _pictures()
    if kind == "video":
        return _clips()
    raise ValueError(f"kind is {kind!r}; expected text, image or video.")


def _pictures() -> Items:
    """24 good pictures, all different in what they show, and a worse copy of every third."""
    prompts, pictures, quality = [], [], []
    wanted = list(product(COLOURS, ("ball", "cube", "cone"), ("day", "night")))
    for number, (colour, shape, light) in enumerate(wanted[i * 7 % len(wanted)] for i in range(len(wanted))):
        prompt = f"a {colour} {shape} on the grass " + ("on a bright day" if light == "day" else "on a dark night")
        picture = _scene(colour, shape, light, np.random.default_rng(number))
        prompts.append(prompt)
        pictures.append(picture)
        quality.append(1.0)
        if number % 3 == 0:
            prompts.append(prompt)
            pictures.append(_worse(picture, number // 3))
            quality.append(0.3)
    return Items("image", prompts, pictures, quality=quality)


def _scene(colour: str, shape: str, light: str, rng: np.random.Generator, size: int = SIZE) -> Image.Image:
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) / size
    day = light == "day"
    top, low = ((104, 152, 206), (178, 204, 224)) if day else ((10, 14, 34), (30, 36, 62))
    sky = np.array(top) + (np.array(low) - top) * y[..., None]
    grass = np.array((92, 128, 66) if day else (22, 36, 22)) * (0.8 + 0.4 * y[..., None])
    grass = grass + _texture(rng, size)[..., None] * (14 if day else 5)
    horizon = 0.5 + 0.1 * rng.random()
    image = np.where((y > horizon + 0.01 * np.sin(9 * x))[..., None], grass, sky)
    cx, cy, r = 0.4 + 0.2 * rng.random(), horizon + 0.12, 0.17 + 0.05 * rng.random()
    shadow = np.exp(-((((x - cx) / (1.2 * r)) ** 2 + ((y - cy - 0.9 * r) / (0.25 * r)) ** 2) ** 2))
    image = image * (1 - 0.5 * shadow[..., None])
    dx, dy = (x - cx) / r, (y - cy) / r
    if shape == "ball":
        inside = 1 - np.hypot(dx, dy)
    elif shape == "cube":
        inside = 0.85 - np.maximum(np.abs(dx), np.abs(dy))
    else:
        inside = np.minimum(0.9 - dy, (dy + 1) / 2 - np.abs(dx)) * 0.8
    shade = (1.0 - 0.3 * (dx + dy) / 2) * (1.0 if day else 0.4)
    body = np.array(COLOURS[colour]) * shade[..., None]
    cover = np.clip(inside * r * size + 0.5, 0, 1)[..., None]
    return Image.fromarray(np.clip(image * (1 - cover) + body * cover, 0, 255).astype(np.uint8))


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise with more coarse than fine detail, as in photos; mean 0, standard deviation 1. [size, size]."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]) + 1 / size
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) / frequency).real
    return (noise - noise.mean()) / noise.std()


def _worse(picture: Image.Image, number: int) -> Image.Image:
    pixels = np.asarray(picture).astype(np.float64)
    if number % 3 == 0:
        return picture.filter(ImageFilter.GaussianBlur(2))
    if number % 3 == 1:
        noisy = pixels + np.random.default_rng(number).normal(0, 30, pixels.shape)
        return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return Image.fromarray((pixels // 64 * 64 + 32).astype(np.uint8))  # four levels a channel


def _clips() -> Items:
    """24 clips of 2 s, every direction, slow or fast, three colours; and a worse copy of every third."""
    wanted = list(product(("left", "right", "up", "down"), ("slowly", "quickly"), ("red", "yellow", "blue")))
    prompts, clips, quality = [], [], []
    for number, (way, pace, colour) in enumerate(wanted[i * 7 % len(wanted)] for i in range(len(wanted))):
        rng = np.random.default_rng(100 + number)
        path = (12.0 if pace == "slowly" else 26.0) * np.linspace(-0.5, 0.5, FRAMES)
        step = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[way]
        start = CLIP / 2 + rng.uniform(-3, 3, 2)
        base = np.array((120, 126, 118)) + _texture(rng, CLIP)[..., None] * 10
        frames = [_with_shape(base, start + p * np.array(step), 6.0, COLOURS[colour], "ball") for p in path]
        where = {"up": "upwards", "down": "downwards"}.get(way, f"to the {way}")
        clip = np.clip(np.stack(frames), 0, 255).astype(np.uint8)
        copies = [(clip, 1.0), (_worse_clip(clip, number // 3), 0.3)]
        for copy, value in copies if number % 3 == 0 else copies[:1]:
            prompts.append(f"a {colour} ball rolls {pace} {where}")
            clips.append(copy)
            quality.append(value)
    return Items("video", prompts, clips, {"fps": [FPS] * len(clips)}, quality)


def _worse_clip(clip: np.ndarray, number: int) -> np.ndarray:
    if number % 2:
        light = np.random.default_rng(number).uniform(0.7, 1.3, (len(clip), 1, 1, 1))  # flicker
        return np.clip(clip * light, 0, 255).astype(np.uint8)
    return clip[[0, 2, 1, 3, 7, 5, 4, 6, 8, 12, 10, 9, 11, 14, 13, 15]]  # frames out of order


def _with_shape(image: np.ndarray, centre: np.ndarray, radius: float, colour: tuple, shape: str) -> np.ndarray:
    y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]] + 0.5
    dx, dy = np.abs(x - centre[0]), np.abs(y - centre[1])
    inside = {
        "ball": radius - np.hypot(dx, dy),
        "ring": np.minimum(radius - np.hypot(dx, dy), np.hypot(dx, dy) - 0.5 * radius),
        "bar": np.minimum(radius - dx, 0.4 * radius - dy),
    }[shape]
    cover = np.clip(inside + 0.5, 0, 1)[..., None]
    return image * (1 - cover) + np.array(colour) * cover


def _captions() -> Items:
    """Eight clips, each told truly and wrongly (quality 1 and 0.4), both in few words and in many."""
    rng = np.random.default_rng(7)
    texts, quality = [], []
    columns: dict[str, list] = {"videos": [], "images": [], "events": [], "fps": []}
    for number in range(8):
        actors = [
            f"{colour} {shape}"
            for colour, shape in zip(rng.permutation(list(COLOURS)), rng.permutation(["ball", "ring", "bar"]))  # noqa: B905
        ]
        events = list(zip(actors, rng.permutation(ACTIONS)[:3].tolist(), strict=True))
        frames = _told(events, rng)
        false = [events[2], events[0], events[1]] if number % 2 else [events[0], (actors[1], "disappears")]
        for told, value in ((events, 1.0), (false, 0.4)):
            for wordy in (False, True):
                texts.append(_caption(told, wordy))
                quality.append(value)
                columns["videos"].append(frames)
                columns["images"].append(Image.fromarray(frames[len(frames) // 2]))
                columns["events"].append([list(event) for event in events])
                columns["fps"].append(FPS)
    return Items("text", ["Describe the video."] * len(texts), texts, columns, quality)


def _caption(events: list[tuple[str, str]], wordy: bool) -> str:
    parts = []
    markers = ["", *["Then "] * (len(events) - 2), "Finally "]
    for marker, (actor, action) in zip(markers, events, strict=True):
        clause = f"it is to be seen in the clip that a {actor} {action}" if wordy else f"a {actor} {action}"
        sentence = marker + clause
        parts.append(sentence[0].upper() + sentence[1:] + ".")
    return " ".join(parts)


def _told(events: list[tuple[str, str]], rng: np.random.Generator) -> np.ndarray:
    """Frames [3 * STEPS, CLIP, CLIP, 3] in which each actor does its part in turn; all are there all the time."""
    base = np.array((96, 98, 104)) + _texture(rng, CLIP)[..., None] * 6
    homes = rng.permutation(np.array([(11.0, 25.0), (24.0, 12.0), (37.0, 34.0)]))
    frames = []
    for frame in range(3 * STEPS):
        image = base
        for order, (actor, action) in enumerate(events):
            done = np.clip((frame + 1) / STEPS - order, 0, 1)
            way = {"moves left": (-8, 0), "moves right": (8, 0), "moves up": (0, -8), "moves down": (0, 8)}
            centre = homes[order] + done * np.array(way.get(action, (0, 0)))
            radius = 5.0 + done * {"grows": 4.0, "shrinks": -3.0}.get(action, 0.0)
            colour, shape = actor.split()
            image = _with_shape(image, centre, radius, COLOURS[colour], shape)
        frames.append(np.clip(image, 0, 255).astype(np.uint8))
    return np.stack(frames)
