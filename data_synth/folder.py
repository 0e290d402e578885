"""The folder source: video or picture files beside a captions.jsonl, every line and file used or accounted for."""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_synth.check import check_caption, check_path
from data_synth.errors import DataError
from data_synth.jsonl import read_lines
from data_synth.pictures import read_picture
from data_synth.records import REJECTED_NAME, Rejected, Written, content_id
from data_synth.video import read_clip

VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .wmv .flv .3gp .ogv .gif".split())
PICTURE_SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff".split())
MEDIA_KEYS = ("video", "image", "file", "file_name")  # file_name: the key of Hugging Face's VideoFolder
OWN_KEYS = frozenset([*MEDIA_KEYS, "id", "caption", "sentences", "start", "end", "licence", "license"])


@dataclass(frozen=True)
class Captioned:
    """One usable line: a video or picture and what is seen in it."""

    id: str
    path: Path
    """The file itself."""
    media: str
    """Its path relative to the folder, as records store it."""
    kind: str
    """video or image."""
    caption: str
    sentences: list[str] | None
    """The caption in sentences, where the line gave them so."""
    start: float | None
    end: float | None
    """Seconds; the piece of the video that the caption is about."""
    licence: str | None
    where: str
    """captions.jsonl:line."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Further fields of the line; passed on, never read here."""

    @property
    def content_id(self) -> str:
        """Depends on media path, piece and caption; a record's parent_id, so that an edited caption is noticed."""
        return content_id(self.media, self.start, self.end, self.caption)


def open_media(item: Captioned) -> None:
    """Decode a few frames of the video, or the picture. Raises DataError when it cannot be used."""
    if item.kind == "image":
        read_picture(item.path)
    else:
        read_clip(item.path, num_frames=3, start=item.start, end=item.end)


