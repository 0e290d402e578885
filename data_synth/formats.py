"""Preference rows as other tools have them, TRL, ms-swift, LLaMA-Factory and 2U1's Qwen-VL finetuning, as records."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, Json, List, load_from_disk

from data_synth.check import check
from data_synth.errors import DataError
from data_synth.jsonl import read_lines
from data_synth.records import Rejected, content_id
from data_synth.whole import whole

ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
TAG = re.compile(r"(<image>|<video>)\n?")
KNOWN = {
    "trl": frozenset(["prompt", "chosen", "rejected", "images", "image", "videos"]),
    "ms-swift": frozenset(
        "messages rejected_response rejected_messages images videos rejected_images rejected_videos".split()
    ),
    "llamafactory": frozenset("messages conversations chosen rejected images videos system".split()),
    "2u1": frozenset(["prompt", "chosen", "rejected", "image", "video"]),
}


def read_rows(path: str | Path, *, media_folder: str | Path | None = None) -> Iterator[dict[str, Any] | Rejected]:
    """Records from a .jsonl, .json or .parquet file or a data set saved to disk, formats told apart row by row.

    Rows that follow each other and differ in the rejected answer only become one record with several. Media paths stay
    as they are written. Pictures that are embedded (TRL) are saved to media_folder under names made from their content.
    A row that cannot be read is Rejected, with the reason; the rest goes on.
    """
    yield from _grouped((where, to_record(where, row, media_folder)) for where, row in raw_rows(path))


def _grouped(rows: Iterable[tuple[str, dict[str, Any] | Rejected]]) -> Iterator[dict[str, Any] | Rejected]:
    """Join pairs that follow each other with the same prompt, media, chosen answer and source."""
    current: dict[str, Any] | None = None
    for where, row in rows:
        if isinstance(row, Rejected):
            yield row
        elif len(row["rejected"]) > 1 or "edit" in row:  # a record of our own, whole already
            yield row
        elif current is None or _group_key(current) != _group_key(row):
            if current is not None:
                yield current
            current = row
        elif row["rejected"][0] in current["rejected"]:
            yield Rejected(where, ["rejected: the row repeats an earlier one."], row)
        else:
            for name in ("rejected", "rejected_kind", "rejected_weight"):
                current[name] = current[name] + row[name]
    if current is not None:
        yield current


def which_format(row: Mapping[str, Any]) -> str | None:
    """rlkit, trl, ms-swift, llamafactory, 2u1, or None for a row that fits none."""
    if isinstance(row.get("rejected_kind"), list):
        return "rlkit"
    if row.get("rejected_response") is not None or row.get("rejected_messages") is not None:
        return "ms-swift"
    if "messages" in row or "conversations" in row:
        return "llamafactory"
    if "rejected" not in row or "chosen" not in row:
        return None
    if isinstance(row.get("prompt"), str) and ("video" in row or "image" in row) and isinstance(row["chosen"], str):
        return "2u1"
    return "trl"


def to_record(
    where: str, row: Mapping[str, Any] | Rejected, media_folder: str | Path | None = None
) -> dict[str, Any] | Rejected:
    """One pair of another tool as a record with a single rejected answer, or Rejected with the reason."""
    if isinstance(row, Rejected):
        return row
    kind = which_format(row)
    if kind is None:
        found = ", ".join(map(str, row)) or "no keys"
        return Rejected(where, [f"row: found {found}; expected a pair of TRL, ms-swift, LLaMA-Factory or 2U1."], row)
    try:
        if kind == "rlkit":
            return dict(row)
        reader = {"trl": _trl, "ms-swift": _swift, "llamafactory": _llamafactory, "2u1": _2u1}[kind]
        record = reader(row, media_folder)
    except DataError as error:
        return Rejected(where, [str(error)], row)
    extra = {name: value for name, value in row.items() if name not in KNOWN[kind] and value is not None}
    record.update(_lineage(extra, kind))
    problems = check(record)  # here, where the line is known
    return Rejected(where, problems, row) if problems else record


def _trl(row: Mapping[str, Any], media_folder) -> dict[str, Any]:
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if prompt is None and isinstance(chosen, list) and isinstance(rejected, list):
        shared = 0  # TRL's implicit prompt: the messages that both begin with
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    images = row.get("images") if row.get("images") is not None else row.get("image")
    images = [] if images is None else images if isinstance(images, list) else [images]
    images = [_image_path(image, i, media_folder) for i, image in enumerate(images)]
    videos = _paths(row.get("videos"), "videos")
    prompt = _messages(prompt, "prompt", "user")
    prompt = _with_parts(prompt, len(images), len(videos))
    return _record(
        prompt, _messages(chosen, "chosen", "assistant"), _messages(rejected, "rejected", "assistant"), images, videos
    )


def _swift(row: Mapping[str, Any], media_folder) -> dict[str, Any]:
    prompt, chosen = _split_answer(_messages(row.get("messages"), "messages", "user"), "messages")
    if row.get("rejected_messages") is not None:
        for kind in ("images", "videos"):
            if row.get(f"rejected_{kind}") not in (None, [], row.get(kind)):
                raise DataError(
                    f"rejected_{kind}: the rejected answer has media of its own, which records cannot hold."
                )
        asked, rejected = _split_answer(
            _messages(row["rejected_messages"], "rejected_messages", "user"), "rejected_messages"
        )
        if asked != prompt:
            raise DataError("rejected_messages: the prompt differs from that of messages.")
    else:
        rejected = _messages(row["rejected_response"], "rejected_response", "assistant")
    images, videos = _paths(row.get("images"), "images"), _paths(row.get("videos"), "videos")
    return _record(_with_parts(prompt, len(images), len(videos)), chosen, rejected, images, videos)


def _llamafactory(row: Mapping[str, Any], media_folder) -> dict[str, Any]:
    name = "messages" if "messages" in row else "conversations"
    if "rejected" not in row or "chosen" not in row:
        raise DataError(f"{name}: no chosen and rejected answers beside it; a ranking data set has both.")
    prompt = _messages(row[name], name, "user")
    if row.get("system"):
        prompt = [{"role": "system", "content": [{"type": "text", "text": row["system"]}]}, *prompt]
    images, videos = _paths(row.get("images"), "images"), _paths(row.get("videos"), "videos")
    chosen, rejected = (_messages(row[key], key, "assistant") for key in ("chosen", "rejected"))
    return _record(prompt, chosen, rejected, images, videos)


def _2u1(row: Mapping[str, Any], media_folder) -> dict[str, Any]:
    images, videos = (_paths(row.get(key), key) for key in ("image", "video"))
    prompt = _with_parts(_messages(row["prompt"], "prompt", "user"), len(images), len(videos))
    chosen, rejected = (_messages(row[key], key, "assistant") for key in ("chosen", "rejected"))
    return _record(prompt, chosen, rejected, images, videos)


def read_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row to fine-tune on as `prompt`, `answer` (messages), `images`, `videos`: the last answer is the caption.

    Takes TRL's prompt and completion, or messages; ms-swift's messages; LLaMA-Factory's conversations, or instruction
    and output; 2U1's conversations. Raises DataError, naming the field, for a row that is none of these.
    """
    if row.get("completion") is not None:
        prompt = _messages(row.get("prompt"), "prompt", "user")
        answer = _messages(row["completion"], "completion", "assistant")
    elif row.get("output") is not None:
        asked = [row.get(name) for name in ("instruction", "input") if row.get(name)]
        if not all(isinstance(text, str) for text in asked) or not asked:
            raise DataError(f"instruction: found {row.get('instruction')!r:.60}, expected text.")
        prompt = _messages("\n".join(asked), "instruction", "user")
        answer = _messages(row["output"], "output", "assistant")
    else:
        name = "messages" if row.get("messages") is not None else "conversations"
        prompt, answer = _split_answer(_messages(row.get(name), name, "user"), name)
    if isinstance(row.get("system"), str) and row["system"].strip():
        prompt = [{"role": "system", "content": [{"type": "text", "text": row["system"]}]}, *prompt]
    media = {}
    for one, several in (("image", "images"), ("video", "videos")):
        given = several if row.get(several) is not None else one
        media[several] = _paths(row.get(given), given)
    prompt = _with_parts(prompt, len(media["images"]), len(media["videos"]))
    return {"prompt": prompt, "answer": answer, **media}


