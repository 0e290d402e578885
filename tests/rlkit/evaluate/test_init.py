"""`rlkit eval`: the table of a finished run, and what it says of others."""

import json
import subprocess
import sys

import pytest

from rlkit import evaluate
from rlkit.errors import RunFolderError


@pytest.fixture
def folder(tmp_path):
    interval = {"value": 0.528, "low": 0.5, "high": 0.55, "n": 500}
    systems = {"base": {"order_exact": interval, "skill_colour": interval}, "dpo": {"order_exact": interval}}
    (tmp_path / "results.json").write_text(json.dumps({"complete": True, "systems": systems}))
    return tmp_path


def test_the_table_is_that_of_results_json(folder, capsys):
    assert evaluate.main([str(folder)]) == 0
    text = capsys.readouterr().out
    assert "| base model | 52.8 (50.0–55.0) |" in text and "colour" not in text


def test_metrics_can_be_chosen(folder, capsys):
    evaluate.main([str(folder), "--metrics", "skill_colour"])
    assert "| system | colour, % ↑ |" in capsys.readouterr().out


def test_an_unfinished_run_and_an_unknown_metric_are_named(folder, tmp_path):
    with pytest.raises(RunFolderError, match="no metric 'order_exat'"):
        evaluate.results_table(folder, ["order_exat"])
    (tmp_path / "results.json").unlink()
    with pytest.raises(RunFolderError, match=r"no results\.json yet"):
        evaluate.results_table(tmp_path)


def test_no_torch_is_imported():
    code = (
        "import sys, rlkit.evaluate, rlkit.report.compare_table, rlkit.report.page; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
