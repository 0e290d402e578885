"""Tables of pairs of pictures in Pick-a-Pic's columns: what we write, and what we read of others.

    caption, jpg_0, jpg_1       the prompt and both pictures as encoded bytes; ours are PNG, a clip's frames one below
                                the other in one PNG
    label_0, label_1            1 for the better one and 0 for the other, 0.5 each for a tie
    has_label                   false where nobody, or no reward, could judge

https://huggingface.co/datasets/yuvalkirstain/pickapic_v2. Read are parquet and JSON lines, where a picture may also be
a path (from the table's folder) or base64. `caption, jpg, label` (a thumb up or down a picture) is the other form, for
diffusion_kto. Ours carry more columns, from which a picture can be drawn again (COLUMNS). Imports no torch.
"""

import base64
import binascii
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rlkit.errors import DataError

COLUMNS = pa.schema(
    [
        ("pair_id", pa.string()),  # "<seed>-<group>"
        ("caption", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("has_label", pa.bool_()),
        ("margin", pa.float64()),  # of what was ranked; null without a label
        ("reward_names", pa.list_(pa.string())),
        ("rewards_0", pa.list_(pa.float64())),  # one a reward, null where it gave no score
        ("rewards_1", pa.list_(pa.float64())),
        ("missing", pa.int32()),  # pictures of the group, of all that were drawn, without a score
        ("seed_0", pa.int64()),  # of torch.Generator on the CPU, which draws the noise that sampling starts from
        ("seed_1", pa.int64()),
        ("noise_0", pa.string()),  # sha256 of that noise's fp32 bytes: whether a seed still gives it is checked
        ("noise_1", pa.string()),
        ("model", pa.string()),
        ("sampler", pa.string()),  # the scheduler's class
        ("num_inference_steps", pa.int32()),
        ("guidance_scale", pa.float64()),
        ("resolution", pa.int32()),
        ("num_frames", pa.int32()),
        ("seed", pa.int64()),  # of the run
        ("rlkit_version", pa.string()),
    ]
)
PAIR, RATED = ("caption", "jpg_0", "jpg_1", "label_0"), ("caption", "jpg", "label")


@dataclass
class PairTable:
    """A table opened: which rows say something, and what the others are."""

    path: Path
    rows: Any
    """A memory-mapped datasets.Dataset, or a list; `rows[number]` is a row."""
    used: list[int]
    """Numbers of the rows with a decided label."""
    labels: list[int]
    """For each used row the side that is better, 0 or 1; of a rated table, 1 for a thumb up."""
    rated: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    """`rows = pairs + ties + unlabelled + below_margin` (and `held_out`, prompts that are measured)."""

    def __len__(self) -> int:
        return len(self.used)

    def where(self, at: int) -> str:
        """What errors call the used row `at`."""
        return f"{self.path}: row {self.used[at]}"

    def columns(self, *names: str) -> list[tuple]:
        """Small columns of all used rows; None where the table has no such column."""
        present = {name: _column(self.rows, name) for name in names}
        return [tuple(None if present[n] is None else present[n][row] for n in names) for row in self.used]


def read_table(
    path: str | Path, *, min_margin: float = 0.0, without: Sequence[str] = (), rated: bool = False
) -> PairTable:
    """Open a parquet file, a folder of them, or JSON lines; ties, rows without a label and captions in `without` are
    left out and counted. `rated` also takes a table of single pictures.

    Raises DataError where columns are missing or nothing is left.
    """
    path = Path(path)
    rows = _open(path)
    names = list(rows[0]) if isinstance(rows, list) else rows.column_names
    single = rated and set(RATED) <= set(names)
    missing = [name for name in PAIR if name not in names]
    if missing and not single:
        wanted = f"{', '.join(PAIR)}" + (f", or {', '.join(RATED)}" if rated else "")
        raise DataError(f"{path}: has the columns {', '.join(names) or 'none'}; expected {wanted} (Pick-a-Pic's).")
    table = _rated(path, rows) if single else _paired(path, rows, min_margin)
    hidden = set(without)
    captions = _column(rows, "caption")
    kept = [at for at, row in enumerate(table.used) if captions[row] not in hidden]
    table.counts["held_out"] = len(table.used) - len(kept)
    table.used, table.labels = [table.used[at] for at in kept], [table.labels[at] for at in kept]
    table.counts["pairs"] = len(kept)
    if not kept:
        raise DataError(f"{path}: no row of {len(rows)} can be learnt from ({table.counts}).")
    return table


def _paired(path: Path, rows: Any, min_margin: float) -> PairTable:
    first, second, has, margins = (_column(rows, name) for name in ("label_0", "label_1", "has_label", "margin"))
    used, labels, ties, unlabelled, small = [], [], 0, 0, 0
    for row in range(len(rows)):
        one, other = _number(first[row]), _number(second[row]) if second is not None else None
        other = 1 - one if other is None and one is not None else other
        margin = _number(margins[row]) if margins is not None else None
        if one is None or (has is not None and not has[row]):
            unlabelled += 1
        elif one == other:
            ties += 1
        elif margin is not None and margin <= min_margin:
            small += 1
        else:
            used.append(row)
            labels.append(0 if one > other else 1)
    counts = {"rows": len(rows), "ties": ties, "unlabelled": unlabelled, "below_margin": small}
    return PairTable(path, rows, used, labels, counts=counts)


def _rated(path: Path, rows: Any) -> PairTable:
    thumbs = [_number(value) for value in _column(rows, "label")]
    used = [row for row, value in enumerate(thumbs) if value in (0.0, 1.0)]
    unlabelled = sum(value is None for value in thumbs)
    counts = {"rows": len(rows), "ties": len(rows) - len(used) - unlabelled, "unlabelled": unlabelled}
    return PairTable(path, rows, used, [int(thumbs[row]) for row in used], rated=True, counts=counts)


def _open(path: Path) -> Any:
    """Rows: memory-mapped of parquet, a list of JSON lines."""
    from data_synth.errors import DataError as Unreadable
    from data_synth.jsonl import read_lines
    from data_synth.records import Rejected, read_records

    try:
        if path.suffix in (".jsonl", ".json"):
            rows = []
            for where, row in read_lines(path):
                if isinstance(row, Rejected):
                    raise DataError(f"{where}: {' '.join(row.reasons)}")
                rows.append(row)
            if not rows:
                raise DataError(f"{path}: holds no rows.")
            return rows
        return read_records(path)
    except Unreadable as error:
        raise DataError(str(error)) from None


def _column(rows: Any, name: str) -> Sequence[Any] | None:
    if isinstance(rows, list):
        return [row.get(name) for row in rows] if any(name in row for row in rows) else None
    return rows.data.column(name).to_pylist() if name in rows.column_names else None


def _number(value: Any) -> float | None:
    usable = isinstance(value, bool | int | float) and math.isfinite(value)
    return float(value) if usable else None


# ---- pictures -------------------------------------------------------------------------------------------------------


def encode(completion: Any) -> bytes:
    """A PIL picture, or frames uint8 [T, H, W, 3], as PNG; the same pixels give the same bytes."""
    pixels = np.asarray(completion.convert("RGB") if isinstance(completion, Image.Image) else completion)
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(-1, *pixels.shape[-2:])).save(buffer, "PNG")
    return buffer.getvalue()


