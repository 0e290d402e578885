"""Script -> frames: antialiased shapes from signed distances, one actor on the stage at a time."""

import numpy as np

from data_synth.world.script import CAMERA, Event, Script

FPS = 8
SIZE = 112  # pixels; frames are square

_COLOURS = {
    "red": (222, 50, 45), "green": (60, 175, 75), "blue": (45, 95, 225), "yellow": (250, 215, 50),
    "purple": (150, 60, 190), "white": (245, 245, 245),
}  # fmt: skip
_BACKGROUNDS = {"grey": (96, 98, 104), "brown": (104, 74, 48), "teal": (24, 98, 100), "pink": (206, 140, 150)}
_RADIUS = {"close-up": 0.42, "medium shot": 0.36, "wide shot": 0.30}  # of half the frame's width
_GROUND = {"close-up": 0.76, "medium shot": 0.60, "wide shot": 0.44}  # top of the ground; 1 is the frame's lower edge
_GRID = (np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5) / (SIZE / 2) - 1.0
_Y, _X = _GRID[0], _GRID[1]
_EDGE = SIZE / 2  # distances times this are pixels, so edges are one pixel soft


def render(script: Script) -> np.ndarray:
    """Frames of the clip, uint8 [time, SIZE, SIZE, 3] at FPS frames a second."""
    stage = _stage(script, 1.0, 0.0)
    frames = []
    for index in range(round(script.duration * FPS)):
        second = (index + 0.5) / FPS
        number = next(i for i, (_, end) in enumerate(script.spans) if second < end)
        start, end = script.spans[number]
        event, progress = script.events[number], (second - start) / (end - start)
        if event.actor == "camera":  # the camera moves over an empty stage: a doorway gives it something to pass
            zoom, shift = _camera(event, progress)
            image = _stage(script, zoom, shift)
            x, y = _X / zoom + shift, _Y / zoom
            _paint(image, np.maximum(np.abs(x) - 0.22, np.abs(y - 0.17) - 0.45), np.float32((30, 30, 34)))
        else:
            image = stage.copy()
            _actor(image, event, progress, _RADIUS[script.shot])
        frames.append((image + 0.5).astype(np.uint8))
    return np.stack(frames)


def _stage(script: Script, zoom: float, shift: float) -> np.ndarray:
    """The picture without actors: background, ground and the marks on it; float32 [SIZE, SIZE, 3]."""
    x, y = _X / zoom + shift, _Y / zoom
    image = np.empty((SIZE, SIZE, 3), np.float32)
    image[:] = _BACKGROUNDS[script.background]
    _paint(image, _GROUND[script.shot] - y, np.float32(0.72) * image[0, 0])  # the ground, a darker band
    for mark in range(script.marks):
        centre = (mark - (script.marks - 1) / 2) * 0.42
        _paint(image, _distance("ball", x - centre, y - 0.86, 0.11), np.float32((235, 235, 220)))
    _paint(image, _distance(script.sign, x - 0.56, y + 0.56, 0.40), np.float32((245, 245, 245)))
    return image


def _camera(event: Event, progress: float) -> tuple[float, float]:
    """(zoom factor, sideways shift) of the camera; every action is one of CAMERA."""
    if event.actor != "camera":
        return 1.0, 0.0
    amount = dict(zip(CAMERA, ((0.9, 0.0), (-0.45, 0.0), (0.0, -0.9), (0.0, 0.9)), strict=True))[event.action]
    return 1.0 + amount[0] * progress, amount[1] * (progress - 0.5)


def _actor(image: np.ndarray, event: Event, progress: float, radius: float) -> None:
    """Draw the actor in the middle of its action."""
    colour, shape = event.actor.split()
    sway = 1.2 * (progress - 0.5)
    dx, dy = {
        "moves left": (-sway, 0), "moves right": (sway, 0), "moves up": (0, -sway), "moves down": (0, sway),
    }.get(event.action, (0, 0))  # fmt: skip
    if event.action == "grows":
        radius *= 0.45 + 1.2 * progress
    elif event.action == "shrinks":
        radius *= 1.65 - 1.2 * progress
    elif event.action == "blinks" and int(progress * 4) % 2:
        return
    x, y = _X - dx, _Y + 0.12 - dy
    if event.action == "shakes":
        x = x + (0.25 if int(progress * 4) % 2 else -0.25)  # twice a second: seen at 4 frames a second, too
    _paint(image, _distance(shape, x, y, radius), np.float32(_COLOURS[colour]))


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to the shape's edge, negative inside; coordinates in half frame widths."""
    if shape == "ball":
        return np.hypot(x, y) - 0.9 * radius
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.8 * radius) - 0.22 * radius
    wide, high = (1.25, 0.38) if shape == "bar" else (0.38, 1.25)
    return np.maximum(np.abs(x) - wide * radius, np.abs(y) - high * radius)


def _paint(image: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> None:
    """Blend `colour` over the picture where `distance` is negative."""
    cover = np.clip(0.5 - distance * _EDGE, 0, 1)
    rows, columns = np.flatnonzero(cover.any(1)), np.flatnonzero(cover.any(0))
    if len(rows):
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        image[box] += cover[box][..., None] * (colour - image[box])
