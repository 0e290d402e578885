"""Pictures side by side in one PNG: a row for each prompt, a column for each seed."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

GAP = 2  # pixels between pictures
LEAST = 96  # smaller pictures are enlarged to about this side, without smoothing


def save_grid(path: Path, rows: Sequence[Sequence[Image.Image]]) -> None:
    """Write the grid; the file appears whole. All pictures are of one size."""
    first = rows[0][0]
    times = max(1, LEAST // max(first.size))
    width, height = first.width * times, first.height * times
    sheet = np.full((len(rows) * (height + GAP) - GAP, len(rows[0]) * (width + GAP) - GAP, 3), 255, np.uint8)
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            pixels = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST))
            top, left = down * (height + GAP), across * (width + GAP)
            sheet[top : top + height, left : left + width] = pixels
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(buffer.getvalue())
    aside.replace(path)