def decode(value: Any, where: str, *, folder: Path = Path(), num_frames: int = 1) -> np.ndarray:
    """uint8 RGB [T, H, W, 3] of a cell: bytes, {"bytes", "path"}, a path, base64, or a PIL picture.

    Raises DataError, with `where`, for what is no picture, or not `num_frames` of one height.
    """
    try:
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            value = _of_text(value, folder)
        image = value if isinstance(value, Image.Image) else Image.open(io.BytesIO(value))
        pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{where}: not a picture that can be read ({reason}).") from None
    if len(pixels) % num_frames:
        raise DataError(f"{where}: {len(pixels)} pixels high, which are not {num_frames} frames one below the other.")
    return pixels.reshape(num_frames, -1, *pixels.shape[1:])


def _of_text(text: str, folder: Path) -> bytes:
    if len(text) < 4096 and (folder / text).is_file():
        return (folder / text).read_bytes()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise OSError(f"no file {text[:80]!r}, and no base64") from None


def decided(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows have a better and a worse picture, a tie, or no label."""
    ties = sum(row["has_label"] and row["label_0"] == 0.5 for row in rows)
    unlabelled = sum(not row["has_label"] for row in rows)
    return {"pairs": len(rows) - ties - unlabelled, "ties": ties, "unlabelled": unlabelled}


def write_shard(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One parquet file of our columns that appears whole; the same rows, the same bytes."""
    from data_synth.whole import whole

    columns = [pa.array([row[name] for row in rows], COLUMNS.field(name).type) for name in COLUMNS.names]
    with whole(path) as file:
        pq.write_table(pa.Table.from_arrays(columns, schema=COLUMNS), file, compression="zstd", write_statistics=False)
