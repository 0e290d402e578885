"""Still pictures on disk as arrays, upright, refused with the reason where they are damaged or too large."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from data_synth.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_BYTES = 256 << 20
MAX_PIXELS = 100_000_000


def read_picture(path: str | Path, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """One picture as uint8 RGB [H, W, 3], turned upright by its EXIF orientation; transparency is laid on white."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder, expected a picture' if path.is_dir() else 'no such file'}.")
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes).")
    if size > max_bytes:
        raise DataError(f"{path}: {size} bytes, the limit is {max_bytes}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
            with Image.open(path) as image:
                if image.width * image.height > max_pixels:
                    raise DataError(f"{path}: {image.width} x {image.height} pixels, the limit is {max_pixels} in all.")
                image.load()
                upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise DataError(f"{path}: not a picture that Pillow can read.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: truncated or damaged ({str(error).splitlines()[0]}).") from error
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    return np.asarray(upright.convert("RGB"))