def read_folder(
    folder: str | Path,
    captions: str | Path | None = None,
    *,
    load: Callable[[Captioned], Any] | None = open_media,
) -> Iterator[Captioned | Rejected]:
    """Each line of captions.jsonl as Captioned or Rejected; then a Rejected for each media file without a caption.

    A line holds `video`, `image` or `file` (a path inside the folder), `caption` or `sentences`, and optionally `id`,
    `start`, `end` (seconds) and `licence`. load is called with each item; where it raises DataError the item is
    rejected. Pass one that fills a FramesCache to decode each clip once, or None not to open the files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected video files and a captions.jsonl.")
    captions = folder / "captions.jsonl" if captions is None else Path(captions)
    if not captions.is_file():
        raise DataError(
            f"{captions}: no such file; expected one line per clip, "
            'such as {"video": "a.mp4", "caption": "A dog barks. Then it runs."}.'
        )
    lines_of: dict[str, str] = {}
    named: set[str] = set()
    for where, row in read_lines(captions):
        if isinstance(row, Rejected):
            yield row
            continue
        named.update(os.path.normpath(row[key]) for key in MEDIA_KEYS if isinstance(row.get(key), str))
        item = _item(row, folder, where)
        if isinstance(item, Captioned) and item.id in lines_of:
            item = Rejected(where, [f"id: '{item.id}' is taken by {lines_of[item.id]} already."], row)
        elif isinstance(item, Captioned):
            lines_of[item.id] = where
            try:
                if load is not None:
                    load(item)
            except DataError as error:
                item = Rejected(where, [f"{item.kind}: {error}"], row)
        yield item
    yield from _without_caption(folder, named)


def sift_folder(
    folder: str | Path,
    out: str | Path,
    captions: str | Path | None = None,
    *,
    load: Callable[[Captioned], Any] | None = open_media,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the usable lines of a folder to out/clips.jsonl and the others to out/rejected_rows.jsonl, with the reason.

    A line of clips.jsonl has id, video or image (relative to the folder), caption, where given sentences, start, end
    and licence, and the line's further fields. progress is called with the numbers (kept, quarantined) so far. Both
    files appear whole, at the end.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    written = Written()
    kept_path, rejected_path = out / "clips.jsonl", out / REJECTED_NAME
    asides = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in (kept_path, rejected_path)]
    try:
        with asides[0].open("w", encoding="utf-8") as kept, asides[1].open("w", encoding="ascii") as rejected:
            for item in read_folder(folder, captions, load=load):
                if isinstance(item, Captioned):
                    kept.write(json.dumps(_row(item), ensure_ascii=False) + "\n")
                    written.kept += 1
                else:
                    rejected.write(item.line())
                    written.quarantined += 1
                    for name in item.fields():
                        written.reasons[name] = written.reasons.get(name, 0) + 1
                if progress is not None:
                    progress(written.kept, written.quarantined)
        if written.quarantined:
            asides[1].replace(rejected_path)
        else:
            rejected_path.unlink(missing_ok=True)
        asides[0].replace(kept_path)  # last: where it is, both are
    finally:
        for aside in asides:
            aside.unlink(missing_ok=True)
    written.shards = [kept_path]
    return written


def _row(item: Captioned) -> dict[str, Any]:
    named = {"sentences": item.sentences, "start": item.start, "end": item.end, "licence": item.licence}
    row = {"id": item.id, item.kind: item.media, "caption": item.caption}
    row.update({name: value for name, value in named.items() if value is not None})
    return {**item.fields, **row}


def _item(row: dict[str, Any], folder: Path, where: str) -> Captioned | Rejected:
    kind, media, problems = _media(row, folder)
    caption, sentences, more = _caption(row)
    problems += more + _piece_problems(row, kind)
    licence = row.get("licence", row.get("license"))
    if licence is not None and not isinstance(licence, str):
        problems.append(f"licence: found {licence!r}, expected text.")
    identity = row.get("id")
    if identity is not None and (isinstance(identity, bool) or not isinstance(identity, str | int)):
        problems.append(f"id: found {identity!r}, expected text or a whole number.")
    if problems:
        return Rejected(where, problems, row)
    start, end = row.get("start"), row.get("end")
    if identity is None:  # the same clip may have several captions
        identity = f"{media}#{content_id(start, end, caption)[:8]}"
    rest = {name: value for name, value in row.items() if name not in OWN_KEYS}
    return Captioned(str(identity), folder / media, media, kind, caption, sentences, start, end, licence, where, rest)


def _media(row: dict[str, Any], folder: Path) -> tuple[str, str, list[str]]:
    """(video or image, path, problems)."""
    keys = [key for key in MEDIA_KEYS if row.get(key) is not None]
    if len(keys) != 1:
        found = " and ".join(keys) or f"only {', '.join(map(str, row)) or 'no keys'}"
        return "", "", [f"video: found {found}, expected one of {', '.join(MEDIA_KEYS[:3])} with the path of a file."]
    key, path = keys[0], row[keys[0]]
    problems = check_path(path, key, folder)
    if problems:
        return "", "", problems
    suffix = Path(path).suffix.lower()
    if key in ("video", "image"):
        return key, path, []
    if suffix in VIDEO_SUFFIXES | PICTURE_SUFFIXES:
        return "video" if suffix in VIDEO_SUFFIXES else "image", path, []
    return "", "", [f"{key}: '{path}' has no known suffix; name it `video` or `image`, whichever it is."]


def _caption(row: dict[str, Any]) -> tuple[str, list[str] | None, list[str]]:
    caption, sentences = row.get("caption"), row.get("sentences")
    problems = []
    if caption is None and sentences is None:
        return "", None, [f"caption: the line has none, only {', '.join(map(str, row)) or 'no keys'}."]
    if sentences is not None:
        if not isinstance(sentences, list) or not sentences:
            return "", None, [f"sentences: found {sentences!r:.80}, expected a list of texts."]
        problems += [p for i, s in enumerate(sentences) for p in check_caption(s, f"sentences[{i}]")]
    if caption is None and not problems:
        caption = _join(sentences)
    if caption is not None:
        problems += check_caption(caption, "caption")
    return caption, sentences, problems


def _join(sentences: list[str]) -> str:
    """Sentences as one text; Chinese and Japanese put no space between them."""
    text = sentences[0].strip()
    for sentence in sentences[1:]:
        text += ("" if text[-1] in "。！？；，" else " ") + sentence.strip()
    return text


def _piece_problems(row: dict[str, Any], kind: str) -> list[str]:
    problems = []
    for key in ("start", "end"):
        value = row.get(key)
        if value is None:
            continue
        if kind == "image":
            problems.append(f"{key}: found {value!r}, but a picture has no time.")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            problems.append(f"{key}: found {value!r}, expected seconds from 0 on.")
    if not problems and row.get("end") is not None and row["end"] <= (row.get("start") or 0):
        problems.append(f"end: found {row['end']}, expected more than start ({row.get('start') or 0}).")
    return problems


def _without_caption(folder: Path, named: set[str]) -> Iterator[Rejected]:
    for directory, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(files):
            path = Path(directory, name)
            media = path.relative_to(folder).as_posix()
            suffix = path.suffix.lower()
            if name.startswith(".") or suffix not in VIDEO_SUFFIXES | PICTURE_SUFFIXES:
                continue
            if media not in named and str(path) not in named and str(path.resolve()) not in named:
                yield Rejected(str(path), ["caption: the file has no line in captions.jsonl."], {"file": media})
