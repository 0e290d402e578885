"""Logs as users have them: every mistake named with its column and row, nothing lost, parquet and JSON lines alike."""

import json
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_synth.errors import DataError
from data_synth.feedback import schema
from data_synth.feedback.schema import read_log
from data_synth.feedback.simulate import World, simulate


def row(number: int, **changes) -> dict:
    """A good row of a log."""
    good = {
        "prompt": "p",
        "item": f"i{number % 3}",
        "completion": f"text {number % 3}",
        "position": number % 2 + 1,
        "propensity": 0.5,
        "context": "new",
        "click": 1,
        "conversion": 1,
        "conversion_delay": 5.0,
        "time": 100.0 + number,
        "elapsed": 500.0,
        "session": f"s{number // 2}",
        "reported": 0,
    }
    return good | changes


def write(tmp_path, rows, name="log.jsonl"):
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["log.jsonl", "log.parquet"])
def test_a_good_log_is_read_as_it_is(tmp_path, name):
    rows = [row(n) for n in range(6)] + [row(99, click=0, conversion=0, conversion_delay=None, reported=None)]
    log = read_log(write(tmp_path, rows, name), extra=["reported"])
    assert len(log) == 7 and not log.rejected and not log.notes
    assert [log.items[i] for i in log.item] == [one["item"] for one in rows]
    assert [log.completions[i] for i in log.item] == [one["completion"] for one in rows]
    assert log.position.tolist() == [1, 2, 1, 2, 1, 2, 2]
    assert log.click.tolist() == [1] * 6 + [0]
    assert (log.elapsed == 500).all()
    assert np.isnan(log.conversion_delay).tolist() == [False] * 6 + [True]
    assert np.isnan(log.extra["reported"]).tolist() == [False] * 6 + [True]
    assert (np.bincount(log.session) == [2, 2, 2, 1]).all()


MISTAKES = [
    ({"click": 2}, "click: found 2, expected 0 or 1."),
    ({"click": None}, "click: found nothing, expected a number."),
    ({"propensity": 0.0}, "propensity: found 0, expected a probability above 0 and at most 1."),
    ({"propensity": 1.5}, "propensity: found 1.5, expected a probability above 0 and at most 1."),
    ({"position": 0}, "position: found 0, expected a whole number of at least 1."),
    ({"position": 1.5}, "position: found 1.5, expected a whole number of at least 1."),
    ({"item": None}, "item: found nothing, expected text."),
    ({"prompt": "  "}, "prompt: found nothing, expected text."),
    ({"conversion_delay": -1.0}, "conversion_delay: found -1, expected seconds, at least 0."),
    ({"conversion_delay": None}, "conversion_delay: found nothing beside a conversion of 1."),
    ({"conversion": 0}, "conversion_delay: found 5 beside a conversion of 0."),
    ({"click": 0}, "conversion: is 1 without a click; only conversions after a click count."),
    (
        {"conversion_delay": 1e6},
        "conversion_delay: 1e+06 s is later than the end of observation, 500 s after the showing.",
    ),
]


@pytest.mark.parametrize("name", ["log.jsonl", "log.parquet"])
@pytest.mark.parametrize(("change", "reason"), MISTAKES)
def test_each_mistake_is_named_and_its_row_set_aside(tmp_path, name, change, reason):
    rows = [row(n) for n in range(60)]
    rows[2] |= change
    path = write(tmp_path, rows, name)
    log = read_log(path)
    assert (len(log), len(log.rejected)) == (59, 1)
    assert reason in log.rejected[0].reasons
    assert log.rejected[0].where == (f"{path}:3" if name.endswith("jsonl") else f"{path}:row 2")
    assert log.rejected[0].row["session"] == "s1"
    assert log.reasons()[reason.split(":")[0]] == 1
    schema.write_rejected(log.rejected, tmp_path / "rejected_rows.jsonl")
    (told,) = (json.loads(line) for line in (tmp_path / "rejected_rows.jsonl").read_text().splitlines())
    assert reason in told["reasons"] and told["row"]["session"] == "s1"


def test_json_has_times_as_text_and_flags_as_true_and_false(tmp_path):
    rows = [row(n, click=True, reported=False) for n in range(2)]
    rows[0]["time"], rows[1]["time"] = "2026-01-01T00:00:00Z", "2026-01-01T02:01:00+02:00"
    log = read_log(write(tmp_path, rows), extra=["reported"])
    assert log.time == pytest.approx([1767225600, 1767225660]) and not log.rejected
    assert log.click.tolist() == [1, 1] and log.extra["reported"].tolist() == [0, 0]


@pytest.mark.parametrize("value", ["yes", [1], {"a": 1}, True])
def test_values_of_another_type_in_json_lines(tmp_path, value):
    rows = [row(n) for n in range(40)]
    rows[7]["position"] = value
    log = read_log(write(tmp_path, rows))
    assert log.rejected[0].reasons[0] == "position: found a value of another type, expected a number."
    assert log.rejected[0].row["position"] == value  # as it was found


