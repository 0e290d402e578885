"""500 broken records among good ones: none stops the work, each is used or quarantined with its line and a reason."""

import json
import tempfile
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from data_synth.making import Operator, Options, build
from data_synth.sources import read_captions

GOOD = [
    {"id": "good0", "caption": "A man walks across the beach. Then he picks up a ball. Finally he throws it away."},
    {"id": "good1", "caption": "一个男人先打开门，然后走进房间，最后坐下。"},
]
RECORDS = 500
PER_FILE = 25
SLOWEST = 30  # seconds for a file of them; it takes about 0.1

TEXT = st.text(max_size=60) | st.sampled_from(
    [
        GOOD[0]["caption"],
        GOOD[1]["caption"],
        "",
        " ",
        "\u202e",
        "\x00",
        "<script>alert(1)</script>",
        "先然后最后",
        "a" * 30_000,
    ]
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
COLUMN = st.sampled_from(
    [
        "id",
        "caption",
        "sentences",
        "timestamps",
        "video",
        "videos",
        "image",
        "images",
        "start",
        "end",
        "licence",
        "consent",
        "prompt",
        "chosen",
        "rejected",
        "messages",
        "conversations",
        "source_id",
        "language",
    ]
) | st.text(max_size=12)
ROW = st.dictionaries(COLUMN, VALUE, max_size=5)
NEARLY_GOOD = st.builds(lambda columns: {**GOOD[0], "id": "near", **columns}, ROW)


def as_line(value) -> bytes:
    """One JSON line; Python's writer lets NaN and half surrogates through, which is wanted here."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass").replace(b"\n", b" ")


def damaged(line: bytes, place: float, junk: bytes) -> bytes:
    at = int(place * len(line))
    return (line[:at] + junk + line[at + len(junk) :]).replace(b"\n", b" ")


LINE = st.one_of(
    NEARLY_GOOD.map(as_line),
    ROW.map(as_line),
    VALUE.map(as_line),
    st.builds(damaged, NEARLY_GOOD.map(as_line), st.floats(0, 1), st.binary(min_size=1, max_size=6)),
    st.binary(max_size=40).map(lambda data: data.replace(b"\n", b" ")),
).filter(lambda line: line.strip())  # an empty line is no record


@settings(max_examples=RECORDS // PER_FILE, deadline=None, derandomize=True, database=None)
@given(st.lists(LINE, min_size=PER_FILE, max_size=PER_FILE))
def test_every_record_is_used_or_quarantined(lines):
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "captions.jsonl", Path(folder) / "out"
        content = b"\n".join([as_line(GOOD[0]), *lines, as_line(GOOD[1])]) + b"\n"
        source.write_bytes(content)
        out.mkdir()
        start = time.monotonic()
        done = build(
            lambda: read_captions(source), out, Options([Operator("order_swap"), Operator("truncated")], balance="off")
        )
        assert time.monotonic() - start < SLOWEST
        assert source.read_bytes() == content
        assert done.rows == len(lines) + 2 == done.pairs + done.quarantined + done.without_negative
        told = [json.loads(line) for line in (out / "rejected_rows.jsonl").read_text("ascii").splitlines()]
        assert len(told) == done.quarantined
        places = {one["where"] for one in told}
        assert len(places) == len(told) and places <= {f"{source}:{k}" for k in range(2, len(lines) + 2)}
        assert all(one["reasons"] and all(one["reasons"]) for one in told)
