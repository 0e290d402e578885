"""Pairs as rows of TRL, ms-swift, LLaMA-Factory or plain JSON lines; the work of `rlkit data export`."""

import io
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, Json, List, Value
from PIL import Image as PILImage

from data_synth.records import content_id, pieces, read_records
from data_synth.video import read_clip, write_mp4
from rlkit.errors import DataError

FORMATS = ("trl", "ms-swift", "llamafactory", "jsonl")
ROWS_AT_ONCE = 64  # of TRL rows, whose pictures are embedded


def export(
    pairs: str | Path,
    to: str,
    out: str | Path,
    *,
    media_root: str | Path | None = None,
    frames: int | None = None,
    cut: bool = False,
) -> tuple[int, int]:
    """Write pairs as rows of another tool; returns (rows written, answers left out).

    There is one row per rejected answer; jsonl has one per record. What a format cannot say is not said half: such
    answers go to left_out.jsonl with the reason. The folder appears whole; one that holds files already is refused.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there already and not empty; give a new folder for --out.")
    if frames is not None and (to != "trl" or frames < 1):
        raise DataError(f"--frames {frames}: is for --to trl and at least 1; other formats keep the video.")
    if cut and to not in ("ms-swift", "llamafactory"):
        raise DataError("--cut: is for --to ms-swift and llamafactory; trl and jsonl rows say which piece is meant.")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.part-", dir=out.parent))
    left_out: list[int] = [0]
    try:
        with (aside / "left_out.jsonl").open("w", encoding="ascii") as reasons:
            records = read_records(pairs)
            rows = _convertible(
                explode(records, media_root), _converter(to, frames, (aside, out) if cut else None), reasons, left_out
            )
            if to == "jsonl":
                count = _write_lines((to_jsonl(record, media_root) for record in records), to, aside)
            elif to == "trl":
                count = _write_trl(rows, aside, _media_columns(records, frames))
            else:
                count = _write_lines(rows, to, aside)
        if not left_out[0]:
            (aside / "left_out.jsonl").unlink()
        if out.exists():
            out.rmdir()
        aside.replace(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return count, left_out[0]


def explode(records: Iterable[dict[str, Any]], media_root: str | Path | None = None) -> Iterator[dict[str, Any]]:
    """One row with one rejected answer for each rejected answer; media paths joined to media_root when given."""
    for record in records:
        for k, rejected in enumerate(record["rejected"]):
            row = dict(record, rejected=rejected)
            for name in ("rejected_kind", "rejected_weight", "edit"):
                row[name] = record[name][k]
            for name in ("videos", "images"):
                paths = record[name] or []
                row[name] = [str(Path(media_root, p)) for p in paths] if media_root is not None else list(paths)
            yield row


def _converter(to: str, frames: int | None, cut: tuple[Path, Path] | None) -> Callable[[dict], dict]:
    if to == "trl":
        return lambda row: to_trl(row, frames)
    convert = to_swift if to == "ms-swift" else to_llamafactory
    return convert if cut is None else lambda row: convert(_cut(row, *cut))


def _cut(row: dict[str, Any], folder: Path, final: Path) -> dict[str, Any]:
    """The row with its pieces of videos re-encoded as files of their own in folder/videos, named as in final/videos."""
    if all(start is None and end is None for _, start, end in pieces(row)):
        return row
    paths = []
    for video, start, end in pieces(row):
        name = f"{content_id(video, start, end)}.mp4"
        if not (folder / "videos" / name).exists():
            (folder / "videos").mkdir(exist_ok=True)
            clip = read_clip(video, start=start, end=end)
            height, width = clip.frames.shape[1:3]
            even = clip.frames[:, : height - height % 2, : width - width % 2]
            write_mp4(folder / "videos" / name, even, len(even) / clip.duration)
        paths.append(str(final.resolve() / "videos" / name))
    keys = ("video_start", "video_end")
    prompt = []
    for message in row["prompt"]:
        parts = message["content"]
        if not isinstance(parts, str):
            parts = [{name: value for name, value in part.items() if name not in keys} for part in parts]
        prompt.append({**message, "content": parts})
    return {**row, "videos": paths, "prompt": prompt}


def _convertible(rows, convert, reasons, left_out: list[int]) -> Iterator[dict[str, Any]]:
    from data_synth.errors import DataError as ClipError

    for row in rows:
        try:
            yield convert(row)
        except (DataError, ClipError) as error:
            left_out[0] += 1
            line = {"pair_id": row["pair_id"], "rejected_kind": row["rejected_kind"], "reason": str(error)}
            reasons.write(json.dumps(line) + "\n")


def to_trl(row: dict[str, Any], frames: int | None = None) -> dict[str, Any]:
    """TRL's conversational preference row. Pictures become bytes; with frames, so do that many frames of each video."""
    prompt, images = row["prompt"], [{"path": None, "bytes": Path(p).read_bytes()} for p in _existing(row["images"])]
    videos = row["videos"]
    if frames is not None and videos:
        if images:
            raise DataError("images: the row has pictures and videos, whose order --frames would lose.")
        taken = [read_clip(v, num_frames=frames, start=a, end=b).frames for v, a, b in pieces(row)]
        images = [{"path": None, "bytes": _png(frame)} for clip in taken for frame in clip]
        counts = iter([len(clip) for clip in taken])
        prompt = [{**m, "content": _frames_for_videos(m["content"], counts)} for m in prompt]
        videos = []
    return {
        "prompt": prompt,
        "chosen": row["chosen"],
        "rejected": row["rejected"],
        "images": images,
        "videos": videos,
        **_about(row),
    }


