"""Preference records: TRL's columns plus lists and lineage, written as parquet shards and read memory-mapped."""

import hashlib
import itertools
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Json, List, Value, concatenate_datasets

from data_synth.check import check
from data_synth.errors import DataError
from data_synth.whole import whole

ROW_GROUP = 2_000  # rows held in memory at once when writing; many small groups would make opening slow
ROW_GROUP_BYTES = 16 << 20  # and no more text than this, for rows with very long captions
SHARD_NAME = "pairs-{:05d}.parquet"
REJECTED_NAME = "rejected_rows.jsonl"

FEATURES = Features(
    {
        "pair_id": Value("string"),  # content_id of prompt, media and answers
        "prompt": List(Json()),  # messages; media as {"type": "video"} or {"type": "image"} parts
        "videos": List(Value("string")),  # paths, one per video part
        "images": List(Value("string")),
        "chosen": List(Json()),  # messages
        "rejected": List(List(Json())),  # K >= 1 lists of messages
        "rejected_kind": List(Value("string")),  # what is wrong with each, e.g. order_swap
        "rejected_weight": List(Value("float64")),
        "edit": List(Json()),  # per rejected answer: spans in chosen, rejected_spans in rejected, operator's own keys
        "source_id": Value("string"),  # the clip or caption row it was made from
        "parent_id": Value("string"),  # content_id of that row, so that an edited caption is noticed
        "operator": Value("string"),  # what made the pair
        "options": Json(),  # the operator's options
        "scores": Json(),  # reward name -> number or list of numbers
        "tier": Value("string"),  # gold, silver, bronze
        "licence": Value("string"),
        "consent": Value("string"),
        "seed": Value("int64"),
        "rubric_version": Value("string"),  # of the rules for what is wrong and for tiers
        "rlkit_version": Value("string"),
    }
)

JSON_DEPTH = {"prompt": 1, "chosen": 1, "rejected": 2, "edit": 1, "options": 0, "scores": 0}
"""Lists around the JSON values of each such column."""


@dataclass(frozen=True)
class Rejected:
    """A row that a source could not use: where it stood, what is wrong with it, and the row as it was found."""

    where: str
    reasons: list[str]
    row: Any = None

    def line(self) -> str:
        """Its line in rejected_rows.jsonl."""
        about = {"where": self.where, "reasons": self.reasons, "row": _plain(self.row)}
        return json.dumps(about, ensure_ascii=True) + "\n"

    def fields(self) -> set[str]:
        """Names of the fields that are wrong."""
        return {reason.split(":")[0].split("[")[0].split(".")[0] for reason in self.reasons}


@dataclass
class Written:
    """What write_records did: rows = kept + quarantined."""

    kept: int = 0
    quarantined: int = 0
    shards: list[Path] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    """How many rows were quarantined for a problem of each field."""


