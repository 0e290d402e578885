"""`rlkit review <pairs>`: one offline HTML page to judge pairs by eye, left or right, without knowing which is which:
two answers about a clip, or two pictures for a prompt.

The page holds no answer: sides are drawn from the seed and each pair's id, here, and `resolve` draws them again to read
votes.json. Nobody logs in, nothing is sent; the page saves its votes in the browser and gives them as a file.
"""

import argparse
import hashlib
import heapq
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from rlkit.errors import DataError
from rlkit.report.film_strip import data_uri, film_strip, jpeg_bytes
from rlkit.report.word_diff import word_diff
from rlkit.running.folder import write_text

VOTES = ("left", "right", "tie", "both_bad", "unsure", "skip")


def main(argv: Sequence[str] | None = None) -> int:
    """`rlkit review <pairs> [--out page.html] [--limit 200] [--seed 0]`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="rlkit review", description="example: rlkit review pairs/ --limit 100")
    parser.add_argument(
        "pairs",
        type=Path,
        help="a folder or parquet file of pairs, or JSONL with chosen and rejected, or jpg_0 and jpg_1",
    )
    parser.add_argument("--out", type=Path, help="the page; default: review.html beside the pairs")
    parser.add_argument("--limit", type=int, default=200, help="at most this many judgements, spread over the pairs")
    parser.add_argument("--seed", type=int, default=0, help="which pairs, in which order, and their sides")
    parser.add_argument("--media-root", type=Path, help="where clips lie, if not where the pairs' recipe says")
    given = parser.parse_args(argv)
    beside = given.pairs if given.pairs.is_dir() else given.pairs.parent
    root = given.media_root or media_root(beside)
    page = write_review(given.pairs, given.out or beside / "review.html", limit=given.limit, seed=given.seed, root=root)
    print(page)
    return 0


def media_root(folder: Path) -> Path:
    """The folder that media paths of pairs are relative to: that of the recipe that made them, else the pairs' own."""
    stored = Path(folder) / "recipe.yaml"
    if stored.is_file():
        from rlkit.recipe.file import load

        clips = load(stored).data.folder
        if clips is not None:
            return Path(clips)
    return Path(folder)


def write_review(pairs: Path, page: Path, *, limit: int = 200, seed: int = 0, root: Path | None = None) -> Path:
    """Write the page for at most `limit` answers of `pairs` and return its path; same arguments, same bytes.

    root: the folder that media paths are relative to, the working directory where it is None.
    """
    found = heapq.nsmallest(limit, judgements(read_pairs(pairs)), key=lambda item: _hash(seed, item["id"], "order"))
    if not found:
        raise DataError(f"{pairs}: holds no pairs to review.")
    name = f"{Path(pairs).name}-{_hash(seed, *(item['id'] for item in found))[:8]}"
    data = {"name": name, "seed": seed, "items": [_shown(item, seed, root) for item in found]}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    nonce = _hash(json.dumps(data))[:24]
    pictures = any("left_picture" in item for item in data["items"])
    question = "Which picture fits the prompt better?" if pictures else "Which answer describes the clip better?"
    html = environment.get_template("review.html.j2").render(data=data, name=name, nonce=nonce, question=question)
    write_text(Path(page), html)
    return Path(page)


def read_pairs(path: Path) -> Iterable[Mapping[str, Any]]:
    """Rows with `chosen` and `rejected`, or of pictures in Pick-a-Pic's columns: our parquet shards, or JSONL."""
    path = Path(path)
    if path.suffix != ".jsonl":
        from data_synth.records import read_records

        yield from read_records(path)
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not ({"chosen", "rejected"} <= row.keys() or {"jpg_0", "jpg_1"} <= row.keys()):
            raise DataError(f"{path}:{number}: expected a JSON object with chosen and rejected, or jpg_0 and jpg_1.")
        yield row


