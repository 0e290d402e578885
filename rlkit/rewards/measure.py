"""What a reward with heads gets right: degradations of held-out rendered and of real pictures, cartoons, anatomy.

A score is a function (pictures, faces) -> numbers. Measured side by side are the trained reward, the same network
before training, and a statistic that learns nothing. Shares are of pictures, with intervals over them, since versions
of one picture are not independent. `real` pictures are those that scikit-image and scikit-learn ship
(data_synth/gallery/real.py), `own` ones the user's photos, told apart so that what they teach shows on the others; none
is scored by a judge trained on its scene, and with `evaluate.split: dev` they are not looked at.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import laplace

from data_synth.errors import DataError
from data_synth.gallery import dataset, photos
from data_synth.gallery.degrade import DEGRADATIONS, PHOTO_ONLY, visible
from data_synth.gallery.photos import Photo
from data_synth.gallery.scenes import Scene
from reward_models import agreement
from rlkit.evaluate import intervals
from rlkit.evaluate.intervals import Interval

Row = dict[str, Any]
Score = Callable[[Sequence[np.ndarray], Sequence[Any]], list[float]]
FAULTS = 5
"""Kinds of fault per held-out rendered picture; a real one gets all that show on it."""
SMOOTH_FROM = 0.5
"""Strength from which a smoothed photo is worse than a clean cartoon."""
SIDE = 512
WHERE = {"rendered": "held_out", "real": "real", "own": "own"}
"""Source of a row -> how its metrics end."""


def laplacian(pictures: Sequence[np.ndarray], faces: Sequence[Any]) -> list[float]:
    """log variance of the Laplacian of the channels' mean: the classic measure of sharpness, which learns nothing."""
    return [float(np.log(laplace(one.mean(-1, dtype=np.float32)).var() + 1e-6)) for one in pictures]


def rendered(count: int, *, seed: int, size: int) -> Iterator[list[Row]]:
    """Rendered pictures, each with its versions: clean, faults at four strengths, and the other anatomy."""
    rows = groupby(dataset.rows(count, seed=seed, size=size, degradations=FAULTS), key=lambda row: row["picture"])
    compared = groupby(
        dataset.pairs(count, seed=seed, size=size, degradations=0), key=lambda pair: pair["chosen"]["picture"]
    )
    for (picture, versions), (_, pairs) in zip(rows, compared, strict=True):
        found = list(versions)
        for pair in pairs:
            if pair["degradation"] == "anatomy":
                found += [{**pair["chosen"], "degradation": "right"}, {**pair["rejected"], "degradation": "wrong"}]
        yield [{**row, "picture": str(picture), "scene": str(picture), "source": "rendered"} for row in found]


def chosen(folder: Path | None, most: int) -> list[tuple[int, Photo]]:
    """Numbers and photos that are measured: all of installed packages, at most `most` of a folder's, spread over it."""
    listed = list(enumerate(photos.listed(folder)))
    own = [one for one in listed if one[1].file is not None]
    some = np.linspace(0, len(own) - 1, min(most, len(own))).round()
    return [one for one in listed if one[1].file is None] + [own[int(at)] for at in some]


def photographs(folder: Path | None, most: int) -> Iterator[tuple[str, list[Row]]]:
    """(scene, versions) of the `chosen` photos, each clean and with every fault that shows at the weakest of four
    strengths; at most SIDE pixels on the shorter side. One that cannot be read is left out."""
    for number, photo in chosen(folder, most):
        try:
            one = photos.read(photo)
        except DataError:
            continue
        image = _at_most(one.image, SIDE)
        kind, box = ("portrait", one.face) if one.face else ("general", photos.MIDDLE)
        drawn = Scene(image, "photo", kind, photos.subject(one), box, one.face)
        versions = [dataset.row(drawn, number)]
        for fault in DEGRADATIONS:
            if not dataset.applies(fault, drawn):
                continue
            weakest = dataset.spoilt(drawn, number, fault, min(dataset.STRENGTHS))
            if visible(image, weakest["image"]):
                rest = [dataset.spoilt(drawn, number, fault, strength) for strength in dataset.STRENGTHS[1:]]
                versions += [weakest, *rest]
        told = {"picture": photo.name, "scene": photo.scene, "source": "own" if photo.file else "real"}
        yield photo.scene, [row | told for row in versions]


