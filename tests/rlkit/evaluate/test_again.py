"""Finished models are measured again on other clips; the numbers of the same clips are those that the run stored."""

import json
import shutil
from pathlib import Path

import pytest

from rlkit import evaluate
from rlkit.cli import dispatch
from rlkit.errors import RlkitError
from rlkit.evaluate.again import measure_again, models_of
from rlkit.evaluate.held_out import read_rows
from rlkit.run import run

FIXTURE = Path(__file__).parents[2] / "fixtures" / "bigbuckbunny.mp4"


@pytest.fixture(scope="module")
def finished(chain, tmp_path_factory):
    """A copy of the chain's finished runs."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(chain, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def here(finished, monkeypatch):
    monkeypatch.chdir(finished)
    return finished


def test_the_same_clips_give_the_stored_numbers_and_leave_the_results_alone(here):
    before = Path("runs/dpo_caption/results.json").read_bytes()
    out = measure_again(["runs/dpo_caption"])
    assert out.parent == Path("runs/dpo_caption").resolve() / "evaluations"
    assert read_rows(out / "dpo/evaluation.jsonl") == read_rows(Path("runs/dpo_caption/evaluation.jsonl"))
    again = json.loads((out / "results.json").read_text())["systems"]
    assert again == {"dpo": json.loads(before)["systems"]["dpo"]}
    assert Path("runs/dpo_caption/results.json").read_bytes() == before


def test_more_clips_begin_with_the_same_ones_and_other_controls_are_added(here):
    out = measure_again(["runs/dpo_caption/final"], ["evaluate.num_clips=6", "evaluate.controls=[other_clip]"])
    rows, stored = read_rows(out / "dpo/evaluation.jsonl"), read_rows(Path("runs/dpo_caption/evaluation.jsonl"))
    assert [row["id"] for row in rows[:4]] == [row["id"] for row in stored]
    assert [row["caption"] for row in rows[:4]] == [row["caption"] for row in stored]
    assert len(rows) == 6 and "other_clip_order_exact" in rows[0] and "blind_order_exact" not in rows[0]


def test_several_models_are_compared_clip_by_clip(here, capsys):
    names = ["runs/base_caption/final", "runs/dpo_caption/final", "runs/dpo_caption/variants/dpo_k1/final"]
    assert evaluate.main([*names, "evaluate.num_clips=3", "--out", "runs/side_by_side"]) == 0
    results = json.loads(Path("runs/side_by_side/results.json").read_text())
    assert list(results["systems"]) == ["base", "dpo", "dpo_k1"]
    value = {name: results["systems"][name]["length_words"]["value"] for name in results["systems"]}
    difference = results["differences"]["dpo"]["base"]["length_words"]["value"]
    assert difference == pytest.approx(value["dpo"] - value["base"])
    said = capsys.readouterr().out
    assert "| DPO, one negative |" in said and said.endswith("\nruns/side_by_side/results.json\n")


def test_what_was_measured_is_read_back(here):
    out = measure_again(["runs/base_caption"], ["evaluate.num_clips=2"])
    path = out / "base/evaluation.jsonl"
    before = path.stat().st_mtime_ns
    assert measure_again(["runs/base_caption"], ["evaluate.num_clips=2"]) == out
    assert path.stat().st_mtime_ns == before
    weights = Path("runs/base_caption/final/model.safetensors")
    weights.write_bytes(weights.read_bytes())  # trained again, for all that can be seen
    assert measure_again(["runs/base_caption"], ["evaluate.num_clips=2"]) != out


def test_a_model_of_no_run_is_measured_with_the_recipe_that_is_given(here, tmp_path):
    model = shutil.copytree("runs/base_caption/final", tmp_path / "elsewhere")
    with pytest.raises(RlkitError, match="no recipe says which clips to show"):
        measure_again([str(model)])
    out = measure_again([str(model)], ["evaluate.num_clips=2"], recipe_path=Path("runs/dpo_caption/recipe.yaml"))
    stored = read_rows(Path("runs/base_caption/evaluation.jsonl"))[:2]
    assert [row["caption"] for row in read_rows(out / "elsewhere/evaluation.jsonl")] == [
        row["caption"] for row in stored
    ]


def test_names_that_cannot_be_measured_are_refused(here, tmp_path):
    with pytest.raises(RlkitError, match=r"\./nothing: no such folder"):
        models_of(["./nothing"])
    with pytest.raises(RlkitError, match="neither a run folder"):
        models_of([str(tmp_path)])
    (tmp_path / "both").mkdir()
    (tmp_path / "both/recipe.yaml").write_text("algorithm: compare\n")
    (tmp_path / "both/dpo-seed0/final").mkdir(parents=True)
    with pytest.raises(RlkitError, match=r"has no final/.*Name one of its systems: .*both/dpo-seed0\."):
        models_of([str(tmp_path / "both")])
    with pytest.raises(
        RlkitError, match=r"override train\.max_steps=3: measuring reads the keys of evaluate, data, model"
    ):
        measure_again(["runs/base_caption"], ["train.max_steps=3"])
    with pytest.raises(RlkitError, match="no such file or folder: runs/nowhere"):
        dispatch(["eval", "runs/nowhere"])


def test_two_models_of_one_name_are_told_apart(here):
    same = "runs/base_caption"
    assert models_of([same, f"{same}/final"]) == {"base": f"{same}/final", "base-2": f"{same}/final"}


def test_of_a_folder_of_clips_only_what_the_run_held_out_is_measured(here, tmp_path):
    def clips(name, count):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(count):
            shutil.copy(FIXTURE, folder / f"{number}.mp4")
        lines = [
            json.dumps(
                {"id": f"{name}-{n}", "video": f"{n}.mp4", "caption": f"A rabbit sleeps {n} hours. Then it wakes."}
            )
            for n in range(count)
        ]
        (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    recipe = Path("mine.yaml")
    recipe.write_text(
        "algorithm: sft\nmodel: {id: runs/base_caption/final}\n"
        f"data: {{source: folder, folder: {clips('own', 10)}, num_frames: 4, frame_size: 56}}\n"
        "train: {max_steps: 1, per_device_train_batch_size: 2}\n"
        "evaluate: {num_clips: 2, max_new_tokens: 4, controls: []}\n"
    )
    run(recipe)
    out = measure_again(["runs/mine"])
    assert [row["id"] for row in read_rows(out / "mine/evaluation.jsonl")] == ["own-4", "own-9"]
    with pytest.raises(
        RlkitError, match=r"evaluate.num_clips is 5, but there are 2 clips that this run did not train on"
    ):
        measure_again(["runs/mine"], ["evaluate.num_clips=5"])
    out = measure_again(["runs/mine"], [f"data.folder={clips('other', 3)}", "evaluate.num_clips=3"])
    assert [row["id"] for row in read_rows(out / "mine/evaluation.jsonl")] == ["other-0", "other-1", "other-2"]
