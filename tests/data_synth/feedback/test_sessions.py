"""Did the viewer go on: by hand, with what cannot be known left open; and what the planted items are worth by it."""

from dataclasses import replace

import numpy as np
import pytest

from data_synth.errors import DataError
from data_synth.feedback.schema import Log
from data_synth.feedback.sessions import continued


def log_of(session, time, end: float) -> Log:
    rows, time = len(session), np.array(time, float)
    zeros = np.zeros(rows, np.int64)
    return Log(
        ["p"], ["i"], ["i"], prompt=zeros, item=zeros, context=zeros, position=zeros + 1, click=np.ones(rows),
        session=np.array(session), time=time, elapsed=end - time,
    )  # fmt: skip


def test_by_hand_in_any_order():
    session = [1, 0, 0, 0, 1, 2]
    time = [50, 10, 10, 40, 900, 990]  # two items on the first page of session 0
    found = continued(log_of(session, time, end=1_000), gap=100)
    # session 1 pauses for too long; the log ends before it can be seen whether sessions 1 and 2 go on
    assert np.array_equal(found, [0.0, 1.0, 1.0, 0.0, np.nan, np.nan], equal_nan=True)


def test_the_end_of_the_log_is_not_the_end_of_a_session():
    """A session cut by the log's end says nothing; counted as 0 it would make late items look dull."""
    found = continued(log_of([0], [95], end=100), gap=10)
    assert np.isnan(found).all()
    assert continued(log_of([0], [80], end=100), gap=10).tolist() == [0.0]


def test_without_times_there_is_no_continuation():
    log = replace(log_of([0], [1], end=2), time=None)
    with pytest.raises(DataError, match="needs the columns `session` and `time`"):
        continued(log, gap=1)
