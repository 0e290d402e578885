"""The run folder: appended metrics that survive a kill, whole files, and refusal of what is not its own."""

import json
import math
import os
import re
from pathlib import Path

import pytest

from rlkit.errors import RunFolderError
from rlkit.recipe.file import load_chain
from rlkit.running.folder import RunFolder, lock, prepare, write_text


@pytest.fixture
def step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("algo.py").write_text("def run(recipe, folder): ...\n")
    Path("mine.yaml").write_text("algorithm: ./algo.py\nseed: 3\n")
    return load_chain("mine.yaml")[-1]


def lines(folder):
    return [{name: value for name, value in line.items() if name != "time"} for line in folder.metrics()]


def test_log_is_one_flat_json_line_with_its_time_apart(tmp_path):
    RunFolder(tmp_path).log({"loss": 0.5, "rewards/margins": 2, "kind": "order_swap"}, step=3)
    (line,) = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line.pop("time") > 0
    assert line == {"step": 3, "loss": 0.5, "rewards/margins": 2, "kind": "order_swap"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null(tmp_path, value):
    # NaN is no JSON: the report's JavaScript could not read the file.
    RunFolder(tmp_path).log({"loss": value}, step=1)
    assert lines(RunFolder(tmp_path)) == [{"step": 1, "loss": None}]


def test_numpy_and_torch_numbers(tmp_path):
    import numpy

    RunFolder(tmp_path).log({"a": numpy.float32(0.5), "b": numpy.int64(2)}, step=1)
    assert lines(RunFolder(tmp_path)) == [{"step": 1, "a": 0.5, "b": 2}]


def test_half_a_line_left_by_a_kill_is_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log({"loss": 1}, step=1)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert lines(folder) == [{"step": 1, "loss": 1}]
    folder.resume_at(1)
    folder.log({"loss": 2}, step=2)
    assert lines(folder) == [{"step": 1, "loss": 1}, {"step": 2, "loss": 2}]


def test_interrupted_and_resumed_metrics_equal_uninterrupted_ones(tmp_path):
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    for folder in (whole, cut):
        folder.path.mkdir()
    for number in range(1, 7):
        whole.log({"loss": 1 / number}, number)
    for number in range(1, 6):  # killed after step 5, last checkpoint at 4
        cut.log({"loss": 1 / number}, number)
    cut.resume_at(4)
    for number in range(5, 7):
        cut.log({"loss": 1 / number}, number)
    assert lines(cut) == lines(whole)


def test_resume_at_none_starts_over(tmp_path):
    folder = RunFolder(tmp_path)
    folder.log({"loss": 1}, step=0)
    folder.resume_at(None)
    assert folder.metrics() == []


def test_only_the_main_process_writes(tmp_path):
    other = RunFolder(tmp_path, main=False)
    other.log({"loss": 1}, step=1)
    other.write_json("a.json", {})
    other.finish({})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    write_text(tmp_path / "results.json", "old")

    def cut_off(descriptor):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", cut_off)
    with pytest.raises(OSError, match="no space"):
        write_text(tmp_path / "results.json", "new")
    assert (tmp_path / "results.json").read_text() == "old"


def test_finish_comes_last_and_says_so(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_json("results.json", {"systems": {}})
    assert not folder.finished
    folder.finish({"systems": {"base": {}}})
    assert folder.finished
    assert json.loads((tmp_path / "results.json").read_text()) == {"complete": True, "systems": {"base": {}}}


def test_half_written_checkpoints_do_not_count(tmp_path):
    folder = RunFolder(tmp_path)
    for number in (5, 10, 100):
        (folder.checkpoints / f"checkpoint-{number}").mkdir(parents=True)
    folder.checkpoint_complete(5)
    folder.checkpoint_complete(10)
    assert folder.last_checkpoint() == folder.checkpoints / "checkpoint-10"
    assert not (folder.checkpoints / "checkpoint-100").exists()


def test_parts_have_metrics_of_their_own(tmp_path):
    RunFolder(tmp_path).part("dpo_k1").log({"loss": 1}, step=1)
    assert (tmp_path / "dpo_k1" / "metrics.jsonl").is_file()
    assert RunFolder(tmp_path).metrics() == []


def test_start_resume_finished(step):
    folder, state = prepare(step, main=True)
    assert state == "start"
    assert prepare(step, main=True)[1] == "resume"
    folder.finish({})
    assert prepare(step, main=True)[1] == "finished"


def test_the_copy_in_the_folder_is_the_same_run(step):
    prepare(step, main=True)
    (copy,) = load_chain(step.out / "recipe.yaml")
    assert (copy.out, copy.name) == (step.out, "mine")
    assert prepare(copy, main=True)[1] == "resume"


def test_a_moved_run_folder_is_still_the_same_run(step, tmp_path):
    prepare(step, main=True)
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "runs" / "mine").rename(tmp_path / "elsewhere" / "mine")
    (copy,) = load_chain(tmp_path / "elsewhere" / "mine" / "recipe.yaml")
    assert prepare(copy, main=True)[1] == "resume"


def test_another_recipes_run_stops_with_the_difference_and_changes_nothing(step):
    prepare(step, main=True)
    before = {path: path.read_bytes() for path in step.out.iterdir()}
    (other,) = load_chain("mine.yaml", ["seed=4", "train.max_steps=9"])
    with pytest.raises(RunFolderError) as caught:
        prepare(other, main=True)
    assert "seed: 3 in the folder, 4 asked for" in str(caught.value)
    assert "train.max_steps: -1 in the folder, 9 asked for" in str(caught.value)
    assert {path: path.read_bytes() for path in step.out.iterdir()} == before


def test_a_key_added_since_does_not_make_it_another_recipe(step):
    # A newer version has more keys; those absent in the stored recipe have their defaults.
    prepare(step, main=True)
    stored = step.out / "recipe.yaml"
    stored.write_text(re.sub(r"(?m)^num_negatives: 1\n", "", stored.read_text()))
    assert prepare(step, main=True)[1] == "resume"


def test_a_folder_of_something_else_is_left_alone(step):
    step.out.mkdir(parents=True)
    (step.out / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match=r"holds thesis.tex but no recipe.yaml"):
        prepare(step, main=True)
    assert [path.name for path in step.out.iterdir()] == ["thesis.tex"]


def test_a_file_where_the_folder_belongs(step):
    step.out.parent.mkdir()
    step.out.write_text("")
    with pytest.raises(RunFolderError, match="a file where the run folder belongs"):
        prepare(step, main=True)


def test_two_processes_cannot_run_in_one_folder(tmp_path):
    first = lock(tmp_path)
    with pytest.raises(RunFolderError, match="another process is running here"):
        lock(tmp_path)
    first.close()
    lock(tmp_path).close()


def test_env_json_has_versions_and_no_private_facts(step, tmp_path):
    prepare(step, main=True)
    text = (step.out / "env.json").read_text()
    env = json.loads(text)
    assert env["packages"]["torch"] and env["cpu"]["cores"] >= 1
    for private in (os.uname().nodename, str(tmp_path), str(Path.home()) + "/"):
        assert private not in text
