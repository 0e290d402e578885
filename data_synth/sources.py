"""Captions as users have them: one typed row per caption from a folder, a file, a data set or another tool's rows."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_synth import formats
from data_synth.check import check_caption, check_path
from data_synth.errors import DataError
from data_synth.folder import Captioned, read_folder
from data_synth.negatives.rows import text_reason
from data_synth.records import Rejected, content_id, text_of

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
CONVERSATION = ("messages", "conversations", "completion", "output")
"""Columns that hold the answer in rows to fine-tune on."""


@dataclass(frozen=True)
class CaptionRow:
    """One caption with what it is about; what pairs are made from."""

    id: str
    where: str
    """file:line, or data set:row."""
    caption: str
    sentences: list[str] | None = None
    """The caption in sentences, where the row gives them so."""
    prompt: list[dict[str, Any]] | None = None
    """The question as messages; None asks the recipe's question."""
    videos: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    start: float | None = None
    end: float | None = None
    """Seconds; the piece of the video that the caption is about."""
    licence: str | None = None
    consent: str | None = None
    imported: list[list[Any]] = field(default_factory=list)
    """(kind, text, weight) of wrong answers that the row brings along."""

    @property
    def content_id(self) -> str:
        """Depends on all that pairs are made from; a record's parent_id, so that an edited row is noticed."""
        said = {name: value for name, value in vars(self).items() if name not in ("id", "where")}
        return content_id(said)

    @property
    def clip(self) -> str:
        """What rows on the same clip have in common; the row's own id where it names no file."""
        return next(iter([*self.videos, *self.images]), self.id)


def read_captions(
    source: str | Path | None, folder: str | Path | None = None, *, media_folder: str | Path | None = None
) -> Iterator[CaptionRow | Rejected]:
    """Each caption of `source`, as CaptionRow, or as Rejected with the field and what is wrong with it.

    source: a JSONL, JSON or parquet file, a folder of them, a data set saved by `datasets` or in its hub layout, a hub
    id (`org/name`, read as a stream), or a folder of clips with captions.jsonl. folder: where media files lie; they
    must then exist, and files without a caption are named. media_folder: where embedded pictures are saved.
    Raises DataError where there is nothing to read.
    """
    if folder is None and source is not None and (Path(source) / "captions.jsonl").is_file():
        source, folder = None, source
    if folder is not None and (source is None or _is_clip_list(Path(source))):
        found = read_folder(folder, source, load=None)
        yield from (_from_folder(item) if isinstance(item, Captioned) else item for item in found)
        return
    if source is None:
        raise DataError("data.captions: not given; expected a file, folder or data set with captions.")
    for where, row in _rows(source):
        yield row if isinstance(row, Rejected) else to_row(where, row, folder, media_folder)


