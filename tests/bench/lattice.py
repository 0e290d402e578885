"""What the spectrum statistic says of real, processed, rendered and upsampled pictures: `python tests/bench/lattice.py`

The figures beside SUSPECT and SURE in reward_models/spectrum.py; `generated` and `abstained` are shares of pictures.
"""

import io
import json
import time

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from data_synth.gallery.degrade import DEGRADATIONS
from data_synth.gallery.real import real_pictures
from data_synth.gallery.scenes import render
from reward_models.spectrum import SURE, SUSPECT, lattice_peak


def main() -> None:
    """Measure and print one JSON line last."""
    start = time.perf_counter()
    peaks: dict[str, list[float]] = {}
    for one in real_pictures(grey=True):
        for name, image in {"real": one.image, **processed(one.image), **upsampled(one.image)}.items():
            peaks.setdefault(name, []).append(lattice_peak(image))
    for seed in range(60):
        image = render(seed, size=256, style="photo").image
        peaks.setdefault("rendered photo", []).append(lattice_peak(image))
        if seed < 15:
            grid = DEGRADATIONS["grid"](image, 0.25, np.random.default_rng(seed))
            peaks.setdefault("rendered, grid 0.25", []).append(lattice_peak(grid))
            cartoon = render(seed, size=256, style="cartoon").image
            peaks.setdefault("rendered cartoon", []).append(lattice_peak(cartoon))
    cases = []
    for name, found in peaks.items():
        values = np.array([value for value in found if value is not None])
        case = {"case": name, "n": len(values), "lowest": values.min(), "median": np.median(values)}
        case |= {"highest": values.max(), "generated": (values >= SURE).mean()}
        case |= {"abstained": ((values >= SUSPECT) & (values < SURE)).mean()}
        cases.append({key: round(float(v), 3) if isinstance(v, float) else v for key, v in case.items()})
        print("  ".join(f"{value:<26}" if key == "case" else f"{key} {value:g}" for key, value in cases[-1].items()))
    print(json.dumps({"bench": "lattice", "seconds": round(time.perf_counter() - start), "cases": cases}))


def processed(image: np.ndarray) -> dict[str, np.ndarray]:
    """What happens to photos that nobody generated."""
    height, width = image.shape[:2]
    picture, half = Image.fromarray(image), Image.fromarray(image[: height // 2, : width // 2])
    found = {f"real, JPEG {quality}": coded(image, "JPEG", quality) for quality in (90, 75, 50, 30, 10)}
    found["real, WebP 60"] = coded(image, "WEBP", 60)
    for way in ("BILINEAR", "BICUBIC", "LANCZOS", "NEAREST"):
        larger = half.resize((half.width * 2, half.height * 2), Image.Resampling[way])
        found[f"real, twice as large, {way.lower()}"] = np.asarray(larger)
    found["real, half as large"] = np.asarray(picture.resize((width // 2, height // 2), Image.Resampling.LANCZOS))
    found["real, sharpened"] = np.asarray(picture.filter(ImageFilter.UnsharpMask(2, 150, 0)))
    for name in ("blur", "noise"):
        found[f"real, {name}"] = DEGRADATIONS[name](image, 0.5, np.random.default_rng(0))
    return found


def upsampled(image: np.ndarray) -> dict[str, np.ndarray]:
    """Half the picture through a transposed convolution, stride 2, weights uneven by a tenth; as JPEG; made smaller."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    small = Image.fromarray(image).resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    zeros = np.zeros((height, width, 3), np.float32)
    zeros[::2, ::2] = np.asarray(small)
    kernel = np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]) * (1 + 0.1 * np.random.default_rng(1).standard_normal((3, 3)))
    kernel *= 4 / kernel.sum()
    out = np.stack([ndimage.convolve(zeros[..., k], kernel) for k in range(3)], axis=-1).clip(0, 255).astype(np.uint8)
    smaller = Image.fromarray(out).resize((width * 3 // 4, height * 3 // 4), Image.Resampling.LANCZOS)
    return {
        "real, transposed": out,
        "real, transposed, JPEG 90": coded(out, "JPEG", 90),
        "real, transposed, smaller": np.asarray(smaller),
    }


def coded(image: np.ndarray, format: str, quality: int) -> np.ndarray:
    """The picture after a file of that format."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format, quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


if __name__ == "__main__":
    main()