def content_id(*parts: Any) -> str:
    """32 hex digits that depend on the content of JSON values alone: the same on every machine, for every key order."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def pair_id(record: Mapping[str, Any]) -> str:
    """The content_id of what a model sees of a record: prompt, media, chosen and rejected answers in order."""
    media = [list(record.get("videos") or []), list(record.get("images") or [])]
    return content_id(record["prompt"], media, record["chosen"], record["rejected"])


def make_record(
    question: str,
    chosen: str,
    rejected: Mapping[str, str] | list[tuple[str, str]],
    *,
    videos: Iterable[str] = (),
    images: Iterable[str] = (),
    start: float | None = None,
    end: float | None = None,
    **columns: Any,
) -> dict[str, Any]:
    """A record for one question about media, from plain strings.

    rejected: (kind, text) pairs. start and end, in seconds, are the piece of each video that is meant; they travel in
    its part of the prompt as `video_start` and `video_end`, Qwen's names. columns: any further columns of FEATURES.
    """
    videos, images = list(videos), list(images)
    rejected = list(rejected.items()) if isinstance(rejected, Mapping) else list(rejected)
    part: dict[str, Any] = {"type": "video"}
    if start is not None:
        part["video_start"] = start
    if end is not None:
        part["video_end"] = end
    parts = [dict(part) for _ in videos] + [{"type": "image"} for _ in images]
    record = {
        "prompt": [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}],
        "videos": videos,
        "images": images,
        "chosen": _assistant(chosen),
        "rejected": [_assistant(text) for _, text in rejected],
        "rejected_kind": [kind for kind, _ in rejected],
        "rejected_weight": [1.0] * len(rejected),
        **columns,
    }
    record["pair_id"] = pair_id(record)
    return record


def text_of(messages: Iterable[Mapping[str, Any]]) -> str:
    """The text of messages, as written: content strings and text parts, joined by line breaks."""
    texts = []
    for message in messages:
        content = message["content"]
        texts += [content] if isinstance(content, str) else [p["text"] for p in content if p.get("type") == "text"]
    return "\n".join(texts)


def pieces(record: Mapping[str, Any]) -> list[tuple[str, float | None, float | None]]:
    """(path, start, end) of each video of a record, in seconds; None means from the beginning, to the end."""
    contents = [m["content"] for m in record["prompt"] if not isinstance(m["content"], str)]
    parts = [part for content in contents for part in content if part.get("type") == "video"]
    return [(v, p.get("video_start"), p.get("video_end")) for v, p in zip(record["videos"] or [], parts, strict=True)]


def write_records(
    rows: Iterable[Mapping[str, Any] | Rejected],
    folder: str | Path,
    *,
    rows_per_shard: int = 20_000,
    root: str | Path | None = None,
    overwrite: bool = False,
) -> Written:
    """Check rows and write them as parquet shards; bad rows and repeated ids go to rejected_rows.jsonl with the reason.

    Rows that a source rejected already (Rejected) pass through to that file. A row may leave out columns; pair_id is
    computed, and checked when given. With root, media files must exist below it. Memory does not depend on the number
    of rows. The shards appear together, after the last row, the first of them last: where it is, all are. A folder
    that holds pairs already is refused unless overwrite is set.
    """
    folder, first_path = Path(folder), Path(folder) / SHARD_NAME.format(0)
    old = sorted(folder.glob("pairs-*.parquet"))
    if first_path.is_file() and not overwrite:
        raise DataError(f"{folder}: already holds {len(old)} shards of pairs; give another folder or remove them.")
    folder.mkdir(parents=True, exist_ok=True)
    written = Written()
    aside = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
    try:
        with (aside / REJECTED_NAME).open("w", encoding="ascii") as quarantine:
            good = _sift(rows, aside, root, quarantine, written)
            names = []
            while first := list(itertools.islice(good, 1)):
                names.append(SHARD_NAME.format(len(names)))
                _write_shard(aside / names[-1], itertools.chain(first, itertools.islice(good, rows_per_shard - 1)))
            if not names:  # an empty file with the columns, so that readers need no special case
                names.append(SHARD_NAME.format(0))
                _write_shard(aside / names[0], iter(()))
        if written.quarantined:
            names.append(REJECTED_NAME)
        first_path.unlink(missing_ok=True)
        for path in [*old, folder / REJECTED_NAME]:
            if path.name not in names:
                path.unlink(missing_ok=True)
        for name in reversed(names):
            (aside / name).replace(folder / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    written.shards = [folder / name for name in names if name != REJECTED_NAME]
    for shard in written.shards:
        _arrow_copy(shard)  # now, so that no later start waits for it
    return written


def write_shard(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write checked records as one parquet file that appears whole, with all columns; the same rows, the same bytes."""
    version = metadata.version("rlkit")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _write_shard(aside, (_complete(row, version) for row in rows))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_records(path: str | Path) -> Dataset:
    """All records of a folder (and of its splits) or of one parquet file, as a memory-mapped datasets.Dataset.

    The map is of an Arrow copy in `.arrow` beside the shard, which write_records leaves there and the first read of a
    foreign file makes; start-up time and memory do not depend on the number of rows. Columns are returned as they are.
    """
    path = Path(path)
    shards = shards_of(path) if path.is_dir() else [path]
    if not shards or not shards[0].exists():
        raise DataError(f"{path}: no parquet files there; expected a folder with pairs-00000.parquet or one such file.")
    return concatenate_datasets([Dataset.from_file(str(_arrow_copy(shard))) for shard in shards])


def content_hash(path: str | Path) -> str:
    """Hash of all bytes of a folder's shards, or of one file; read once and kept beside the Arrow copies."""
    path = Path(path)
    digest = hashlib.sha256()
    for shard in shards_of(path) if path.is_dir() else [path]:
        kept = _arrow_copy(shard).with_suffix(".sha256")
        if not kept.exists():
            with shard.open("rb") as file:
                own = hashlib.sha256()
                while block := file.read(1 << 20):
                    own.update(block)
            with whole(kept, "w") as out:
                out.write(own.hexdigest())
        digest.update(kept.read_bytes())
    return digest.hexdigest()


