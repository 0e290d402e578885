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


def compare(chain, folder, start="base", seeds="", overrides=()):
    shutil.copy(chain / "base_caption.yaml", folder)
    (folder / "both.yaml").write_text(RECIPE.replace("START", start).replace("SEEDS", seeds), encoding="utf-8")
    run("both.yaml", overrides)


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


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_several_at_once_give_the_bytes_of_one_after_the_other(chain, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = []
    for workers in (1, 2):
        place = tmp_path / str(workers)
        place.mkdir()
        monkeypatch.chdir(place)
        compare(chain, place, overrides=[f"compare.workers={workers}"])
        weights = {path.parts[-3]: path.read_bytes() for path in place.glob("runs/both/*/final/model.safetensors")}
        results = json.loads((place / "runs/both/results.json").read_text())
        found.append((weights, results["systems"], results["differences"]))
    assert found[0] == found[1] and len(found[0][0]) == 4
    told = capsys.readouterr().out
    assert "4 systems to train, 2 at once" in told and "4 of 4" in told
    assert "training" in (place / "runs/both/base-seed0.log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_system_that_fails_is_named_and_the_rest_goes_on_later(chain, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    compare_file = RECIPE.replace("START", "base").replace("SEEDS", "").replace("[0, 1]", "[0]")
    shutil.copy(chain / "base_caption.yaml", tmp_path)
    (tmp_path / "both.yaml").write_text(compare_file)
    (tmp_path / "runs/both/more-seed0").mkdir(parents=True)
    (tmp_path / "runs/both/recipe.yaml").symlink_to(tmp_path / "both.yaml")
    (tmp_path / "runs/both/more-seed0/mine.txt").write_text("a file that is in the way")
    with pytest.raises(RlkitError, match=r"more-seed0: .*holds mine.txt but no recipe.yaml.*more-seed0\.log"):
        run("both.yaml", ["compare.workers=2"])
    (tmp_path / "runs/both/more-seed0/mine.txt").unlink()
    capsys.readouterr()
    run("both.yaml", ["compare.workers=2"])
    assert "1 systems to train" in capsys.readouterr().out  # base was finished