def _record(prompt, chosen, rejected, images: list[str], videos: list[str]) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "videos": videos,
        "images": images,
        "chosen": chosen,
        "rejected": [rejected],
        "rejected_kind": ["imported"],
        "rejected_weight": [1.0],
    }


def _lineage(extra: dict[str, Any], kind: str) -> dict[str, Any]:
    """What the row says of itself; fields that records have no column for are kept under options.fields."""
    own: dict[str, Any] = {"operator": f"import_{kind}"}
    for name in ("source_id", "id"):
        if isinstance(extra.get(name), str | int) and not isinstance(extra[name], bool):
            own["source_id"] = str(extra.pop(name))
            break
    if isinstance(extra.get("pair_id"), str):  # an exported record: its answers come back under a new id
        own["parent_id"] = extra.pop("pair_id")
    if isinstance(extra.get("licence"), str):
        own["licence"] = extra.pop("licence")
    if isinstance(extra.get("rejected_kind"), str):
        own["rejected_kind"] = [extra.pop("rejected_kind")]
    weight = extra.pop("rejected_weight", None)
    if weight is not None:
        own["rejected_weight"] = [weight]
    if extra:
        own["options"] = {"fields": extra}
    return own


def _messages(value: Any, field: str, role: str) -> list[dict[str, Any]]:
    """Messages with parts from text, from one message, or from a list of messages in any of the spellings."""
    if isinstance(value, str):
        return [{"role": role, "content": _parts(value)}]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value:
        raise DataError(f"{field}: found {type(value).__name__}, expected text or messages.")
    messages = []
    for i, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise DataError(f"{field}[{i}]: found {type(message).__name__}, expected a message.")
        said = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        if said not in ROLES:
            raise DataError(f"{field}[{i}].role: found {said!r}, expected {', '.join(ROLES)}.")
        if not isinstance(content, str | list):
            raise DataError(f"{field}[{i}].content: found {type(content).__name__}, expected text or parts.")
        messages.append(
            {"role": ROLES[said], "content": _parts(content) if isinstance(content, str) else _tidy(content)}
        )
    return messages


