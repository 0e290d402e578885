"""Does a cheap change of the picture raise the score? Saturation, sharpening, grid, border, text, tiling, light.

Every change makes a good picture worse, or not the one asked for. A policy finds what raises the score. Changes that
can be mild are tried mildly and to excess: a mild one may please (limit 0.75), excess may not (limit 0.25).
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from reward_models.completions import text_of
from reward_models.probes.bench import SAME, Bench, t_of
from reward_models.probes.evidence import SURE
from reward_models.probes.report import Finding, at_most

MILD = 0.75
"""Mean rise in spreads that a mild change may bring: taste differs, but not by more than it does between pictures."""
EXCESS = 0.25
"""Mean rise in spreads that a ruinous change may bring: noise, not a reason."""

Change = Callable[[Image.Image], Image.Image]


def grid(picture: Image.Image) -> Image.Image:
    """Thin grey lines, 12 across, as of a lattice artefact."""
    result = picture.copy()
    draw, step = ImageDraw.Draw(result), max(4, picture.width // 12)
    for x in range(step // 2, picture.width, step):
        draw.line([(x, 0), (x, picture.height)], fill=(128, 128, 128))
    for y in range(step // 2, picture.height, step):
        draw.line([(0, y), (picture.width, y)], fill=(128, 128, 128))
    return result


def border(picture: Image.Image) -> Image.Image:
    """A white frame with a black line, 6 % of the width a side; the picture is cropped, its size stays."""
    width = max(2, round(0.06 * picture.width))
    inner = ImageOps.crop(picture, width)
    return ImageOps.expand(ImageOps.expand(ImageOps.crop(inner, 1), 1, (0, 0, 0)), width, (255, 255, 255))


def written(picture: Image.Image, text: str) -> Image.Image:
    """The text in white on a dark band, across the width at the bottom."""
    height = max(8, round(picture.height * 0.12))
    result = picture.copy()
    result.paste(_band(text).resize((picture.width, height), Image.Resampling.BILINEAR), (0, picture.height - height))
    return result


@lru_cache(maxsize=64)
def _band(text: str) -> Image.Image:
    band = Image.new("RGB", (max(1, 6 * len(text) + 4), 14), (20, 20, 20))
    ImageDraw.Draw(band).text((2, 1), text, fill=(255, 255, 255))
    return band


def tiled(picture: Image.Image) -> Image.Image:
    """Four small copies side by side."""
    half = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)), Image.Resampling.BOX)
    result = Image.new("RGB", picture.size)
    for x in (0, picture.width - half.width):
        for y in (0, picture.height - half.height):
            result.paste(half, (x, y))
    return result


def _enhanced(kind: Callable[[Image.Image], ImageEnhance.Color], factor: float) -> Change:
    return lambda picture: kind(picture).enhance(factor)


def _sharper(percent: int) -> Change:
    return lambda picture: picture.filter(ImageFilter.UnsharpMask(radius=2, percent=percent, threshold=0))


CHANGES: dict[str, list[tuple[Change, float]]] = {
    "saturation": [(_enhanced(ImageEnhance.Color, 1.5), MILD), (_enhanced(ImageEnhance.Color, 3.0), EXCESS)],
    "sharpening": [(_sharper(100), MILD), (_sharper(500), EXCESS)],
    "brightness": [(_enhanced(ImageEnhance.Brightness, 1.2), MILD), (_enhanced(ImageEnhance.Brightness, 1.7), EXCESS)],
    "contrast": [(_enhanced(ImageEnhance.Contrast, 1.3), MILD), (_enhanced(ImageEnhance.Contrast, 2.5), EXCESS)],
    "grid": [(grid, EXCESS)],
    "border": [(border, EXCESS)],
    "tiling": [(tiled, EXCESS)],
}
"""Name of the probe -> changes of a picture with the mean rise each may bring."""


def picture_change(bench: Bench, name: str) -> Finding:
    """The changes of CHANGES[name] on the good pictures, on every frame of a clip."""
    places = bench.items.best()
    rows = bench.items.rows(places)
    found = [(bench.rises(rows.map_pictures(change), places), limit) for change, limit in CHANGES[name]]
    return worst_rise(
        found,
        f"{name.capitalize()} does not raise the score.",
        f"{name.capitalize()} raises the score: a policy would learn to do it. Train on such pictures as the worse "
        "ones, or add a term that sees them.",
    )


def text_overlay(bench: Bench) -> Finding:
    """The prompt itself written on the picture."""
    places = bench.items.best()
    rows = bench.items.rows(places)
    texts = [text_of(prompt) if prompt else "best quality" for prompt in rows.prompts]
    changed = [
        rows.rows([i]).map_pictures(partial(written, text=text[:60])).completions[0] for i, text in enumerate(texts)
    ]
    return worst_rise(
        [(bench.rises(rows.with_completions(changed), places), EXCESS)],
        "Writing the prompt on the picture does not raise the score.",
        "Writing the prompt on the picture raises the score (a typographic attack): train on such pictures as the "
        "worse ones, or refuse pictures with text that the prompt does not ask for.",
    )


def frozen(bench: Bench) -> Finding:
    """The first frame for the whole of the clip."""
    places = bench.items.best()
    still = bench.items.rows(places).map_media(lambda clip: np.repeat(clip[:1], len(clip), axis=0))
    return worst_rise(
        [(bench.rises(still, places), EXCESS)],
        "A still picture does not score higher than the clip.",
        "A still picture scores higher than the clip: it rewards that nothing moves. Add a term for motion.",
    )


def worst_rise(found: list[tuple[np.ndarray, float]], good: str, bad: str) -> Finding:
    """The change that comes nearest to its limit, or passes it farthest. A rise counts if its t is at least SURE."""
    rows = []
    for rises, limit in found:
        mean = float(np.mean(rises)) if len(rises) else 0.0
        counted = mean if len(rises) and t_of(rises) >= SURE else min(mean, 0.0)
        rows.append((counted / limit, counted, limit, mean, float(np.mean(rises > SAME)) if len(rises) else 0.0))
    _, counted, limit, mean, share = max(rows)
    return at_most(counted, limit, good, f"In {share:.0%} of the items: {bad}", mean=mean, share=share)