def _at_most(image: np.ndarray, side: int) -> np.ndarray:
    share = side / min(image.shape[:2])
    if share >= 1:
        return image
    size = tuple(round(length * share) for length in image.shape[1::-1])
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def scored(pictures: Iterable[list[Row]], systems: Mapping[str, Score], done: Callable[[], None]) -> list[Row]:
    """The rows without their pixels, with `scores` of every system."""
    found = []
    for versions in pictures:
        images, faces = [row["image"] for row in versions], [row["face"] or () for row in versions]
        scores = {name: score(images, faces) for name, score in systems.items()}
        for at, row in enumerate(versions):
            kept = {k: row[k] for k in ("picture", "scene", "source", "style", "kind", "degradation", "strength")}
            found.append(kept | {"scores": {name: values[at] for name, values in scores.items()}})
        done()
    return found


def summary(rows: Sequence[Row], system: str) -> dict[str, Interval]:
    """Pairwise shares (clean above degraded, a tie counting half; per source, and per kind of fault), `monotone_*`
    (sweeps that fall at every step from clean on), `pairwise_anatomy`, `cartoon_smooth` (how many of the over-smoothed
    photos a clean cartoon scores above), and the calibration of P(clean is better) = sigmoid(|difference|). A scene is
    one line of the intervals, however many pictures of it there are."""
    lines: dict[str, dict[str, list[float]]] = {}
    margins: dict[str, list[tuple[str, float]]] = {source: [] for source in WHERE}
    for (source, _), versions in groupby(rows, key=lambda row: (row["source"], row["picture"])):
        of_picture = list(versions)
        name = of_picture[0]["scene"]
        line = lines.setdefault(f"{source} {name}", {})
        for fault, margin, falls in sweeps(of_picture, system):
            where = WHERE[source]
            line.setdefault(f"pairwise_{where}", []).extend(_right(margin))
            line.setdefault(f"monotone_{where}", []).append(float(falls))
            prefix = "pairwise_" if source == "rendered" else f"pairwise_{where}_"
            line.setdefault(prefix + fault, []).extend(_right(margin))
            margins[source] += [(name, value) for value in margin]
        told = {row["degradation"]: row["scores"][system] for row in of_picture}
        if "right" in told:
            line["pairwise_anatomy"] = _right([told["right"] - told["wrong"]])
    for name, share in cartoons(rows, system).items():
        lines[f"rendered {name}"]["cartoon_smooth"] = [share]
    table = [{"clip": clip} | {k: float(np.mean(v)) for k, v in values.items()} for clip, values in lines.items()]
    found = intervals.summarise(table)
    for source, pairs in margins.items():
        if pairs:
            found[f"calibration_{WHERE[source]}"] = calibration(pairs)
    return found


def sweeps(versions: Sequence[Row], system: str) -> Iterator[tuple[str, list[float], bool]]:
    """Of one picture, per fault: its name, the clean score minus each strength's, and whether the score falls at every
    step. What is no fault of a cartoon is left out."""
    clean = next(row for row in versions if row["degradation"] is None)["scores"][system]
    for fault in DEGRADATIONS:
        steps = sorted((row for row in versions if row["degradation"] == fault), key=lambda row: row["strength"])
        if not steps or (steps[0]["style"] == "cartoon" and fault in PHOTO_ONLY):
            continue
        scores = [clean, *(row["scores"][system] for row in steps)]
        yield fault, [clean - one for one in scores[1:]], bool(np.all(np.diff(scores) < 0))


def cartoons(rows: Sequence[Row], system: str) -> dict[str, float]:
    """Picture of a clean rendered cartoon -> share of the over-smoothed rendered photos that score below it."""
    own = [row for row in rows if row["source"] == "rendered"]
    smooth = [
        row["scores"][system]
        for row in own
        if row["style"] == "photo" and row["degradation"] in PHOTO_ONLY and row["strength"] >= SMOOTH_FROM
    ]
    clean = [row for row in own if row["style"] == "cartoon" and row["degradation"] is None]
    if not smooth:
        return {}
    return {row["picture"]: float(np.mean(_right(row["scores"][system] - np.array(smooth)))) for row in clean}


def calibration(pairs: Sequence[tuple[str, float]]) -> Interval:
    """Expected calibration error over (picture, margin) of pairs whose first is better, interval by picture."""
    names, margin = [name for name, _ in pairs], np.array([value for _, value in pairs])
    error = agreement.bootstrap_by_prompt(
        lambda sure, right: agreement.expected_calibration_error(sure, right)["error"],
        names,
        1 / (1 + np.exp(-np.abs(margin))),
        (margin > 0).astype(float),
    )
    low, high = (None if np.isnan(value) else value for value in (error.low, error.high))
    return {"value": error.value, "low": low, "high": high, "n": len(set(names)), "excluded": 0}


def _right(margins: Sequence[float] | np.ndarray) -> list[float]:
    return (0.5 + 0.5 * np.sign(margins)).tolist()
