"""Rated pictures and pairs of them: rendered, spoilt by known amounts, or a user's own folder in the same columns.

A row: `image` uint8 [H, W, 3], `picture` (the base picture: rows of one share it, and a split keeps them together),
`style`, `kind`, `face` (box in shares of width and height; None without one, and where the border cuts it off),
`degradation` and `strength` (None and 0.0 when clean), `ratings` {attribute: 0 to 1, or None where it does not apply},
`distribution` (shares of the ratings 1 to 5 that people would give overall, or None), `veto` {"anatomy": bool or None,
"artefact": bool or None}.

A rating is 1 - strength in the attribute of the fault and 1 in all others. `anatomy` is True for a figure with a
wrong number of legs or fingers, None without a figure; `artefact` is True from strength 0.75 on of a fault that only
generated photos have, False without one, None between (people would not agree).
"""

import io
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.stats import norm

from data_synth.errors import DataError
from data_synth.gallery.degrade import ATTRIBUTES, DEGRADATIONS, PHOTO_ONLY, difference, moved, visible, window
from data_synth.gallery.scenes import Scene, render
from data_synth.jsonl import read_lines
from data_synth.pictures import read_picture
from data_synth.records import REJECTED_NAME, Rejected
from data_synth.whole import whole

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
GALLERY_NAME = "gallery.parquet"
PICTURES = 1_000_000
"""Pictures of one seed before the next one's begin."""
SPREAD = 0.7
"""Deviation of people's overall ratings of one picture, on the scale of 1 to 5."""
NO_UPRIGHT = ("surface", "clutter")
"""Subjects seen from above or all over: neither tilt nor a cut shows, so that `composition` is not spoilt in them."""
STYLES, KINDS, VETOES = ("photo", "cartoon"), ("general", "portrait"), ("anatomy", "artefact")
_SCHEMA = pa.schema(
    [
        ("file_name", pa.string()),
        ("picture", pa.int64()),
        ("style", pa.string()),
        ("kind", pa.string()),
        ("face", pa.list_(pa.float64())),
        ("degradation", pa.string()),
        ("strength", pa.float64()),
        ("ratings", pa.struct([(name, pa.float64()) for name in ATTRIBUTES])),
        ("distribution", pa.list_(pa.float64())),
        ("veto", pa.struct([(name, pa.bool_()) for name in VETOES])),
    ]
)


def rows(
    num_pictures: int,
    *,
    seed: int = 0,
    size: int = 192,
    strengths: Sequence[float] = STRENGTHS,
    degradations: int | None = 4,
) -> Iterator[dict[str, Any]]:
    """Each picture clean, then spoilt by `degradations` faults that show on it (None: all) at every strength.

    Pictures of different seeds are different ones; `picture` counts from seed * 1,000,000.
    """
    for scene, picture in _scenes(num_pictures, seed, size):
        yield row(scene, picture)
        for name in _drawn(scene, picture, degradations, min(strengths)):
            for strength in strengths:
                yield spoilt(scene, picture, name, strength)


def row(scene: Scene, picture: int) -> dict[str, Any]:
    """The clean picture's row."""
    return _row(scene, picture, scene.image, None, 0.0, scene.face)


def spoilt(scene: Scene, picture: int, name: str, strength: float) -> dict[str, Any]:
    """The row of a picture after one fault; the same fault at another strength has the same direction, phase and so on.

    Smoothing that shows on a cartoon leaves its `artefacts` unrated; where it does not show, the cartoon stays at 1.
    """
    box = scene.box if name == "composition" else scene.face
    image = DEGRADATIONS[name](scene.image, strength, _rng(picture, name), box)
    face = scene.face
    if name == "composition" and face is not None:
        face = moved(face, window(image.shape, strength, _rng(picture, name), box), image.shape)
    return _row(scene, picture, image, name, strength, face)


def pairs(
    num_pictures: int,
    *,
    seed: int = 0,
    size: int = 192,
    strengths: Sequence[float] = STRENGTHS,
    degradations: int | None = 4,
) -> Iterator[dict[str, Any]]:
    """Pairs of one base picture: clean against spoilt, weaker against stronger, right against wrong anatomy, and ties.

    A pair: `chosen` and `rejected` (rows, see above), `tie`, `margin` (how much lower the rejected one's rating is; 0
    for ties), `attribute` (or "anatomy"; None for ties, which hold for all), `degradation` (or the name of what makes
    no difference). Without ties `chosen` is better.
    """
    for scene, picture in _scenes(num_pictures, seed, size):
        yield from pairs_of(scene, picture, size=size, strengths=strengths, degradations=degradations)