def test_a_broken_line_is_a_rejected_row(tmp_path):
    path = write(tmp_path, [row(n, conversion=0, conversion_delay=None) for n in range(30)])
    path.write_text(path.read_text() + '{"prompt": \n')
    log = read_log(path)
    assert (len(log), len(log.rejected)) == (30, 1) and "not JSON" in log.rejected[0].reasons[0]


@pytest.mark.parametrize("name", ["log.jsonl", "log.parquet"])
def test_a_showing_logged_twice_counts_once(tmp_path, name):
    rows = [row(n, conversion=0, conversion_delay=None) for n in range(30)]
    log = read_log(write(tmp_path, [*rows, rows[4]], name))
    assert len(log) == 30
    assert log.rejected[0].reasons == ["session: repeats an earlier row: the same showing was logged twice."]
    assert log.rejected[0].where.endswith(("31", "row 30"))


def test_timestamps_are_seconds(tmp_path):
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    rows = [row(n, time=start + timedelta(seconds=90 * n), elapsed=None) for n in range(4)]
    for one in rows:
        del one["elapsed"]
    rows[1]["conversion_delay"] = 400.0
    log = read_log(write(tmp_path, rows, "log.parquet"))
    assert log.elapsed == pytest.approx([490, 400, 310, 220])  # the conversion is the last event of the log
    assert log.time[0] == pytest.approx(start.timestamp())


def test_missing_columns_and_files_are_errors(tmp_path):
    rows = [{"prompt": "p", "item": 3, "clicked": 1}]
    with pytest.raises(DataError, match=r"has no column 'click'; found prompt, item, clicked. Did you mean 'clicked'"):
        read_log(write(tmp_path, rows))
    log = read_log(write(tmp_path, rows), rename={"click": "clicked"})
    assert log.click.tolist() == [1] and log.items == ["3"] and log.completions == ["3"]
    assert log.propensity is None and log.time is None and log.position.tolist() == [1]
    with pytest.raises(DataError, match="has no column 'reported'"):
        read_log(write(tmp_path, rows), rename={"click": "clicked"}, extra=["reported"])
    with pytest.raises(DataError, match="no such file"):
        read_log(tmp_path / "gone.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="not a parquet file"):
        read_log(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="rename has 'klick'"):
        read_log(write(tmp_path, rows), rename={"klick": "clicked"})
    with pytest.raises(DataError, match="column 'click' is string, expected numbers"):
        read_log(write(tmp_path, [row(0, click="1")], "log.parquet"))


def test_a_propensity_under_another_name_is_not_overlooked(tmp_path):
    rows = [{"prompt": "p", "item": "a", "click": 1, "propensity_score": 0.1}]
    log = read_log(write(tmp_path, rows))
    assert log.notes == [
        "column 'propensity_score' was not read; if it is the propensity, say rename: {propensity: propensity_score}"
    ]


def test_one_item_with_two_texts_is_an_error(tmp_path):
    with pytest.raises(DataError, match="item 'i0' has several completions"):
        read_log(write(tmp_path, [row(0), row(3, completion="another")]))


def test_a_log_of_mostly_bad_rows_is_refused(tmp_path):
    rows = [row(n, conversion=0, conversion_delay=None) for n in range(20)]
    for one in rows[:3]:
        one["click"] = 7
    with pytest.raises(DataError, match=r"3 of 20 rows cannot be used, more than 10%; the first, .*:1: click: found 7"):
        read_log(write(tmp_path, rows))


cell = st.one_of(st.none(), st.booleans(), st.floats(), st.integers(-3, 3), st.text(max_size=3))
line = st.fixed_dictionaries({"prompt": cell, "item": cell, "click": cell}, optional={"position": cell, "time": cell})


@settings(max_examples=150, deadline=None)
@given(st.lists(line, max_size=5))
def test_any_rows_are_read_or_rejected_or_the_log_is_refused(tmp_path_factory, rows):
    good = [{"prompt": "p", "item": "i", "click": 0, "position": 1, "time": 1.0}] * 60
    path = tmp_path_factory.mktemp("any") / "log.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in good + rows), encoding="utf-8")
    log = read_log(path)
    assert len(log) + len(log.rejected) == 60 + len(rows) and len(log) >= 60
    assert np.isin(log.click, [0, 1]).all()


def test_the_simulators_table_is_its_log(tmp_path):
    made = simulate(World(prompts=2, items=4, sessions=80, rounds=2), seed=3)
    pq.write_table(made.table(), tmp_path / "log.parquet")
    read, held = read_log(tmp_path / "log.parquet", extra=["reported"]), made.log()
    assert not read.rejected
    assert [read.items[i] for i in read.item] == [held.items[i] for i in held.item]
    assert [read.completions[i] for i in read.item] == [held.completions[i] for i in held.item]
    for name in ("click", "position", "propensity", "conversion", "conversion_delay", "time"):
        assert np.array_equal(getattr(read, name), getattr(held, name), equal_nan=True)
    assert np.array_equal(read.extra["reported"], held.extra["reported"], equal_nan=True)
    # the reader knows of the last event only, not of the end that the simulator planned
    assert np.ptp(held.elapsed - read.elapsed) < 1e-6