def _parts(text: str) -> list[dict[str, Any]]:
    """Text with <image> and <video> tags as parts."""
    parts = []
    for piece in TAG.split(text):
        if piece in ("<image>", "<video>"):
            parts.append({"type": piece[1:-1]})
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts or [{"type": "text", "text": ""}]


def _tidy(parts: list) -> list:
    """Parts without the None keys that typed structs are filled with."""
    return [{k: v for k, v in p.items() if v is not None} if isinstance(p, Mapping) else p for p in parts]


def _with_parts(messages: list[dict[str, Any]], images: int, videos: int) -> list[dict[str, Any]]:
    """Where a prompt names no place for its media, they come before the first question, as TRL and ms-swift do it."""
    found = [part.get("type") for m in messages for part in m["content"] if isinstance(part, Mapping)]
    if "image" in found or "video" in found or not images + videos:
        return messages
    media = [{"type": "video"}] * videos + [{"type": "image"}] * images
    first = next((i for i, m in enumerate(messages) if m["role"] == "user"), None)
    if first is None:
        return messages
    question = {**messages[first], "content": [*(dict(part) for part in media), *messages[first]["content"]]}
    return [*messages[:first], question, *messages[first + 1 :]]


def _split_answer(messages: list[dict[str, Any]], field: str) -> tuple[list, list]:
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise DataError(f"{field}: expected a question and, last, the assistant's answer.")
    return messages[:-1], messages[-1:]