def pairs_of(
    scene: Scene,
    picture: int,
    *,
    size: int = 192,
    strengths: Sequence[float] = STRENGTHS,
    degradations: int | None = 4,
) -> Iterator[dict[str, Any]]:
    """The pairs of one picture, see `pairs`."""
    clean, rng = row(scene, picture), _rng(picture, "pairs")
    for name in _drawn(scene, picture, degradations, min(strengths)):
        if scene.style == "cartoon" and name in PHOTO_ONLY:
            continue
        weaker, stronger = sorted(rng.choice(strengths, 2, replace=False))
        some = {s: spoilt(scene, picture, name, float(s)) for s in (weaker, stronger)}
        yield _pair(clean, some[float(rng.choice([weaker, stronger]))], name)
        yield _pair(some[weaker], some[stronger], name)
    if scene.anatomy is not None:
        other = render(picture, size=size, wrong=not scene.anatomy)
        right, wrong = (scene, other) if other.anatomy else (other, scene)
        yield _pair(row(right, picture), row(wrong, picture), "anatomy")
    yield from _ties(scene, picture, clean)


def _ties(scene: Scene, picture: int, clean: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What makes no difference: a mirror, a narrow crop, good JPEG, a trace of noise; smoothing of a cartoon."""
    image, rng = scene.image, _rng(picture, "ties")
    size, name = len(image), str(rng.choice(["mirror", "crop", "good_jpeg", "faint_noise"]))
    face = scene.face
    if name == "mirror":
        changed = np.ascontiguousarray(image[:, ::-1])
        face = face and (1 - face[2], face[1], 1 - face[0], face[3])
    elif name == "crop":
        part = rng.uniform(0.88, 0.97)
        left, top = ((1 - part) * size * share for share in (0.5, 0.5))
        box = (left, top, left + part * size, top + part * size)
        changed = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=box))
        face = face and tuple(float(np.clip((v - (1 - part) / 2) / part, 0, 1)) for v in face)
    elif name == "good_jpeg":
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=95, subsampling=0)
        changed = np.asarray(Image.open(file))
    else:
        changed = (image + rng.standard_normal(image.shape) + 0.5).clip(0, 255).astype(np.uint8)
    yield _pair(clean, _row(scene, picture, changed, None, 0.0, face), name, tie=True)
    if scene.style == "cartoon":
        smooth = spoilt(scene, picture, "over_smoothed_skin", 0.5)
        if not visible(image, smooth["image"]):
            yield _pair(clean, smooth, "over_smoothed_skin", tie=True)


def applies(name: str, scene: Scene) -> bool:
    """Whether the fault is one of such a scene."""
    return not (name == "composition" and scene.style == "photo" and scene.subject in NO_UPRIGHT)


def distribution(overall: float) -> list[float]:
    """Shares of people's ratings 1 to 5 for a quality in [0, 1]: a normal of SPREAD around 1.2 + 3.4 * quality, cut at
    the borders between ratings. An assumption, not a measurement."""
    edges = norm.cdf((np.arange(1.5, 5) - (1.2 + 3.4 * overall)) / SPREAD)
    return np.diff([0.0, *edges, 1.0]).tolist()


def write_gallery(folder: Path, gallery: Iterator[dict[str, Any]]) -> int:
    """Write rows as PNG files and gallery.parquet, which datasets' imagefolder reads too; returns how many."""
    table = []
    for number, one in enumerate(gallery):
        name = f"pictures/{number // 1000:03d}/{number:06d}.png"
        with whole(Path(folder) / name) as file:
            Image.fromarray(one["image"]).save(file, "PNG", compress_level=1)
        table.append({key: one[key] for key in _SCHEMA.names if key != "file_name"} | {"file_name": name})
    with whole(Path(folder) / GALLERY_NAME) as file:
        pq.write_table(pa.Table.from_pylist(table, schema=_SCHEMA), file)
    return len(table)


def read_gallery(folder: str | Path, *, rejected: list[Rejected] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a folder with gallery.parquet or gallery.jsonl, and `file`, where each picture lies; only `file_name`
    and one of ratings, distribution and veto are needed in a row, missing ones are None.

    A bad row (no such file, no picture, a rating outside 0 to 1, ...) is appended to `rejected` and, when the reading
    ends, written to rejected_rows.jsonl in the folder. Raises DataError where there is no such folder or no good row.
    """
    folder, rejected, good = Path(folder), [] if rejected is None else rejected, 0
    start = len(rejected)
    for where, found in _found(folder):
        one = found if isinstance(found, Rejected) else _checked(folder, where, found)
        if isinstance(one, Rejected):
            rejected.append(one)
            continue
        good += 1
        yield one
    bad = rejected[start:]
    if bad:
        with whole(folder / REJECTED_NAME, "w") as file:
            file.writelines(one.line() for one in bad)
    if not good:
        some = f"; the first of {len(bad)}: {bad[0].where}: {bad[0].reasons[0]}" if bad else ""
        raise DataError(f"{folder}: no row can be used{some}.")


def _scenes(num_pictures: int, seed: int, size: int) -> Iterator[tuple[Scene, int]]:
    for picture in range(seed * PICTURES, seed * PICTURES + num_pictures):
        yield render(picture, size=size), picture


def _drawn(scene: Scene, picture: int, number: int | None, weakest: float) -> list[str]:
    """Faults in the picture's own order, as many as wanted of those that show at the weakest strength."""
    found: list[str] = []
    for name in _rng(picture, "faults").permutation(list(DEGRADATIONS)).tolist():
        if len(found) == (len(DEGRADATIONS) if number is None else number):
            break
        if not applies(name, scene):
            continue
        smooth = scene.style == "cartoon" and name in PHOTO_ONLY
        if smooth or visible(scene.image, spoilt(scene, picture, name, weakest)["image"]):
            found.append(name)
    return found


def _row(scene: Scene, picture: int, image: np.ndarray, name: str | None, strength: float, face) -> dict[str, Any]:
    ratings: dict[str, float | None] = dict.fromkeys(ATTRIBUTES, 1.0)
    artefact: bool | None = False
    if name is not None and scene.style == "cartoon" and name in PHOTO_ONLY:
        if difference(scene.image, image) > 1:
            ratings["artefacts"], artefact = None, None
    elif name is not None:
        ratings[DEGRADATIONS[name].attribute] = 1.0 - strength
        if DEGRADATIONS[name].veto:
            artefact = True if strength >= 0.75 else None
    known = [value for value in ratings.values() if value is not None]
    overall = (sum(known) / len(known) + min(known)) / 2 - 0.4 * bool(scene.anatomy)
    return {
        "image": image,
        "picture": picture,
        "style": scene.style,
        "kind": scene.kind,
        "face": face,
        "degradation": name,
        "strength": strength,
        "ratings": ratings,
        "distribution": distribution(max(overall, 0.0)),
        "veto": {"anatomy": scene.anatomy, "artefact": artefact},
    }


def _pair(chosen: dict[str, Any], rejected: dict[str, Any], name: str, *, tie: bool = False) -> dict[str, Any]:
    attribute = DEGRADATIONS[name].attribute if name in DEGRADATIONS else name
    margin = 1.0 if name == "anatomy" else rejected["strength"] - chosen["strength"]
    return {
        "chosen": chosen,
        "rejected": rejected,
        "tie": tie,
        "margin": 0.0 if tie else margin,
        "attribute": None if tie else attribute,
        "degradation": name,
    }


def _rng(picture: int, name: str) -> np.random.Generator:
    return np.random.default_rng([picture, zlib.crc32(name.encode())])


def _found(folder: Path) -> Iterator[tuple[str, dict[str, Any] | Rejected]]:
    parquet, lines = folder / GALLERY_NAME, (folder / GALLERY_NAME).with_suffix(".jsonl")
    if parquet.is_file():
        try:
            number = 0
            for batch in pq.ParquetFile(parquet).iter_batches(1_000):
                for one in batch.to_pylist():
                    yield f"{parquet}:{number}", one
                    number += 1
        except pa.ArrowInvalid as error:
            raise DataError(f"{parquet}: not a parquet file ({str(error).splitlines()[0]}).") from error
    elif lines.is_file():
        yield from read_lines(lines)
    else:
        raise DataError(f"{folder}: holds neither {GALLERY_NAME} nor {lines.name}; expected one of them.")


def _checked(folder: Path, where: str, found: dict[str, Any]) -> dict[str, Any] | Rejected:
    """The row with its picture, or all that is wrong with it."""
    given = {**dict.fromkeys(_SCHEMA.names), **{k: v for k, v in found.items() if k in _SCHEMA.names}}
    reasons = [reason for check in (_wrong_words, _wrong_numbers, _wrong_labels) for reason in check(given)]
    image = None
    if isinstance(given["file_name"], str) and given["file_name"]:
        path = folder / given["file_name"]
        if not path.resolve().is_relative_to(folder.resolve()):
            reasons.append(f"file_name: {given['file_name']} lies outside of the folder.")
        else:
            try:
                image = read_picture(path)
            except DataError as error:
                reasons.append(f"file_name: {error}")
    else:
        reasons.append(f"file_name: found {given['file_name']!r}, expected a path within the folder.")
    if reasons:
        return Rejected(where, reasons, found)
    picture = given["picture"] if given["picture"] is not None else zlib.crc32(given["file_name"].encode())
    return {
        "image": image,
        "file": str(path),
        "picture": picture,
        "style": given["style"] or "photo",
        "kind": given["kind"] or ("portrait" if given["face"] else "general"),
        "face": tuple(given["face"]) if given["face"] else None,
        "degradation": given["degradation"],
        "strength": float(given["strength"] or 0.0),
        "ratings": dict.fromkeys(ATTRIBUTES) | (given["ratings"] or {}),
        "distribution": list(given["distribution"]) if given["distribution"] else None,
        "veto": dict.fromkeys(VETOES) | (given["veto"] or {}),
    }


def _wrong_words(given: dict[str, Any]) -> Iterator[str]:
    for key, allowed in (("style", STYLES), ("kind", KINDS), ("degradation", tuple(DEGRADATIONS))):
        if given[key] is not None and given[key] not in allowed:
            yield f"{key}: found {given[key]!r}, expected one of {', '.join(allowed)}."
    if given["picture"] is not None and (not isinstance(given["picture"], int) or isinstance(given["picture"], bool)):
        yield f"picture: found {given['picture']!r}, expected a whole number, the same for all versions of a picture."


def _wrong_numbers(given: dict[str, Any]) -> Iterator[str]:
    strength, face, shares = given["strength"], given["face"], given["distribution"]
    if strength is not None and not _share(strength):
        yield f"strength: found {strength!r}, expected a number in [0, 1]."
    if face is not None and not (
        isinstance(face, list | tuple)
        and len(face) == 4
        and all(map(_share, face))
        and face[0] < face[2]
        and face[1] < face[3]
    ):
        yield f"face: found {face!r}, expected left, top, right, bottom in shares of width and height."
    if shares is not None and not (
        isinstance(shares, list | tuple)
        and len(shares) == 5
        and all(map(_share, shares))
        and abs(sum(shares) - 1) < 1e-3
    ):
        yield f"distribution: found {shares!r}, expected the shares of the ratings 1 to 5, which sum to 1."


def _wrong_labels(given: dict[str, Any]) -> Iterator[str]:
    """Ratings and vetoes of unknown names, outside their range, or none at all."""
    for key, names, good, expected in (
        ("ratings", ATTRIBUTES, _share, "a number in [0, 1]"),
        ("veto", VETOES, lambda value: isinstance(value, bool), "true or false"),
    ):
        labels = given[key] if given[key] is not None else {}
        if not isinstance(labels, dict):
            yield f"{key}: found {labels!r}, expected an object of {', '.join(names)}."
            continue
        for name, value in labels.items():
            if name not in names:
                yield f"{key}: found {name!r}, expected {', '.join(names)}."
            elif value is not None and not good(value):
                yield f"{key}: {name} is {value!r}, expected {expected} or null."
    known = [
        v for key in ("ratings", "veto") if isinstance(given[key], dict) for v in given[key].values() if v is not None
    ]
    if not known and given["distribution"] is None:
        yield "ratings: found none, nor a distribution or veto; expected at least one."


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
