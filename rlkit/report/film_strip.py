"""A clip as one picture: frames side by side, each with its presentation time below; same input, same bytes."""

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (17, 19, 24)
TIME_COLOUR = (208, 213, 222)
GAP = 3


def film_strip(
    frames: np.ndarray, timestamps: Sequence[float], *, height: int = 112, max_frames: int = 8, times: bool = True
) -> Image.Image:
    """Strip of at most `max_frames` frames, evenly picked (first and last included), `height` pixels high each.

    `frames` is uint8 [T, H, W, 3]; `timestamps` [T] in seconds. Raises `ValueError` for anything else, and for T = 0.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) == 0:
        raise ValueError(f"film_strip wants uint8 frames [T, H, W, 3] with T > 0, got {frames.dtype} {frames.shape}.")
    if len(timestamps) != len(frames):
        raise ValueError(f"film_strip got {len(frames)} frames and {len(timestamps)} timestamps.")
    picked = np.unique(np.linspace(0, len(frames) - 1, min(max_frames, len(frames))).round().astype(int))
    width = max(1, round(height * frames.shape[2] / frames.shape[1]))
    label = 18 if times else 0
    strip = Image.new("RGB", (len(picked) * (width + GAP) + GAP, height + 2 * GAP + label), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(size=12)
    for column, index in enumerate(picked):
        left = GAP + column * (width + GAP)
        # Enlarged frames keep their hard edges; reduced ones are averaged.
        method = Image.Resampling.NEAREST if height > frames.shape[1] else Image.Resampling.BOX
        strip.paste(Image.fromarray(frames[index]).resize((width, height), method), (left, GAP))
        if times:
            position = (left + width / 2, height + GAP + label / 2 + 1)
            draw.text(position, f"{timestamps[index]:.1f} s", fill=TIME_COLOUR, font=font, anchor="mm")
    return strip


def jpeg_bytes(strip: Image.Image, quality: int = 88) -> bytes:
    """The strip as JPEG; colours are not subsampled, since one-pixel red edges would bleed."""
    buffer = io.BytesIO()
    strip.save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def save(strip: Image.Image, path: Path) -> None:
    """Write the strip as JPEG or PNG, by the name's ending; the file appears whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    if path.suffix.lower() == ".png":
        strip.save(aside, format="PNG")
    else:
        aside.write_bytes(jpeg_bytes(strip))
    aside.replace(path)


def data_uri(picture: bytes) -> str:
    """A picture as a `data:` address for an HTML page that stands alone."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"