def to_swift(row: dict[str, Any]) -> dict[str, Any]:
    """ms-swift's row: messages that end in the chosen answer, rejected_response, media paths beside them."""
    _refuse_pieces(row)
    messages = [{"role": m["role"], "content": _tagged(m["content"])} for m in row["prompt"]]
    answer = _one_answer(row["chosen"], "chosen")
    return {
        "messages": [*messages, {"role": "assistant", "content": answer}],
        "rejected_response": _one_answer(row["rejected"], "rejected"),
        **_media(row),
        **_about(row),
    }


def to_llamafactory(row: dict[str, Any]) -> dict[str, Any]:
    """LLaMA-Factory's ranking row in sharegpt form with OpenAI's names; see the dataset_info.json beside it."""
    _refuse_pieces(row)
    system = [_tagged(m["content"]) for m in row["prompt"] if m["role"] == "system"]
    messages = [{"role": m["role"], "content": _tagged(m["content"])} for m in row["prompt"] if m["role"] != "system"]
    return {
        "messages": messages,
        "chosen": {"role": "assistant", "content": _one_answer(row["chosen"], "chosen")},
        "rejected": {"role": "assistant", "content": _one_answer(row["rejected"], "rejected")},
        "system": system[0] if system else "",
        "videos": row["videos"],
        "images": row["images"],
        **_about(row),
    }


def to_jsonl(record: dict[str, Any], media_root: str | Path | None = None) -> dict[str, Any]:
    """A whole record with all its rejected answers, as one JSON object that `rlkit data import` reads back."""
    row = {name: value for name, value in record.items() if value is not None}
    if media_root is not None:
        row.pop("pair_id")  # it depends on the paths
        for name in ("videos", "images"):
            row[name] = [str(Path(media_root, path)) for path in row.get(name, [])]
    return row


def _about(row: dict[str, Any]) -> dict[str, Any]:
    names = ("pair_id", "source_id", "licence", "rejected_kind", "rejected_weight")
    return {name: row[name] for name in names if row[name] is not None}


def _media(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("videos", "images") if row[name]}


def _refuse_pieces(row: dict[str, Any]) -> None:
    for path, start, end in pieces(row):
        if start is not None or end is not None:
            raise DataError(
                f"videos: only {start}-{end} s of {path} is meant, which this format cannot say; add --cut."
            )


def _tagged(content: Any) -> str:
    """Parts as one text with <image> and <video> where the media go."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for part in parts:
        if part["type"] == "text" and ("<image>" in part["text"] or "<video>" in part["text"]):
            raise DataError("text: holds <image> or <video>, which this format would take for a place of a file.")
    return "".join(part["text"] if part["type"] == "text" else f"<{part['type']}>" for part in parts)


def _one_answer(messages: list[dict[str, Any]], field: str) -> str:
    if len(messages) != 1:
        raise DataError(f"{field}: has {len(messages)} messages, but this format has room for one answer.")
    return _tagged(messages[0]["content"])


def _existing(paths: list[str]) -> list[str]:
    for path in paths:
        if not Path(path).is_file():
            raise DataError(f"images: {path} is not a file; give the folder it is relative to with --media-root.")
    return paths


def _png(frame) -> bytes:
    data = io.BytesIO()
    PILImage.fromarray(frame).save(data, "png")
    return data.getvalue()


def _frames_for_videos(content: Any, counts: Iterator[int]) -> Any:
    """Each video part replaced by as many image parts as it has frames."""
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        parts += [{"type": "image"} for _ in range(next(counts))] if part["type"] == "video" else [part]
    return parts


def _write_lines(rows: Iterator[dict[str, Any]], to: str, folder: Path) -> int:
    count = 0
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    if to == "llamafactory":
        columns = {name: name for name in ("messages", "chosen", "rejected", "videos", "images", "system")}
        tags = {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        }
        about = {
            "file_name": "pairs.jsonl",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": columns,
            "tags": tags,
        }
        (folder / "dataset_info.json").write_text(json.dumps({"rlkit_pairs": about}, indent=2) + "\n")
    return count


def _media_columns(records, frames: int | None) -> dict[str, Any]:
    """TRL takes rows with a column `images` for vision rows, so only the columns that are used are written."""
    used = {name for name in ("images", "videos") if any(row[name] for row in records.select_columns(name))}
    if frames is not None and "videos" in used:
        used = {"images"}
    kinds = {"images": List(Image()), "videos": List(Value("string"))}
    return {name: kind for name, kind in kinds.items() if name in used}


def _write_trl(rows: Iterator[dict[str, Any]], folder: Path, media: dict[str, Any]) -> int:
    """One parquet file, some rows at a time."""
    messages = {name: List(Json()) for name in ("prompt", "chosen", "rejected")}
    about = {name: Value("string") for name in ("pair_id", "source_id", "licence", "rejected_kind")}
    features = Features({**messages, **media, **about, "rejected_weight": Value("float64")})
    schema, count = features.arrow_schema, 0
    with pq.ParquetWriter(folder / "train-00000-of-00001.parquet", schema) as writer:
        while batch := list(itertools.islice(rows, ROWS_AT_ONCE)):
            encoded = [features.encode_example({name: row.get(name) for name in features}) for row in batch]
            arrays = [_array([row[name] for row in encoded], schema.field(name).type) for name in features]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            count += len(batch)
    return count


def _array(values: list, kind: pa.DataType) -> pa.Array:
    if pa.types.is_list(kind) and isinstance(kind.value_type, pa.BaseExtensionType):
        return pa.array(values, pa.list_(kind.value_type.storage_type)).cast(kind)
    return pa.array(values, kind)
