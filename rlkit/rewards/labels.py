"""What people, or the maker of a picture, say of pictures: ratings, distributions, faults, pairs and rankings.

A group is what belongs together, such as versions of one picture or answers to one prompt: pairs and rankings are
within it, and it is never cut between batches. A file of labels is JSONL, one group a line:

    {"group": "p1", "items": [{"image": "a.png", "ratings": {"sharpness": 0.8}, "veto": {"anatomy": false}},
                              {"image": "b.png", "kind": "portrait", "face": [0.3, 0.1, 0.6, 0.5]}],
     "pairs": [{"better": 0, "worse": 1, "attribute": "overall", "tie": false, "margin": 0.0}],
     "rankings": [{"order": [0, 1], "attribute": "overall"}]}

`items` have `image` or `video` (a path from the file's folder); all else may be missing: no label is not a label of 0.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_synth.video import read_clip
from reward_models.vision.heads import OVERALL, Outputs
from rlkit.errors import DataError


@dataclass(frozen=True)
class Item:
    """One picture or video and what is said of it alone."""

    media: Any
    """uint8 [H, W, 3] or [T, H, W, 3], or the path of a file, read when it is needed."""
    ratings: Mapping[str, float] = field(default_factory=dict)
    distribution: Sequence[float] | None = None
    veto: Mapping[str, bool] = field(default_factory=dict)
    kind: str | None = None
    """Name of an expert; None: not known."""
    face: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom in shares of width and height."""

    def frames(self, count: int) -> np.ndarray:
        """The pixels; of a video at most `count` frames. Raises DataError for a file that does not decode."""
        if isinstance(self.media, np.ndarray):
            return self.media
        path = Path(self.media)
        if path.suffix.lower() in VIDEO:
            return read_clip(path, num_frames=count).frames
        try:
            with Image.open(path) as picture:
                return np.asarray(picture.convert("RGB"))
        except OSError as error:
            raise DataError(f"{path}: {error}") from error


VIDEO = (".mp4", ".mov", ".mkv", ".webm", ".avi")


@dataclass(frozen=True)
class Pair:
    """`better` and `worse` are places in the group's items; in a tie they may change places."""

    better: int
    worse: int
    attribute: str = OVERALL
    tie: bool = False
    margin: float = 0.0


@dataclass(frozen=True)
class Ranking:
    """Places in the group's items, the best first."""

    order: tuple[int, ...]
    attribute: str = OVERALL


@dataclass(frozen=True)
class Group:
    """Items that are compared with each other."""

    name: str
    items: tuple[Item, ...]
    pairs: tuple[Pair, ...] = ()
    rankings: tuple[Ranking, ...] = ()


def part_of(group: Group, kept: Sequence[int]) -> Group:
    """The group with some of its items, and the pairs and rankings that are left among them."""
    place = {old: new for new, old in enumerate(kept)}
    pairs = [
        replace(pair, better=place[pair.better], worse=place[pair.worse])
        for pair in group.pairs
        if pair.better in place and pair.worse in place
    ]
    rankings = [replace(one, order=tuple(place[at] for at in one.order if at in place)) for one in group.rankings]
    return Group(group.name, tuple(group.items[at] for at in kept), tuple(pairs), tuple(rankings))


def read_labels(path: str | Path, outputs: Outputs) -> tuple[list[Group], list[dict[str, Any]]]:
    """The groups of a file, and the lines set aside: {"line", "reason", "row"}. Raises DataError where none is left."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no file {path}; it is JSONL with the labels of pictures, one group a line.")
    groups, rejected = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            group = group_of(json.loads(line), path.parent, f"line {number}")
            check(group, outputs)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            rejected.append({"line": number, "reason": reason, "row": line})
        else:
            groups.append(group)
    if not groups:
        first = f" First: line {rejected[0]['line']}: {rejected[0]['reason']}." if rejected else ""
        raise DataError(f"{path}: no usable group in {len(rejected)} lines.{first}")
    return groups, rejected


def group_of(row: Mapping[str, Any], folder: Path, name: str) -> Group:
    """One line of a file. Raises KeyError, TypeError and ValueError for what is missing or no label."""
    items = []
    for one in row["items"]:
        media = folder / one["image" if "image" in one else "video"]
        if not media.is_file():
            raise ValueError(f"no file {media}")
        face = one.get("face")
        if face is not None:
            left, top, right, bottom = (float(v) for v in face)
            if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise ValueError(f"face {face}; expected left, top, right, bottom in shares of width and height")
            face = (left, top, right, bottom)
        ratings = {attribute: float(v) for attribute, v in one.get("ratings", {}).items() if v is not None}
        veto = {fault: bool(v) for fault, v in one.get("veto", {}).items() if v is not None}
        items.append(Item(str(media), ratings, one.get("distribution"), veto, one.get("kind"), face))
    pairs = [Pair(**one) for one in row.get("pairs", [])]
    rankings = [Ranking(**{**one, "order": tuple(one["order"])}) for one in row.get("rankings", [])]
    return Group(str(row.get("group", name)), tuple(items), tuple(pairs), tuple(rankings))


def check(group: Group, outputs: Outputs) -> None:
    """Raises ValueError for labels that the model has no head for, or that name no item."""
    places = range(len(group.items))
    named = [one.attribute for one in (*group.pairs, *group.rankings)]
    named += [attribute for item in group.items for attribute in item.ratings]
    unknown = sorted({*named} - {*outputs.attributes})
    unknown += sorted({fault for item in group.items for fault in item.veto} - {*outputs.vetoes})
    unknown += sorted({item.kind for item in group.items if item.kind is not None} - {*outputs.experts})
    if unknown:
        known = ", ".join((*outputs.attributes, *outputs.vetoes, *outputs.experts))
        raise ValueError(f"{unknown[0]!r} is no attribute, veto or expert of the recipe's `reward:`, which has {known}")
    used = [at for pair in group.pairs for at in (pair.better, pair.worse)]
    used += [at for ranking in group.rankings for at in ranking.order]
    if any(at not in places for at in used):
        raise ValueError(f"a pair or ranking names item {max(used)}; there are items 0 to {len(places) - 1}")
    if any(pair.better == pair.worse for pair in group.pairs) or any(
        len({*ranking.order}) < len(ranking.order) for ranking in group.rankings
    ):
        raise ValueError("an item is compared with itself")
    for item in group.items:
        shares = item.distribution
        if shares is not None and (len(shares) != outputs.bins or min(shares) < 0 or abs(sum(shares) - 1) > 1e-3):
            raise ValueError(f"distribution {list(shares)}; expected {outputs.bins} shares that sum to 1")
        if outputs.levels and any(v not in range(outputs.levels) for v in item.ratings.values()):
            raise ValueError(f"ratings {dict(item.ratings)}; expected grades 0 to {outputs.levels - 1}")
