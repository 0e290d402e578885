"""What `rlkit reward score` scores: a folder of pictures and clips, or rows of a .jsonl or .parquet file.

A row has `id` (default: its number), `prompt`, `completion` (text or messages), `image` or `images`, `video` or
`videos`; paths are relative to the file, and a picture may also be {"bytes": ..} as datasets store it. Other columns
reach the reward as they are. Without `completion` the picture or clip is what is scored; with it, pictures and clips go
beside it as `images` and `videos`. A folder may have a metadata.jsonl, with `file_name` and further columns.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from data_synth.errors import DataError
from data_synth.jsonl import read_lines
from data_synth.pictures import SUFFIXES, read_picture
from data_synth.records import Rejected
from data_synth.video import read_clip
from reward_models.serving.calling import Row
from reward_models.serving.scoring_job import Item

PICTURES = frozenset({*SUFFIXES, ".gif"})
CLIPS = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi"})
ROWS_AT_ONCE = 64  # of a parquet file, which may hold the pictures themselves


def read_items(path: Path, num_frames: int) -> Iterator[Item]:
    """The items of a folder or file, opened one by one when read. num_frames: of a clip, evenly in time.

    Raises DataError where there is nothing to score.
    """
    if path.is_dir():
        return _of_folder(path, num_frames)
    if path.suffix == ".parquet" and path.is_file():
        return _of_rows(_parquet(path), path.parent, num_frames)
    if path.suffix == ".jsonl" and path.is_file():
        return _of_rows(read_lines(path), path.parent, num_frames)
    raise DataError(f"{path}: expected a folder of pictures or clips, or a .jsonl or .parquet file.")


def _of_folder(folder: Path, num_frames: int) -> Iterator[Item]:
    about = _metadata(folder / "metadata.jsonl")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES | CLIPS)
    if not files:
        raise DataError(f"{folder}: has no pictures or clips ({' '.join(sorted(PICTURES | CLIPS))}).")
    names = {path.relative_to(folder).as_posix(): path for path in files}
    if unknown := sorted(about.keys() - names.keys()):
        raise DataError(f"{folder / 'metadata.jsonl'}: file_name {unknown[0]!r} is no picture or clip of the folder.")
    for name, path in names.items():
        kind = "video" if path.suffix.lower() in CLIPS else "image"
        row = {**about.get(name, {}), kind: path.name}
        yield Item(name.encode("utf-8", "backslashreplace").decode(), partial(_row, row, path.parent, num_frames))


def _metadata(path: Path) -> dict[str, dict[str, Any]]:
    about = {}
    for where, row in read_lines(path) if path.is_file() else ():
        if isinstance(row, Rejected):
            raise DataError(f"{where}: {'; '.join(row.reasons)}")
        if not isinstance(row.get("file_name"), str):
            raise DataError(f"{where}: has no file_name; expected the path of a file from {path.parent}.")
        about[row.pop("file_name")] = row
    return about


def _of_rows(rows: Iterator[tuple[str, Any]], root: Path, num_frames: int) -> Iterator[Item]:
    for number, (where, row) in enumerate(rows):
        if isinstance(row, Rejected):
            yield Item(where, partial(_refuse, f"{where}: {'; '.join(row.reasons)}"))
            continue
        row = dict(row)
        id_ = row.pop("id", None)
        yield Item(str(number if id_ is None else id_), partial(_row, row, root, num_frames))


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield f"{path}:{number}", row
                number += 1
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet ({error}).") from None


def _row(row: Mapping[str, Any], root: Path, num_frames: int) -> Row:
    columns = dict(row)
    prompt, completion = columns.pop("prompt", None), columns.pop("completion", None)
    images = _opened(columns, "image", partial(_picture, root))
    videos = _opened(columns, "video", partial(_frames, root, num_frames))
    if completion is None:
        if len(images) + len(videos) != 1:
            raise DataError(f"has no completion and {len(images) + len(videos)} pictures or clips; expected one.")
        return Row("" if prompt is None else prompt, (images + videos)[0], columns)
    beside = {name: found for name, found in (("images", images), ("videos", videos)) if found}
    return Row("" if prompt is None else prompt, completion, columns | beside)


def _opened(columns: dict[str, Any], kind: str, read: Callable[[Any], Any]) -> list[Any]:
    """Takes `image` and `images` (or the like) out of the columns and opens what they name."""
    one, several = columns.pop(kind, None), columns.pop(f"{kind}s", None)
    return [read(found) for found in [*([] if one is None else [one]), *(several or [])]]


def _picture(root: Path, found: Any) -> Image.Image:
    """Upright RGB, with what the file tells about itself: rewards look for generator's parameters."""
    if isinstance(found, Mapping):
        if found.get("bytes") is not None:
            return _of_bytes(found["bytes"])
        found = found.get("path")
    if not isinstance(found, str):
        raise DataError(f"image is a {type(found).__name__}; expected a path, or an object with bytes.")
    picture = Image.fromarray(read_picture(root / found))
    with Image.open(root / found) as opened:
        return _with_info(picture, opened)


def _of_bytes(data: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGBA")  # as read_picture: transparency on white
            return _with_info(Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright), opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"image: bytes that Pillow cannot read ({error}).") from None


def _with_info(picture: Image.Image, opened: Image.Image) -> Image.Image:
    picture, exif = picture.convert("RGB"), opened.getexif()
    exif.pop(0x0112, None)  # the orientation, which is applied by now
    picture.info = {key: value for key, value in opened.info.items() if isinstance(value, str) or key == "icc_profile"}
    if len(exif):
        picture.info["exif"] = exif.tobytes()
    return picture


def _frames(root: Path, num_frames: int, found: Any) -> np.ndarray:
    if not isinstance(found, str):
        raise DataError(f"video is a {type(found).__name__}; expected a path.")
    return read_clip(root / found, num_frames=num_frames).frames


def _refuse(reason: str) -> Row:
    raise DataError(reason)