def judgements(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """One item per rejected answer: `id` ("<pair>:<number>"), `prompt`, `chosen`, `rejected`, `kind`, `media`: its
    first video or picture as (path, start, end), None where there is none. Of pairs of pictures those with a winner;
    `pictures` are then the cells of the better and the worse one, and the texts are empty.

    A pair without `pair_id` is known by the hash of its content, so that votes survive reordering of the file.
    """
    for row in rows:
        if "jpg_0" in row:
            yield from _of_pictures(row)
            continue
        chosen = _text(row["chosen"])
        rejected = row["rejected"]
        rejected = [rejected] if isinstance(rejected, str) else list(rejected)
        kinds = row.get("rejected_kind") or row.get("kind") or ""
        kinds = [kinds] * len(rejected) if isinstance(kinds, str) else list(kinds)
        identity = row.get("pair_id") or _hash(chosen, *(_text(answer) for answer in rejected))[:16]
        media = _media(row)
        for number, (answer, kind) in enumerate(zip(rejected, kinds, strict=True)):
            yield {
                "id": f"{identity}:{number}",
                "prompt": _text(row.get("prompt") or ""),
                "chosen": chosen,
                "rejected": _text(answer),
                "kind": kind,
                "media": media,
            }


def _of_pictures(row: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    first = row.get("label_0")
    if row.get("has_label") is False or first not in (0, 1):
        return
    pictures = [row["jpg_0"], row["jpg_1"]] if first == 1 else [row["jpg_1"], row["jpg_0"]]
    identity = (
        row.get("pair_id")
        or _hash(row["caption"], *(hashlib.sha256(repr(one).encode()).hexdigest() for one in pictures))[:16]
    )
    empty = {"chosen": "", "rejected": "", "kind": "", "media": None}
    item = {
        "id": f"{identity}:0",
        "prompt": row["caption"],
        "pictures": pictures,
        "num_frames": row.get("num_frames") or 1,
    }
    yield empty | item


def chosen_side(identity: str, seed: int) -> str:
    """The side on which a page with this seed shows the chosen answer: "left" or "right"."""
    return "left" if int(_hash(seed, identity, "side"), 16) % 2 else "right"


def resolve(votes: Path, pairs: Path) -> list[dict[str, Any]]:
    """votes.json with its sides turned back: rows `id kind vote seconds`, in the order voted.

    `vote` is chosen, rejected, tie, both_bad, unsure or skip. Raises DataError for a file that is no votes.json, and
    for votes on pairs that are not in `pairs`.
    """
    try:
        found = json.loads(Path(votes).read_text(encoding="utf-8"))
        seed, rows = found["seed"], found["votes"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{votes}: no votes.json as the review page writes it.") from None
    kinds = {item["id"]: item["kind"] for item in judgements(read_pairs(pairs))}
    out = []
    for place, row in enumerate(rows):
        if row.get("id") not in kinds:
            raise DataError(f"{votes}: vote {place} is on pair {row.get('id')!r}, which {pairs} does not hold.")
        if row.get("vote") not in VOTES:
            raise DataError(f"{votes}: vote {place} is {row.get('vote')!r}, expected one of {', '.join(VOTES)}.")
        vote = row["vote"]
        if vote in ("left", "right"):
            vote = "chosen" if vote == chosen_side(row["id"], seed) else "rejected"
        out.append({"id": row["id"], "kind": kinds[row["id"]], "vote": vote, "seconds": row.get("seconds")})
    return out


def _media(row: Mapping[str, Any]) -> tuple[str, float | None, float | None] | None:
    if row.get("videos") and isinstance(row.get("prompt"), list):
        from data_synth.records import pieces

        return pieces(row)[0]
    paths = [*(row.get("videos") or []), *(row.get("images") or [])]
    return (paths[0], None, None) if paths else None


def _shown(item: Mapping[str, Any], seed: int, root: Path | None) -> dict[str, Any]:
    """What the page gets of an item: nothing that tells the chosen answer from the rejected one."""
    answers, pictures = [item["chosen"], item["rejected"]], list(item.get("pictures", ()))
    if chosen_side(item["id"], seed) == "right":
        answers.reverse()
        pictures.reverse()
    left, right = word_diff(*answers)
    sides = [_side(one, item, root) for one in pictures]
    return dict(zip(("left_picture", "right_picture"), sides, strict=False)) | {
        "id": item["id"],
        "prompt": item["prompt"],
        "left": left,
        "right": right,
        "picture": _picture(item["media"], root),
    }


def _side(cell: Any, item: Mapping[str, Any], root: Path | None) -> str | None:
    """One of two pictures as data, a clip's frames side by side; None where it does not decode."""
    from rlkit.generators.pair_table import decode

    try:
        frames = decode(cell, item["id"], folder=root or Path(), num_frames=item["num_frames"])
    except DataError:
        return None
    picture = _small(np.concatenate(list(frames), axis=1))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")  # jpeg_bytes would blur small pictures
    return data_uri(buffer.getvalue())


def _picture(media: tuple[str, float | None, float | None] | None, root: Path | None) -> str | None:
    """The film strip of the piece of the clip, or the picture, as data; None where there is none, or none that decodes
    (the page then says nothing)."""
    if media is None:
        return None
    name, start, end = media
    path = Path(name) if root is None or Path(name).is_file() else Path(root, name)
    if not path.is_file():
        return None
    from data_synth.errors import DataError as Unreadable
    from data_synth.folder import PICTURE_SUFFIXES
    from data_synth.pictures import read_picture
    from data_synth.video import read_clip

    try:
        if path.suffix.lower() in PICTURE_SUFFIXES:
            return data_uri(jpeg_bytes(_small(read_picture(path))))
        clip = read_clip(path, num_frames=8, height=112, start=start, end=end)
    except Unreadable:
        return None
    return data_uri(jpeg_bytes(film_strip(clip.frames, clip.timestamps)))


def _small(pixels: np.ndarray) -> Image.Image:
    """A picture of at most 640 x 480 pixels."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((640, 480))
    return picture


def _text(answer: Any) -> str:
    if isinstance(answer, str):
        return answer
    from data_synth.records import text_of

    return text_of(answer)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
