"""What a reward server and its client say to each other: typed JSON, pictures as base64, never pickle.

    POST /score   {"schema": 1, "reward": "aesthetic", "items": [{"prompt": "..", "completion": .., "columns": {..}}]}
    200           {"schema": 1, "items": [{"score": 0.3, "error": null}], "rewards": {"aesthetic": [..]}}

A completion, a prompt and every column is text, a number, lists and objects of those, or a picture anywhere inside:

    {"$media": "png", "data": <base64>}                           a PIL image, with mode, palette, ICC, EXIF and text
    {"$media": "png", "shape": [T, H, W, 3], "data": <base64>}    frames uint8, one below the other in one PNG
    {"$media": "raw", "dtype": "uint8", "shape": [T, H, W, 3], "data": <base64>}   frames uint8 as they lie in memory

Both forms keep every bit. There is no JPEG: compressing a picture anew changes its score, by more than a step of
training does, and a policy learns to please the compressor. There is no pickle: loading one runs what it says.
A header `idempotency-key` makes a repeated request one request, `x-deadline-ms` says how long an answer is of use.
"""

import base64
import binascii
import io
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, PngImagePlugin
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

SCHEMA = 1
MEDIA = "$media"
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
"""Modes of PIL that PNG holds without loss."""
MODE_OF_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
PICTURE_KEYS = frozenset({"image", "images", "image_url", "video", "videos", "video_url", "audio", "audio_url"})
"""Columns and parts of messages that hold pictures or sound: a string there is a path or an address that a reward or a
processor would open, see Limits.paths. So are `url` and `path` in parts of messages."""


class WireError(ValueError):
    """A value that cannot travel, or may not: what was found, and what is expected."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask of a server."""

    body_bytes: int = 64 << 20
    """Bytes of one request. More is refused before it is read."""
    waiting_bytes: int = 1 << 30
    """Bytes of all requests held at once; beyond, the answer is 503 and the client comes back."""
    items: int = 256
    """Items of one request."""
    waiting_items: int = 4096
    """Items that wait for one reward; beyond, the answer is 503."""
    text: int = 100_000
    """Characters of one string that is no picture."""
    pixels: int = 1 << 25
    """Pixels of one item, all its pictures and frames together (one large photo, or 128 frames of 512 x 512). They take
    3 bytes each while a batch is scored."""
    depth: int = 16
    """Lists and objects inside one another."""
    paths: bool = False
    """Whether a client may name files and addresses where pictures are expected, for rewards to open. Only for clients
    that may read everything the server may."""


class Item(BaseModel):
    """One thing to score."""

    model_config = ConfigDict(extra="forbid")
    prompt: Any = None
    completion: Any
    columns: dict[str, Any] = {}


class Request(BaseModel):
    """What a client asks. `reward` may be left out: then every reward of the server scores."""

    model_config = ConfigDict(extra="forbid")
    schema_: Literal[SCHEMA] = Field(alias="schema")
    reward: str | None = None
    items: Annotated[list[Item], Field(min_length=1)]


class Scored(BaseModel):
    """An item's answer. Both None: the reward ran and gives no score. A score is never NaN or infinite."""

    model_config = ConfigDict(extra="forbid")
    score: FiniteFloat | None
    error: str | None


class Reply(BaseModel):
    """`items`: the scores asked for, in the order of the request. `rewards`: those of each reward behind them."""

    model_config = ConfigDict(extra="ignore")
    schema_: Literal[SCHEMA] = Field(alias="schema")
    items: list[Scored]
    rewards: dict[str, list[Scored]]


def token_bytes(token: str) -> bytes:
    """A token as it stands in a header. Raises ValueError for one that cannot: empty, or with a blank or line end."""
    if not token or not all("!" <= one <= "~" for one in token):
        raise ValueError("the token is empty, or has blanks or letters beyond ASCII; no header can carry it.")
    return token.encode("ascii")


def read_request(body: bytes) -> Request:
    """A request from its bytes. Raises WireError that lists what is wrong, each with its place."""
    try:
        return Request.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        told = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in problems[:5])
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise WireError(f"{told}{more}. This server speaks schema {SCHEMA} of reward_models.serving.wire.") from None


def write_request(items: Sequence[Mapping[str, Any]], reward: str | None) -> bytes:
    """The body that asks for scores of items as `encode_item` gives them."""
    return json.dumps({"schema": SCHEMA, "reward": reward, "items": items}, allow_nan=False).encode()