def _paths(value: Any, field: str) -> list[str]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    for i, path in enumerate(values):
        if isinstance(path, list):
            raise DataError(f"{field}[{i}]: a video given as a list of frames; encode it as a video file first.")
        if not isinstance(path, str):
            raise DataError(f"{field}[{i}]: found {type(path).__name__}, expected a path.")
    return values


def _image_path(image: Any, i: int, media_folder) -> str:
    if isinstance(image, str):
        return image
    if not isinstance(image, Mapping) or not (image.get("path") or image.get("bytes")):
        raise DataError(f"images[{i}]: found {type(image).__name__}, expected a path or an embedded picture.")
    if image.get("bytes") is None:
        return image["path"]
    if media_folder is None:
        raise DataError(f"images[{i}]: the picture is embedded in the file; say where to save it (media_folder).")
    data = image["bytes"]
    suffix = ".jpg" if data[:2] == b"\xff\xd8" else ".webp" if data[8:12] == b"WEBP" else ".png"
    path = Path(media_folder) / f"{content_id(data.hex())}{suffix}"
    if not path.exists():
        with whole(path) as file:
            file.write(data)
    return str(path)


def _group_key(record: Mapping[str, Any]) -> tuple:
    media = (record.get("videos"), record.get("images"))
    own = tuple(record.get(name) for name in ("source_id", "parent_id", "operator", "options"))
    return (record.get("prompt"), record.get("chosen"), media, own)


def raw_rows(path: str | Path) -> Iterator[tuple[str, Any]]:
    """(place, row or Rejected) of each row of a .jsonl, .json or .parquet file, a folder of them, or a data set saved
    to disk."""
    path = Path(path)
    if (path / "state.json").is_file():
        yield from _saved_dataset(path)
    elif path.is_dir():
        files = sorted(
            p for p in path.iterdir() if p.suffix in (".parquet", ".jsonl") and p.name != "rejected_rows.jsonl"
        )
        if not files:
            raise DataError(f"{path}: no .parquet or .jsonl files in it.")
        for file in files:
            yield from raw_rows(file)
    elif path.suffix == ".jsonl":
        yield from read_lines(path)
    elif path.suffix == ".json":
        yield from _json_array(path)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        raise DataError(f"{path}: expected a .jsonl, .json or .parquet file, or a folder of them.")


def _json_array(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not JSON in UTF-8 ({str(error).splitlines()[0]}).") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: found {type(rows).__name__}, expected a list of rows.")
    for number, row in enumerate(rows):
        where = f"{path}[{number}]"
        yield where, row if isinstance(row, dict) else Rejected(where, ["row: expected an object."], row)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows of a parquet file, a piece at a time; JSON columns decoded, pictures left as they are."""
    try:
        with pq.ParquetFile(path, memory_map=True) as source:
            features = Features.from_arrow_schema(source.schema_arrow)
            columns = {name: _json_depth(feature) for name, feature in features.items()}
            number = 0
            for batch in source.iter_batches(200):
                for row in batch.to_pylist():
                    for name, depth in columns.items():
                        if depth is not None:
                            row[name] = _decode(row[name], depth)
                    yield f"{path}:{number}", row
                    number += 1
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a parquet file, or damaged ({str(error).splitlines()[0]}).") from error


def _saved_dataset(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows of a data set saved by `Dataset.save_to_disk`; pictures are left as they are."""
    dataset = load_from_disk(str(path))
    for name, feature in dataset.features.items():
        kind = feature.feature if isinstance(feature, List) else feature
        if isinstance(kind, Image):
            still = Image(decode=False)
            dataset = dataset.cast_column(name, List(still) if isinstance(feature, List) else still)
    for number, row in enumerate(dataset):
        yield f"{path}:{number}", row


def _json_depth(feature: Any) -> int | None:
    """Lists around a Json feature, or None where there is none."""
    depth = 0
    while isinstance(feature, List):
        feature, depth = feature.feature, depth + 1
    return depth if isinstance(feature, Json) else None


def _decode(value: Any, depth: int) -> Any:
    if value is None:
        return None
    if depth:
        return [_decode(item, depth - 1) for item in value]
    return json.loads(value) if isinstance(value, str) else value
