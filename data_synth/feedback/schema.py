"""The log of what was shown and what people did: read from parquet or JSON lines, bad rows set aside with the reason.

A row is one showing of one item at one place. Columns (others are not read, except those named in `extra`):

    prompt            text    needed   what was asked or searched; items are compared within a prompt
    item              text    needed   id of what was shown (a whole number will do)
    click             0 or 1  needed
    completion        text             the caption or copy itself, for pairs; without it, pairs carry the id
    position          1, 2..           place on the page, 1 the first; without it all rows share one place
    propensity        (0, 1]           probability that the system showed this item at this place, knowing `context`
    context           text             what the system knew of the viewer when it chose (a segment)
    conversion        0 or 1           after a click; needs `time` or `elapsed` where it comes late
    conversion_delay  seconds          from the showing to the conversion; empty where there is none (yet)
    time              seconds          of the showing: a number, a timestamp or, in JSON, ISO 8601 text
    elapsed           seconds          from the showing to the end of observation; without it, to the log's last event
    session           text             of the viewer; rows of one session are not independent

A column is there for all rows or for none: a row that misses one is a mistake.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_synth.errors import DataError
from data_synth.jsonl import read_lines
from data_synth.records import Rejected
from data_synth.whole import whole

NEEDED = ("prompt", "item", "click")
TEXT = ("prompt", "item", "completion", "context", "session")
NUMBERS = ("click", "position", "propensity", "conversion", "conversion_delay", "time", "elapsed")
MAY_BE_EMPTY = ("conversion_delay",)
RULES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "click": ("0 or 1", lambda x: (x == 0) | (x == 1)),
    "conversion": ("0 or 1", lambda x: (x == 0) | (x == 1)),
    "position": ("a whole number of at least 1", lambda x: (x >= 1) & (x == np.floor(x))),
    "propensity": ("a probability above 0 and at most 1", lambda x: (x > 0) & (x <= 1)),
    "conversion_delay": ("seconds, at least 0", lambda x: (x >= 0) & np.isfinite(x)),
    "elapsed": ("seconds, at least 0", lambda x: (x >= 0) & np.isfinite(x)),
    "time": ("a finite number of seconds, or a timestamp", np.isfinite),
}
MOST_BAD = 0.1
"""Share of unusable rows above which a log is refused: what is left would be another log."""


@dataclass(frozen=True)
class Log:
    """The usable rows as columns, [rows] each; texts are numbers of the lists beside them."""

    prompts: list[str]
    items: list[str]
    completions: list[str]
    """Text of each item."""
    prompt: np.ndarray
    item: np.ndarray
    click: np.ndarray
    position: np.ndarray
    context: np.ndarray
    session: np.ndarray
    propensity: np.ndarray | None = None
    conversion: np.ndarray | None = None
    conversion_delay: np.ndarray | None = None
    """Seconds, NaN where there is no conversion."""
    time: np.ndarray | None = None
    elapsed: np.ndarray | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    """Further numbers by name, NaN where a row has none."""
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.click)

    def reasons(self) -> dict[str, int]:
        """How many rows were set aside for each column."""
        return dict(Counter(name for one in self.rejected for name in one.fields()))

    def take(self, rows: np.ndarray) -> "Log":
        """The log of some rows (a mask or numbers); the lists of texts stay."""
        columns = {one.name: getattr(self, one.name) for one in fields(self)}
        kept = {name: value[rows] for name, value in columns.items() if isinstance(value, np.ndarray)}
        return replace(self, **kept, extra={name: value[rows] for name, value in self.extra.items()})


def read_log(path: str | Path, *, extra: Sequence[str] = (), rename: Mapping[str, str] | None = None) -> Log:
    """The log in a parquet file or JSON lines. `extra`: further columns of numbers to read (reports, skips, scores).
    `rename`: our name -> the file's.

    Rows that break a rule, or repeat an earlier row of their session, are in `rejected` with every reason. Raises
    DataError for a missing column, a column of another type, an empty log, and more than MOST_BAD unusable rows.
    """
    path, rename = Path(path), dict(rename or {})
    names = [*TEXT, *NUMBERS, *extra]
    unknown = [name for name in rename if name not in names]
    if unknown:
        raise DataError(
            f"{path}: rename has '{unknown[0]}', which is no column of a log; there are {', '.join(names)}."
        )
    theirs = {name: rename.get(name, name) for name in names}
    if path.suffix == ".parquet":
        table, there, broken, row_of = _parquet(path, theirs)
    else:
        table, there, broken, row_of = _lines(path, theirs)
    _expect_columns(path, theirs, there, table, [*NEEDED, *extra])
    texts, numbers, problems = {}, {}, []
    for name, column in table.items():
        if name in TEXT:
            texts[name], found = _text(name, column)
        else:
            numbers[name], found = _number(name, column, optional=name in extra)
        problems += found
    rows = len(table["click"][0])
    problems += _contradictions(texts, numbers, rows)
    bad = np.zeros(rows, bool)
    for _, mask, _ in problems:
        bad |= mask
    rejected = broken + [
        Rejected(row_of(i)[0], [f"{name}: {say(i)}" for name, mask, say in problems if mask[i]], row_of(i)[1])
        for i in np.flatnonzero(bad)
    ]
    _expect_most_good(path, rows + len(broken), rejected)
    notes = _near_misses(theirs, there, table)
    return _log(path, texts, numbers, ~bad, rejected, notes, extra)


def write_rejected(rejected: Iterable[Rejected], path: Path) -> None:
    """The rows set aside, one JSON line each with place, reasons and content; the file appears whole."""
    with whole(path, "w") as file:
        for one in rejected:
            file.write(one.line())


Column = tuple[pa.Array, np.ndarray]
"""Values, null where missing or of a wrong type; and which of them were of a wrong type."""
Problem = tuple[str, np.ndarray, Callable[[int], str]]
"""Column, which rows are wrong, and what to say of row i."""


def _parquet(path: Path, theirs: Mapping[str, str]):
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a log as parquet or JSON lines.")
    try:
        file = pq.ParquetFile(path)
        there = file.schema_arrow.names
        read = file.read([name for name in theirs.values() if name in there])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a parquet file, or damaged ({str(error).splitlines()[0]}).") from error
    table = {}
    for name, given in theirs.items():
        if given not in there:
            continue
        column = read[given].combine_chunks()
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        fits = text or pa.types.is_integer(kind) if name in TEXT else numeric or _is_time(name, kind)
        if not fits and not pa.types.is_null(kind):
            raise DataError(f"{path}: column '{given}' is {kind}, expected {'text' if name in TEXT else 'numbers'}.")
        table[name] = (column, np.zeros(len(column), bool))

    def row_of(i: int) -> tuple[str, Any]:
        return f"{path}:row {i}", {name: column[i].as_py() for name, (column, _) in table.items()}

    return table, there, [], row_of


def _lines(path: Path, theirs: Mapping[str, str]):
    places, rows, broken, there = [], [], [], {}
    for where, row in read_lines(path):
        if isinstance(row, Rejected):
            broken.append(row)
            continue
        places.append(where)
        rows.append(row)
        there.update(dict.fromkeys(row))
    table = {}
    for name, given in theirs.items():
        if given not in there:
            continue
        values = [row.get(given) for row in rows]
        if name == "time":
            values = [_seconds(v) if isinstance(v, str) else v for v in values]
        fits = (str, int) if name in TEXT else (int, float)
        no_bools = name in TEXT or name in ("position", "propensity", "conversion_delay", "time", "elapsed")
        wrong = [v is not None and (not isinstance(v, fits) or (no_bools and isinstance(v, bool))) for v in values]
        kept = [
            None if w or v is None else str(v) if name in TEXT else float(v) for v, w in zip(values, wrong, strict=True)
        ]
        table[name] = (pa.array(kept, pa.string() if name in TEXT else pa.float64()), np.array(wrong, bool))
    return table, list(there), broken, lambda i: (places[i], rows[i])


def _seconds(text: str) -> float | str:
    """Seconds of ISO 8601 text, UTC where it names no zone; the text itself where it is none."""
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    return (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()


def _is_time(name: str, kind: pa.DataType) -> bool:
    return name == "time" and pa.types.is_timestamp(kind)


def _expect_columns(path: Path, theirs, there, table: Mapping[str, Column], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in table:
            near = get_close_matches(theirs[name], there, n=1)
            advice = f" Did you mean '{near[0]}'? Then rename it." if near else ""
            found = ", ".join(there[:12]) or "no columns"
            raise DataError(f"{path}: has no column '{theirs[name]}'; found {found}.{advice}")


def _near_misses(theirs: Mapping[str, str], there: Sequence[str], table: Mapping[str, Column]) -> list[str]:
    """Columns that were not read but are called almost like one of ours: a propensity under another name is a trap."""
    read = {theirs[name] for name in table}
    absent = [name for name in theirs if name not in table]
    notes = []
    for column in there:
        near = get_close_matches(column, absent, n=1, cutoff=0.7)
        near = near or [name for name in absent if column not in read and column.startswith(f"{name}_")]
        if near and column not in read:
            notes.append(f"column '{column}' was not read; if it is the {near[0]}, say rename: {{{near[0]}: {column}}}")
    return notes


def _expect_most_good(path: Path, rows: int, rejected: Sequence[Rejected]) -> None:
    if not rows:
        raise DataError(f"{path}: holds no rows.")
    if len(rejected) > MOST_BAD * rows or len(rejected) == rows:
        raise DataError(
            f"{path}: {len(rejected):,} of {rows:,} rows cannot be used, more than {MOST_BAD:.0%}; the first, "
            f"{rejected[0].where}: {'; '.join(rejected[0].reasons)}"
        )


def _text(name: str, column: Column) -> tuple[tuple[np.ndarray, list[str]], list[Problem]]:
    """((numbers [rows], texts), problems)."""
    values, wrong = column
    values = pc.cast(values.dictionary_decode() if pa.types.is_dictionary(values.type) else values, pa.string())
    encoded = pc.dictionary_encode(values)
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    texts = encoded.dictionary.to_pylist()
    blank = np.isin(codes, [-1, *(i for i, text in enumerate(texts) if not text.strip())]) & ~wrong
    return (codes, texts), [
        (name, wrong, lambda i: "found a value of another type, expected text."),
        (name, blank, lambda i: "found nothing, expected text."),
    ]


def _number(name: str, column: Column, optional: bool) -> tuple[np.ndarray, list[Problem]]:
    """(Float[rows], problems)."""
    values, wrong = column
    if pa.types.is_timestamp(values.type):
        values = pc.divide(
            pc.cast(pc.cast(values, pa.timestamp("us", values.type.tz)), pa.int64()).cast(pa.float64()), 1e6
        )
    found = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
    problems: list[Problem] = [(name, wrong, lambda i: "found a value of another type, expected a number.")]
    missing = np.isnan(found) & ~wrong
    if name not in MAY_BE_EMPTY and not optional:
        problems.append((name, missing, lambda i: "found nothing, expected a number."))
    if name in RULES:
        expected, rule = RULES[name]
        with np.errstate(invalid="ignore"):
            breaks = ~rule(found) & ~missing & ~wrong
        problems.append((name, breaks, lambda i: f"found {found[i]:g}, expected {expected}."))
    return found, problems


def _contradictions(texts, numbers: Mapping[str, np.ndarray], rows: int) -> list[Problem]:
    """Rows whose columns are fine alone but not together."""
    problems: list[Problem] = []
    converted = numbers.get("conversion")
    if converted is not None:
        unclicked = (converted == 1) & (numbers["click"] == 0)
        problems.append(
            ("conversion", unclicked, lambda i: "is 1 without a click; only conversions after a click count.")
        )
        delay = numbers.get("conversion_delay")
        if delay is not None:
            late = (converted == 1) & np.isnan(delay)
            early = (converted == 0) & ~np.isnan(delay)
            problems.append(("conversion_delay", late, lambda i: "found nothing beside a conversion of 1."))
            problems.append(("conversion_delay", early, lambda i: f"found {delay[i]:g} beside a conversion of 0."))
            if "elapsed" in numbers:
                elapsed = numbers["elapsed"]
                with np.errstate(invalid="ignore"):
                    beyond = delay > elapsed
                say = "{:g} s is later than the end of observation, {:g} s after the showing."
                problems.append(("conversion_delay", beyond, lambda i: say.format(delay[i], elapsed[i])))
    if "session" in texts and "time" in numbers:
        keys = [codes for codes, _ in texts.values()] + [numbers[n] for n in ("position", "time") if n in numbers]
        order = np.lexsort(keys)  # stable: the first of equal rows stays first
        same = np.ones(max(rows - 1, 0), bool)
        for key in keys:
            same &= key[order][1:] == key[order][:-1]
        repeats = np.zeros(rows, bool)
        repeats[order[1:][same]] = True
        problems.append(("session", repeats, lambda i: "repeats an earlier row: the same showing was logged twice."))
    return problems


def _elapsed(kept: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Seconds from each showing to the end of observation; None where the log has neither `elapsed` nor `time`."""
    if "elapsed" in kept or "time" not in kept:
        return kept.get("elapsed")
    end = kept["time"].max()
    if "conversion_delay" in kept:
        end = np.fmax.reduce(kept["time"] + kept["conversion_delay"], initial=end)  # NaN: no conversion
    return end - kept["time"]


