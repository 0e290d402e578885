"""A user's own items for a check: a JSONL file, a folder with an items.jsonl, or a folder of pictures or clips."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from reward_models.probes.items import MEDIA, Items, Kind

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".npy")
FRAMES = 32
"""Frames taken from a clip, evenly spaced; its `fps` is that of the frames taken."""
NAMED = ("prompt", "completion", "image", "video", "quality")


def read_items(path: str | Path, kind: Kind) -> Items:
    """The items of a JSONL file, or of a folder.

    A line has `prompt`, and as the completion `completion` (kind text), `image` or `video` (a path beside the file);
    for captions `image` and `video` are what they tell. `quality`, if given, must stand in all lines. Any other field
    becomes a column. A folder of pictures or clips takes the prompt of `a.png` from `a.txt`, else it is empty.

    Raises FileNotFoundError for what is not there, ValueError (with the line) for what cannot be read.
    """
    path = Path(path)
    if path.is_dir() and (path / "items.jsonl").is_file():
        path = path / "items.jsonl"
    if path.is_dir():
        return _folder(path, kind)
    if not path.is_file():
        raise FileNotFoundError(f"no file or folder {path}; expected items.jsonl, or a folder of pictures or clips.")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [_row(line, kind, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ValueError(f"{path} is empty; expected one JSON object a line.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    if "quality" in names and any(row.get("quality") is None for row in rows):
        raise ValueError(f"{path}: some lines have a quality and some have none; expected all or none.")
    columns = {name: [row.get(name) for row in rows] for name in names}
    prompts, completions = columns.pop("prompt"), columns.pop("completion")
    quality = columns.pop("quality", None)
    return Items(kind, prompts, completions, columns, quality)


def _row(line: str, kind: Kind, path: Path, number: int) -> dict[str, Any]:
    where = f"{path}:{number}"
    try:
        told = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error}).") from None
    source = {"text": "completion", "image": "image", "video": "video"}[kind]
    if not isinstance(told, dict) or "prompt" not in told or source not in told:
        found = ", ".join(told) if isinstance(told, dict) else type(told).__name__
        raise ValueError(f"{where}: found {found}; expected an object with prompt and {source}.")
    row = {name: value for name, value in told.items() if name not in NAMED}
    row |= {"prompt": told["prompt"]} | ({"quality": float(told["quality"])} if "quality" in told else {})
    media: dict[str, Any] = {}
    if told.get("image") is not None and kind != "video":
        media["images"] = _read(path.parent / told["image"], _picture, where)
    if told.get("video") is not None and kind != "image":
        media["videos"], rate = _read(path.parent / told["video"], _clip, where)
        row.setdefault("fps", rate)
    if kind == "text":
        return row | media | {"completion": told["completion"]}
    return row | {"completion": media[MEDIA[0] if kind == "video" else MEDIA[1]]}


def _folder(path: Path, kind: Kind) -> Items:
    suffixes = {"image": PICTURES, "video": CLIPS}.get(kind, ())
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
    if not files:
        wanted = f"{', '.join(suffixes)} files, or items.jsonl" if suffixes else "items.jsonl (captions are lines)"
        raise FileNotFoundError(f"nothing to score in {path}; expected {wanted}.")
    texts = [file.with_suffix(".txt") for file in files]
    prompts = [text.read_text(encoding="utf-8").strip() if text.is_file() else "" for text in texts]
    if kind == "image":
        return Items(kind, prompts, [_read(file, _picture, str(file)) for file in files])
    clips = [_read(file, _clip, str(file)) for file in files]
    return Items(kind, prompts, [frames for frames, _ in clips], {"fps": [rate for _, rate in clips]})


def _read(path: Path, how: Callable[[Path], Any], where: str) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{where}: no file {path}.")
    try:
        return how(path)
    except (OSError, ValueError, UnidentifiedImageError) as error:
        raise ValueError(f"{where}: {path} cannot be read ({error}).") from error


def _picture(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _clip(path: Path) -> tuple[np.ndarray, float | None]:
    """Frames uint8 [T, H, W, 3] and their rate. A .npy file has no rate."""
    if path.suffix.lower() == ".npy":
        frames, rate = np.load(path, allow_pickle=False), None
    else:
        frames, rate = _decoded(path)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise ValueError(f"found {frames.dtype} of shape {frames.shape}; expected uint8 [T, H, W, 3]")
    places = np.unique(np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int))
    return frames[places], None if rate is None else rate * len(places) / len(frames)


def _decoded(path: Path) -> tuple[np.ndarray, float | None]:
    try:
        import av
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"reading {path} needs PyAV: pip install av. Or save the frames as .npy.") from None
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
        return np.stack(frames), None if stream.average_rate is None else float(stream.average_rate)
