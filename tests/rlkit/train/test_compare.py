"""A comparison runs every system for every seed from its start and pools clips and seeds."""

import json
import shutil

import pytest
from transformers import AutoModelForImageTextToText

from rlkit.errors import RlkitError
from rlkit.run import run

RECIPE = """\
algorithm: compare
evaluate: {num_clips: 4, controls: [blind]}
compare:
  seeds: [0, 1]
  systems:
    base: {recipe: base_caption.yaml, SEEDSset: {train.max_steps: 2}}
    more: {recipe: base_caption.yaml, start: START, set: {train.max_steps: 0}}
"""


def compare(chain, folder, start="base", seeds=""):
    shutil.copy(chain / "base_caption.yaml", folder)
    (folder / "both.yaml").write_text(RECIPE.replace("START", start).replace("SEEDS", seeds), encoding="utf-8")
    run("both.yaml")


def test_systems_and_seeds_are_pooled(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compare(chain, tmp_path)
    results = json.loads((tmp_path / "runs/both/results.json").read_text())
    assert set(results["systems"]) == {"base", "more"}
    assert len(results["cost"]["train_seconds"]["base"]) == 2
    assert results["systems"]["base"]["event_recall"]["n"] == 8  # 4 clips, 2 seeds
    # zero steps from a start is the start: the paired difference is 0 for every metric
    assert all(one["value"] in (0.0, None) for one in results["differences"]["more"]["base"].values())
    states = [
        AutoModelForImageTextToText.from_pretrained(tmp_path / f"runs/both/{name}-seed1/final").state_dict()
        for name in ("base", "more")
    ]
    assert all((tensor == states[1][name]).all() for name, tensor in states[0].items())
    assert (tmp_path / "runs/both/table.md").read_text().startswith("| system |")


def test_a_shared_start_is_trained_once_and_its_row_is_paired_with_every_seed(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compare(chain, tmp_path, seeds="seeds: [1], ")
    results = json.loads((tmp_path / "runs/both/results.json").read_text())
    assert sorted(path.name for path in (tmp_path / "runs/both").glob("*-seed*")) == [
        "base-seed1",
        "more-seed0",
        "more-seed1",
    ]
    assert len(results["cost"]["train_seconds"]["base"]) == 1
    assert [results["systems"][name]["event_recall"]["n"] for name in ("base", "more")] == [4, 8]
    # zero steps from the one start: both seeds hold its weights
    states = [
        AutoModelForImageTextToText.from_pretrained(tmp_path / f"runs/both/{name}/final").state_dict()
        for name in ("base-seed1", "more-seed0", "more-seed1")
    ]
    assert all((tensor == other[name]).all() for other in states[1:] for name, tensor in states[0].items())
    assert all(one["value"] in (0.0, None) for one in results["differences"]["more"]["base"].values())


def test_a_start_that_is_no_system_is_named(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RlkitError, match=r"more\.start' is 'nothing', which is no system above it"):
        compare(chain, tmp_path, start="nothing")