def _log(path: Path, texts, numbers, good: np.ndarray, rejected, notes, extra: Sequence[str]) -> Log:
    rows = len(good)
    one = np.zeros(rows, np.int64)
    kept = {name: numbers[name][good] for name in numbers if name in NUMBERS}
    codes = {name: texts[name][0][good] if name in texts else one[good] for name in TEXT}
    if "session" not in texts:
        codes["session"] = np.arange(int(good.sum()))
    return Log(
        prompts=texts["prompt"][1],
        items=texts["item"][1],
        completions=_completions(path, texts, good),
        prompt=codes["prompt"],
        item=codes["item"],
        context=codes["context"],
        session=codes["session"],
        click=kept["click"],
        position=kept["position"].astype(np.int64) if "position" in kept else np.ones(int(good.sum()), np.int64),
        propensity=kept.get("propensity"),
        conversion=kept.get("conversion"),
        conversion_delay=kept.get("conversion_delay"),
        time=kept.get("time"),
        elapsed=_elapsed(kept),
        extra={name: numbers[name][good] for name in extra},
        rejected=rejected,
        notes=notes,
    )


def _completions(path: Path, texts, good: np.ndarray) -> list[str]:
    """The text of each item, by item number: its completion, or its id where the log has none."""
    items = texts["item"][1]
    if "completion" not in texts:
        return list(items)
    item, codes, said = texts["item"][0][good], texts["completion"][0][good], texts["completion"][1]
    seen, first = np.unique(item, return_index=True)
    of_item = np.full(len(items), -1)
    of_item[seen] = codes[first]
    other = np.flatnonzero(of_item[item] != codes)
    if len(other):
        name = items[item[other[0]]]
        raise DataError(f"{path}: item '{name}' has several completions; give each version its own item id.")
    return [said[code] if code >= 0 else name for name, code in zip(items, of_item, strict=True)]


def rows_of(log: Log) -> Iterator[np.ndarray]:
    """The row numbers of each prompt that has rows, in the order of `prompts`."""
    order = np.argsort(log.prompt, kind="stable")
    _, starts = np.unique(log.prompt[order], return_index=True)
    yield from np.split(order, starts[1:])
