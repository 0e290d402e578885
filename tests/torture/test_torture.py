"""The torture test sees what it is there to see: a lost row, a doubled one, another weight, another result."""

import json
import random
import shutil
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from rlkit import listing
from tests.torture import jobs, torture
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
    pq.write_table(pa.table({"id": ["p3"]}), both[1] / "pairs-00001.parquet")  # rows doubled in a file of their own
    found = tally(both)
    assert found.doubled == 2 and found.other == ["pairs-00001.parquet is one too many"]


def test_another_weight_a_result_and_a_missing_file_are_told(both):
    save_file({"w": torch.tensor([0.0, 1.0, 2.0000002])}, both[1] / "final/model.safetensors")
    (both[1] / "results.json").write_text(json.dumps({"systems": {"a": {"reward": {"value": 1.1, "seconds": 3}}}}))
    (both[1] / "metrics.jsonl").unlink()
    found = tally(both)
    assert found.weights == 1 and found.other == ["metrics.jsonl is missing", "results.json: systems"]
    (both[0] / "a.png").write_bytes(b"a")
    (both[1] / "a.png").write_bytes(b"b")
    assert "a.png looks different" in tally(both).other


def test_an_interrupted_torture_keeps_what_it_found_and_repeats_what_was_wrong(tmp_path):
    found = {"nft": Tally(3, 3), "dpo": Tally(2, 2, lost=1), "sft": Tally(1, 0, other=["it hung"])}
    torture.write(tmp_path, found, seed=7, complete=False)
    told = json.loads((tmp_path / "results.json").read_text())
    want = {"kills": 6, "resumes": 5, "lost_rows": 1, "doubled_rows": 0, "differing_weights": 0}
    assert told["systems"]["torture"] == {name: {"value": value} for name, value in want.items()}
    assert "| dpo | 2 | 2 | 1 | 0 | 0 | 0 |\n" in (tmp_path / "table.md").read_text()
    assert torture.kept(tmp_path / "results.json", seed=7) == {"nft": Tally(3, 3)}
    assert torture.kept(tmp_path / "results.json", seed=8) == {}


PARROT = """
import json, pathlib, time
out = pathlib.Path("out"); out.mkdir(exist_ok=True); path = out / "rows.jsonl"; aside = out / ".aside"
rows = path.read_text() if path.exists() and {resumes} else ""
for number in range(len(rows.splitlines()), 20):
    time.sleep(0.02)
    rows += json.dumps({{"n": number}}) + "\\n"
    aside.write_text(rows); aside.rename(path)
    {flaw}
print(json.dumps({{"rows": 20, "seconds": time.time()}}))
"""


def tortured(tmp_path, flaw="", resumes=True):
    command = [sys.executable, "-c", PARROT.format(flaw=flaw, resumes=resumes)]
    return torture.torture(jobs.Job("parrot", "", command), tmp_path / "parrot", 6, random.Random(1))


@pytest.mark.parametrize("resumes", [True, False])
def test_a_job_that_goes_on_or_starts_over_comes_through(tmp_path, resumes):
    found = tortured(tmp_path, resumes=resumes)
    assert (found.kills, found.resumes, found.bad()) == (6, 6, False)


def test_a_job_that_doubles_a_row_when_it_is_killed_is_found_out(tmp_path):
    flaw = "(out / 'more.jsonl').open('a').write(json.dumps({'n': number}) + '\\n')"
    found = tortured(tmp_path, flaw=flaw, resumes=False)
    assert found.doubled > 0 and found.bad()


def test_every_algorithm_is_tortured():
    assert set(jobs.RECIPES) == {name for name, _ in listing.rows("algorithms")}
    assert {job.name for job in jobs.all_jobs()} >= {"score, server", "score, server, 2 ranks", "negatives", "pick"}