def shards_of(folder: Path) -> list[Path]:
    """The parquet files of a folder of pairs; where it is split, those of its splits."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("[!.]*/pairs-*.parquet"))


def _assistant(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def _sift(rows, aside: Path, root, quarantine, written: Written) -> Iterator[dict[str, Any]]:
    """The good rows, completed; the others are written to the quarantine file."""
    version = metadata.version("rlkit")
    ids = sqlite3.connect(aside / "ids.sqlite", isolation_level=None)  # on disk: millions of ids do not fit a set
    try:
        ids.execute("PRAGMA journal_mode = OFF")
        ids.execute("PRAGMA synchronous = OFF")
        ids.execute("CREATE TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID")
        ids.execute("BEGIN")
        for number, row in enumerate(rows):
            bad = row if isinstance(row, Rejected) else _judge(row, number, root, ids)
            if bad is None:
                written.kept += 1
                yield _complete(row, version)
                continue
            written.quarantined += 1
            for name in bad.fields():
                written.reasons[name] = written.reasons.get(name, 0) + 1
            quarantine.write(bad.line())
    finally:
        ids.close()


def _judge(row: Any, number: int, root, ids: sqlite3.Connection) -> Rejected | None:
    """What is wrong with a row; None for a good one, whose id is then taken."""
    problems = _unknown_columns(row) + check(row, root=root)
    if not problems:
        identity = pair_id(row)
        if row.get("pair_id") not in (None, identity):
            problems = [f"pair_id: found '{row['pair_id']}', but the content gives '{identity}'."]
        elif not ids.execute("INSERT OR IGNORE INTO ids VALUES (?)", (identity,)).rowcount:
            problems = [f"pair_id: '{identity}' is there already; the row repeats an earlier one."]
    return Rejected(f"row {number}", problems, row) if problems else None


def _unknown_columns(row) -> list[str]:
    if not isinstance(row, Mapping):
        return []
    problems = []
    for name in row:
        if name not in FEATURES:
            near = get_close_matches(str(name), FEATURES, n=1)
            problems.append(f"{name}: no such column{f', did you mean {near[0]!r}' if near else ''}.")
    return problems


def _complete(row: Mapping[str, Any], version: str) -> dict[str, Any]:
    count = len(row["rejected"])
    defaults = {
        "videos": [],
        "images": [],
        "rejected_kind": ["unknown"] * count,
        "rejected_weight": [1.0] * count,
        "edit": [{}] * count,
        "options": {},
        "scores": {},
        "rlkit_version": version,
    }
    full = {name: row.get(name) for name in FEATURES}
    full.update({name: value for name, value in defaults.items() if full[name] is None})
    full["pair_id"] = pair_id(row)
    return full


def _write_shard(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    schema = FEATURES.arrow_schema
    # no statistics of long texts; the same rows give the same bytes
    with pq.ParquetWriter(path, schema, compression="zstd", write_statistics=False) as writer:
        for group in _row_groups(rows):
            columns = [_column(name, [row[name] for row in group], schema.field(name).type) for name in FEATURES]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _row_groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Encoded rows in groups that fit in memory."""
    group, size = [], 0
    for row in rows:
        row = {name: _encode(value, JSON_DEPTH[name]) if name in JSON_DEPTH else value for name, value in row.items()}
        group.append(row)
        size += sum(map(len, row["chosen"])) + sum(len(text) for answer in row["rejected"] for text in answer)
        if len(group) == ROW_GROUP or size > ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _column(name: str, values: list, kind: pa.DataType) -> pa.Array:
    if name not in JSON_DEPTH:
        return pa.array(values, kind)
    storage = pa.string()
    for _ in range(JSON_DEPTH[name]):
        storage = pa.list_(storage)
    return pa.array(values, storage).cast(kind)


def _encode(value, depth: int):
    """JSON text at the given depth of lists: messages as List(Json()), so that no struct is filled with None keys."""
    if depth:
        return [_encode(item, depth - 1) for item in value]
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _arrow_copy(shard: Path) -> Path:
    """The shard as an Arrow file that can be memory-mapped; made once, in pieces, and remade when the shard changes."""
    stat = shard.stat()
    folder = shard.parent / ".arrow"
    copy = folder / f"{shard.stem}-{stat.st_size}-{stat.st_mtime_ns}.arrow"
    if copy.exists():
        return copy
    try:
        folder.mkdir(exist_ok=True)
    except OSError:  # read-only data: put the copy where datasets puts its own
        from datasets import config

        key = content_id(str(shard.resolve()), stat.st_size, stat.st_mtime_ns)
        folder = Path(config.HF_DATASETS_CACHE) / "rlkit"
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / f"{key}.arrow"
        if copy.exists():
            return copy
    for stale in folder.glob(f"{shard.stem}-*.arrow"):
        if stale.name != copy.name:  # another process may have just made that one
            stale.unlink(missing_ok=True)
            stale.with_suffix(".sha256").unlink(missing_ok=True)
    aside = Path(tempfile.mkstemp(prefix=".part-", dir=folder)[1])
    try:
        with pq.ParquetFile(shard, memory_map=True) as source:
            schema = source.schema_arrow
            with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                for batch in source.iter_batches(ROW_GROUP):
                    writer.write_batch(batch)
        aside.replace(copy)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{shard}: not a parquet file, or damaged ({str(error).splitlines()[0]}).") from error
    finally:
        aside.unlink(missing_ok=True)
    return copy


def _plain(value: Any) -> Any:
    """Any row as JSON: what JSON cannot say is written as text."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)