def _is_clip_list(path: Path) -> bool:
    """Whether a file lists clips and captions, as the folder source reads it: its first row has a caption."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    first = next((row for _, row in formats.raw_rows(path) if not isinstance(row, Rejected)), {})
    return "caption" in first or "sentences" in first


def _from_folder(item: Captioned) -> CaptionRow | Rejected:
    media = {"videos" if item.kind == "video" else "images": [item.media]}
    consent = item.fields.get("consent")
    problems = _text_problems(item.sentences if item.sentences is not None else item.caption, "caption")
    if consent is not None and not isinstance(consent, str):
        problems.append(f"consent: found {consent!r:.60}, expected text.")
    if problems:
        return Rejected(item.where, problems, {"id": item.id, "caption": item.caption, **item.fields})
    return CaptionRow(
        item.id, item.where, item.caption, item.sentences, None, **media, start=item.start, end=item.end,
        licence=item.licence, consent=consent,
    )  # fmt: skip


def _rows(source: str | Path) -> Iterator[tuple[str, Any]]:
    """Raw rows of a file, folder or data set."""
    path = Path(source)
    plain = path.is_file() or (path / "state.json").is_file()
    if plain or (path.is_dir() and any(p.suffix in (".jsonl", ".parquet") for p in path.iterdir())):
        yield from formats.raw_rows(path)
    elif path.is_dir() or HUB_ID.fullmatch(str(source)):
        yield from _dataset(str(source), saved=(path / "dataset_dict.json").is_file())
    else:
        raise DataError(
            f"{source}: no such file, folder or data set; expected captions as JSONL, parquet or a data set."
        )


def _dataset(name: str, saved: bool) -> Iterator[tuple[str, Any]]:
    """Rows of a `datasets` data set: its train split, or its first; a hub id is streamed. Media stay undecoded."""
    from datasets import Audio, Image, List, Video, load_dataset, load_from_disk

    try:
        splits = load_from_disk(name) if saved else load_dataset(name, streaming=True)
    except Exception as error:  # `datasets` raises a dozen types for "not there", "no such files", "offline"
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{name}: not readable as a data set ({first}).") from error
    split = "train" if "train" in splits else next(iter(splits))
    rows = splits[split]
    for column, feature in (rows.features or {}).items():
        inner = feature.feature if isinstance(feature, List) else feature
        if isinstance(inner, Image | Video | Audio):
            still = type(inner)(decode=False)
            rows = rows.cast_column(column, List(still) if isinstance(feature, List) else still)
    for number, row in enumerate(rows):
        yield f"{name}/{split}:{number}", row


def to_row(
    where: str, row: Mapping[str, Any], root: str | Path | None = None, media_folder: str | Path | None = None
) -> CaptionRow | Rejected:
    """One raw row, of whatever tool; Rejected, naming every wrong field, where it cannot be used."""
    if row.get("caption") is not None or row.get("sentences") is not None:
        return _plain(where, row, root)
    tool = formats.which_format(row)
    if tool == "ms-swift" or (tool is not None and row.get("chosen") is not None):
        return _of_pair(where, row, root, media_folder)
    if any(row.get(name) is not None for name in CONVERSATION):
        return _of_conversation(where, row, root)
    columns = ", ".join(map(str, row)) or "none"
    near = "; its name must be `caption`" if any("caption" in str(name).lower() for name in row) else ""
    expected = "expected caption or sentences, a pair, or a conversation"
    return Rejected(where, [f"caption: the row has none, its columns are {columns}; {expected}{near}."], row)


def _plain(where: str, row: Mapping[str, Any], root) -> CaptionRow | Rejected:
    """A row with caption or sentences."""
    problems = []
    if row.get("caption") is not None and row.get("sentences") is not None:
        problems.append("caption: both caption and sentences are given; keep one of them.")
    name = "caption" if row.get("caption") is not None else "sentences"
    problems += _text_problems(row[name], name)
    media, more = _media(row, root)
    problems += more + _span_problems(row)
    about, more = _about(row)
    problems += more
    if problems:
        return Rejected(where, problems, row)
    sentences = [s.strip() for s in row["sentences"]] if name == "sentences" else None
    caption = _joined(sentences) if sentences else row["caption"]
    span = {key: row.get(key) for key in ("start", "end")}
    return _with_id(row, where, caption, sentences=sentences, **media, **span, **about)


def _of_pair(where: str, row: Mapping[str, Any], root, media_folder) -> CaptionRow | Rejected:
    """A preference row: its chosen answer is the caption, its rejected answers are kept beside the new ones."""
    record = formats.to_record(where, row, media_folder)
    if isinstance(record, Rejected):
        return record
    chosen = text_of(record["chosen"])
    problems = _text_problems(chosen, "chosen") + _file_problems(record, root)
    about, more = _about(row)
    if problems + more:
        return Rejected(where, problems + more, row)
    about["licence"] = about["licence"] or record.get("licence")
    kinds, weights = record["rejected_kind"], record["rejected_weight"]
    imported = [[k, text_of(a), w] for k, a, w in zip(kinds, record["rejected"], weights, strict=True)]
    media = {name: list(record.get(name) or []) for name in ("videos", "images")}
    return _with_id(row, where, chosen, prompt=record["prompt"], imported=imported, **media, **about)


def _of_conversation(where: str, row: Mapping[str, Any], root) -> CaptionRow | Rejected:
    """A row to fine-tune on: the last answer is the caption."""
    try:
        found = formats.read_answer(row)
    except DataError as error:
        return Rejected(where, [str(error)], row)
    caption = text_of(found["answer"])
    about, problems = _about(row)
    problems += _text_problems(caption, "answer") + _file_problems(found, root)
    if problems:
        return Rejected(where, problems, row)
    media = {name: found[name] for name in ("videos", "images")}
    return _with_id(row, where, caption, prompt=found["prompt"], **media, **about)


def _with_id(row: Mapping[str, Any], where: str, caption: str, **columns: Any) -> CaptionRow | Rejected:
    """The row under its own id, or one made from its content: the same clip may have several captions."""
    name = next((n for n in ("id", "source_id") if row.get(n) is not None), None)
    if name is None:
        made = CaptionRow("", where, caption, **columns)
        clip = next(iter([*made.videos, *made.images]), "")
        return CaptionRow(f"{clip}#{made.content_id[:12]}", where, caption, **columns)
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        return Rejected(where, [f"{name}: found {value!r:.60}, expected text or a whole number."], row)
    if check_caption(str(value), name):
        return Rejected(where, check_caption(str(value), name), row)
    return CaptionRow(str(value), where, caption, **columns)


def _text_problems(value: Any, name: str) -> list[str]:
    """What is wrong with a caption, or with a list of sentences."""
    if isinstance(value, list):
        problems = [p for i, one in enumerate(value) for p in check_caption(one, f"{name}[{i}]")]
        if problems or not value:
            return problems or [f"{name}: found an empty list, expected at least one sentence."]
        value = " ".join(value)
    elif name == "sentences":
        return [f"{name}: found {type(value).__name__}, expected a list of texts."]
    problems = check_caption(value, name)
    reason = text_reason(value) if not problems else ""
    return problems + ([f"{name}: {reason}."] if reason else [])


def _media(row: Mapping[str, Any], root) -> tuple[dict[str, list[str]], list[str]]:
    """Paths of the row's videos and images, and what is wrong with them."""
    media: dict[str, list[str]] = {"videos": [], "images": []}
    problems = []
    for one, several in (("video", "videos"), ("image", "images")):
        name = several if row.get(several) is not None else one
        value = row.get(name)
        if value is None:
            continue
        for i, path in enumerate(value if isinstance(value, list) else [value]):
            place = f"{name}[{i}]" if isinstance(value, list) else name
            if isinstance(path, Mapping):
                path = path.get("path")
                if path is None:
                    problems.append(f"{place}: is embedded in the data set; save it as a file and give its path.")
                    continue
            found = check_path(path, place, root)
            problems += found
            media[several] += [] if found else [path]
    return media, problems