def encode_item(prompt: Any, completion: Any, columns: Mapping[str, Any]) -> dict[str, Any]:
    """One item as plain JSON. Raises as `encode`."""
    return {
        "prompt": encode(prompt, "prompt"),
        "completion": encode(completion, "completion"),
        "columns": {name: encode(value, name) for name, value in columns.items()},
    }


def decode_item(item: Item, limits: Limits) -> tuple[Any, Any, dict[str, Any]]:
    """(prompt, completion, columns) with pictures as PIL images and uint8 arrays. Raises WireError."""
    if taken := item.columns.keys() & {"prompts", "completions"}:
        raise WireError(f"a column may not be called {' or '.join(sorted(taken))}.")
    reader = _Reader(limits)
    prompt, completion = reader.value(item.prompt, "prompt"), reader.value(item.completion, "completion")
    return prompt, completion, {name: reader.column(name, value, name, 0) for name, value in item.columns.items()}


def encode(value: Any, place: str = "value") -> Any:
    """A value as plain JSON; tuples become lists. PIL images travel as PNG, uint8 arrays raw, without loss.

    Raises TypeError for what has no form on the wire (the caller's mistake), WireError for a value that has none (NaN,
    half a surrogate pair): that one item cannot be scored.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise WireError(f"{place} is {value}, which JSON has no number for; use None.")
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise WireError(f"{place}: {error.reason} at {error.start}; it is no text.") from None
        return value
    if isinstance(value, Mapping):
        if MEDIA in value or not all(isinstance(key, str) for key in value):
            raise TypeError(f"{place} has the keys {list(value)}; expected strings, and none called {MEDIA}.")
        return {key: encode(one, f"{place}.{key}") for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [encode(one, f"{place}[{k}]") for k, one in enumerate(value)]
    if isinstance(value, Image.Image):
        return {MEDIA: "png", "data": _base64(png(value, place))}
    if isinstance(value, np.ndarray):
        return encode_frames(value, "raw", place)
    raise TypeError(
        f"{place} is a {type(value).__name__}; expected text, a number, a PIL image, a uint8 array, or lists and dicts "
        "of those. Open files and turn tensors into uint8 arrays first."
    )


def encode_frames(frames: np.ndarray, form: Literal["png", "raw"] = "raw", place: str = "value") -> dict[str, Any]:
    """A picture [H, W], [H, W, C] or frames [T, H, W, C], uint8, as `raw` (fast) or `png` (smaller; C 1, 3 or 4).

    Raises TypeError for another dtype or shape.
    """
    if frames.dtype != np.uint8:
        raise TypeError(f"{place} is an array of {frames.dtype}; expected uint8. Send other numbers as lists.")
    if problem := _shape_problem(frames.shape):
        raise TypeError(f"{place} has the shape {list(frames.shape)}; {problem}.")
    shape = list(frames.shape)
    if form == "raw":
        return {MEDIA: "raw", "dtype": "uint8", "shape": shape, "data": _base64(np.ascontiguousarray(frames).tobytes())}
    rows, columns, channels = _page(shape)
    page = frames.reshape(rows, columns) if channels == 1 else frames.reshape(rows, columns, channels)
    return {MEDIA: "png", "shape": shape, "data": _base64(png(Image.fromarray(page)))}


def png(image: Image.Image, place: str = "image") -> bytes:
    """The image as PNG: pixels in its own mode, palette, transparency, ICC profile, EXIF and text.

    Raises TypeError for a mode that PNG cannot hold without loss.
    """
    if image.mode not in PNG_MODES:
        raise TypeError(f"{place} is of mode {image.mode}; PNG holds {', '.join(PNG_MODES)}. Use .convert('RGB').")
    if 0 in image.size:
        raise WireError(f"{place} has the size {image.size}; expected at least one pixel.")
    text = PngImagePlugin.PngInfo()
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str):
            text.add_text(key, value)  # as iTXt where Latin-1 does not do
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, pnginfo=text, exif=image.info.get("exif"))
    return file.getvalue()


class _Reader:
    """Turns one item's JSON into values; counts its pixels on the way."""

    def __init__(self, limits: Limits):
        self.limits, self.pixels = limits, limits.pixels

    def value(self, value: Any, place: str, depth: int = 0) -> Any:
        if isinstance(value, str) and len(value) > self.limits.text:
            raise WireError(f"{place} has {len(value)} characters, the limit is {self.limits.text}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise WireError(f"{place} is {value}, which is no JSON number.")
        if not isinstance(value, list | dict):
            return value
        if depth >= self.limits.depth:
            raise WireError(f"{place}: more than {self.limits.depth} lists and objects inside one another.")
        if isinstance(value, list):
            return [self.value(one, f"{place}[{k}]", depth + 1) for k, one in enumerate(value)]
        if MEDIA in value:
            return self.media(value, place)
        return {key: self.column(key, one, f"{place}.{key}", depth + 1) for key, one in value.items()}

    def column(self, key: str, value: Any, place: str, depth: int) -> Any:
        opened = key in PICTURE_KEYS or (depth > 0 and key in ("url", "path"))
        if opened and not self.limits.paths and _has_string(value):
            raise WireError(f"{place} holds a string where a picture is expected; this server opens no files.")
        return self.value(value, place, depth)

    def media(self, value: Mapping[str, Any], place: str) -> Image.Image | np.ndarray:
        form, shape, text = value[MEDIA], value.get("shape"), value.get("data")
        expected = {MEDIA, "data", "shape", "dtype"} if form == "raw" else {MEDIA, "data", "shape"}
        if form not in ("png", "raw") or not isinstance(text, str) or value.keys() - expected:
            raise WireError(f"{place}: expected {MEDIA} 'png' or 'raw' with data, and for raw dtype and shape.")
        if form == "raw" and value.get("dtype") != "uint8":
            raise WireError(f"{place}: dtype is {str(value.get('dtype'))[:20]!r}; expected 'uint8'.")
        if shape is not None or form == "raw":
            if not isinstance(shape, list) or not all(type(n) is int for n in shape):
                raise WireError(f"{place}: shape is no list of integers.")
            if problem := _shape_problem(shape):
                raise WireError(f"{place}: the shape is {shape[:8]}; {problem}.")
            self._count(math.prod(_page(shape)[:2]), place)
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise WireError(f"{place}: data is not base64.") from None
        if form == "png":
            return self._png(data, shape, place)
        if len(data) != math.prod(shape):
            raise WireError(f"{place}: {len(data)} bytes; the shape {shape} has {math.prod(shape)}.")
        return np.frombuffer(data, np.uint8).reshape(shape)

    def _png(self, data: bytes, shape: list[int] | None, place: str) -> Image.Image | np.ndarray:
        if data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR" or len(data) < 33:
            raise WireError(f"{place}: no PNG.")
        width, height = struct.unpack(">II", data[16:24])  # read before Pillow, which warns of bombs but opens them
        if shape is None:
            self._count(width * height, place)
        elif (height, width) != _page(shape)[:2]:
            raise WireError(f"{place}: the PNG is {width} wide and {height} high; the shape is {shape}.")
        try:
            image = Image.open(io.BytesIO(data), formats=("PNG",))
            image.load()
        except Exception as error:  # Pillow's decoder has no closed list of what damaged bytes make it raise
            raise WireError(f"{place}: the PNG is damaged ({type(error).__name__}: {str(error)[:100]}).") from None
        if shape is None:
            return image
        if image.mode != MODE_OF_CHANNELS[_page(shape)[2]]:
            raise WireError(f"{place}: the PNG is of mode {image.mode}; the shape is {shape}.")
        return np.asarray(image).reshape(shape)

    def _count(self, pixels: int, place: str) -> None:
        self.pixels -= pixels
        if self.pixels < 0:
            raise WireError(f"{place}: the item has over {self.limits.pixels} pixels; make the pictures smaller.")


def _shape_problem(shape: Sequence[int]) -> str | None:
    if not 2 <= len(shape) <= 4 or any(n < 1 for n in shape) or (len(shape) > 2 and shape[-1] not in MODE_OF_CHANNELS):
        return "expected [H, W], [H, W, C] or [T, H, W, C], with 1, 3 or 4 channels and nothing empty"
    return None


def _page(shape: Sequence[int]) -> tuple[int, int, int]:
    """(rows, columns, channels) of frames laid one below the other."""
    if len(shape) == 2:
        return shape[0], shape[1], 1
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def _has_string(value: Any) -> bool:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            return True
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict) and MEDIA not in one:
            waiting += [inner for key, inner in one.items() if key not in ("type", "text", "role", "detail")]
    return False


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
