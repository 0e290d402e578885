"""The torture test sees what it is there to see: a lost row, a doubled one, another weight, another result."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from rlkit import listing
from tests.torture import jobs
from tests.torture.torture import Tally, compare

LINES = [{"id": f"c{n}", "loss": n / 7, "time_s": n} for n in range(5)]


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def both(tmp_path):
    """Two run folders that differ in the clock alone."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    (whole / "final").mkdir(parents=True)
    save_file({"w": torch.arange(3.0)}, whole / "final/model.safetensors")
    (whole / "metrics.jsonl").write_text(lines(LINES))
    (whole / "results.json").write_text(json.dumps({"systems": {"a": {"reward": {"value": 1.0, "seconds": 3}}}}))
    pq.write_table(pa.table({"id": ["p0", "p1", "p2", "p3"]}), whole / "pairs-00000.parquet")
    shutil.copytree(whole, cut)
    (cut / "metrics.jsonl").write_text(lines({**row, "time_s": 99} for row in LINES))
    return whole, cut


def tally(both) -> Tally:
    found = Tally()
    compare(*both, found)
    return found


def test_the_clock_is_no_difference(both):
    assert not tally(both).bad()


def test_caches_may_differ(both):
    (both[0] / "pairs/.arrow").mkdir(parents=True)
    (both[0] / "pairs/.arrow/pairs-00000-17.arrow").write_bytes(b"cache")
    assert not tally(both).bad()


def test_ddpo_gets_the_generator_that_it_trains():
    assert "START/epsilon" in jobs.RECIPES["ddpo"] and "START/flow" not in jobs.RECIPES["ddpo"]


def test_rows_lost_and_doubled_are_counted(both):
    (both[1] / "metrics.jsonl").write_text(lines([LINES[0], *LINES[:3]]))
    found = tally(both)
    assert (found.lost, found.doubled, found.weights, found.other) == (2, 1, 0, [])
    pq.write_table(pa.table({"id": ["p0", "p1", "p2"]}), both[1] / "pairs-00000.parquet")
    assert tally(both).lost == 3


def test_another_weight_a_result_and_a_missing_file_are_told(both):
    save_file({"w": torch.tensor([0.0, 1.0, 2.0000002])}, both[1] / "final/model.safetensors")
    (both[1] / "results.json").write_text(json.dumps({"systems": {"a": {"reward": {"value": 1.1, "seconds": 3}}}}))
    (both[1] / "metrics.jsonl").unlink()
    found = tally(both)
    assert found.weights == 1 and found.other == ["metrics.jsonl is missing", "results.json: systems"]


def test_every_algorithm_is_tortured():
    assert set(jobs.RECIPES) == {name for name, _ in listing.rows("algorithms")} - {
        "compare",
        "feedback",
    }  # made of others; a minute of arithmetic