def _file_problems(found: Mapping[str, Any], root) -> list[str]:
    names = [(name, i, path) for name in ("videos", "images") for i, path in enumerate(found.get(name) or [])]
    return [p for name, i, path in names for p in check_path(path, f"{name}[{i}]", root)]


def _span_problems(row: Mapping[str, Any]) -> list[str]:
    problems = []
    for name in ("start", "end"):
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            problems.append(f"{name}: found {value!r:.60}, expected seconds from 0 on.")
    if not problems and row.get("end") is not None and row["end"] <= (row.get("start") or 0):
        problems.append(f"end: found {row['end']}, expected more than start ({row.get('start') or 0}).")
    return problems


def _about(row: Mapping[str, Any]) -> tuple[dict[str, str | None], list[str]]:
    """Licence and consent of the row."""
    found = {"licence": row.get("licence", row.get("license")), "consent": row.get("consent")}
    problems = [
        f"{name}: found {value!r:.60}, expected text."
        for name, value in found.items()
        if value is not None and (not isinstance(value, str) or check_caption(value, name))
    ]
    return found, problems


def _joined(sentences: list[str]) -> str:
    """Sentences as one text; Chinese puts no space between them."""
    text = sentences[0]
    for sentence in sentences[1:]:
        text += ("" if text[-1] in "。！？；，" else " ") + sentence
    return text
