"""Self-bootstrapping end to end on tiny pipelines: results, ledger, kills, other families, bad folders."""

import collections
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("diffusers")

from data_synth.world import look
from rlkit.errors import DataError, GateError, GuardError, RecipeError
from rlkit.generators.bootstrap import mixture
from rlkit.plugins import ROOT
from rlkit.recipe.file import load
from rlkit.run import run as launch

RECIPE = """\
algorithm: bootstrap
model:
  id: {model}
  lora: {{r: 4, lora_alpha: 8.0}}
rewards: [./counted.py]
sampling: {{gate: off}}
generation: {{resolution: 16, num_inference_steps: 2, eval_inference_steps: 2, eval_samples: 2, gallery_prompts: 1}}
bootstrap: {{rounds: 2, num_samples: 24, keep_share: 0.25, clusters: 3, rows_per_shard: 8, num_class_images: 12,
  max_diversity_drop: 1.0, patience: 9, trigger: null}}
guard: {{num_prompts: 1, num_samples: 2}}
train: {{learning_rate: 1.0e-2, per_device_train_batch_size: 4, max_steps: 2, logging_steps: 1, save_steps: 1}}
data: {{num_clips: 8}}
evaluate: {{num_clips: 2}}
"""
# Redness; writes down how many pictures it was asked for, and ends the process, or raises, at the call of stop_at.
COUNTED = """\
import os, signal
from pathlib import Path
import numpy as np
def load(device="cpu"):
    def score(*, prompts, completions, **_):
        calls = Path("calls")
        with calls.open("a") as file:
            file.write(f"{len(completions)}\\n")
        stop = Path("stop_at")
        if stop.is_file() and len(calls.read_text().splitlines()) == int(stop.read_text()):
            stop.unlink()
            if Path("gently").is_file():
                raise RuntimeError("power cut")
            os.kill(os.getpid(), signal.SIGKILL)
        return [float(np.asarray(one, np.float64)[..., 0].mean()) for one in completions]
    return score
"""


@pytest.fixture
def recipe_file(flow_folder, workplace, tmp_path):
    (tmp_path / "counted.py").write_text(COUNTED)
    return lambda model=flow_folder: workplace("tiny", RECIPE.format(model=model))


@pytest.fixture(scope="module")
def finished(flow_folder, tmp_path_factory):
    """The folder of an uninterrupted run, and how many pictures each call of its reward was asked for."""
    place = tmp_path_factory.mktemp("bootstrap")
    (place / "counted.py").write_text(COUNTED)
    (place / "tiny.yaml").write_text(RECIPE.format(model=flow_folder))
    before = Path.cwd()
    os.chdir(place)
    try:
        folder = launch(place / "tiny.yaml")[-1]
    finally:
        os.chdir(before)
    return folder, [int(line) for line in (place / "calls").read_text().split()]


def test_results_hold_both_systems_and_what_they_were_in_every_round(finished):
    folder, _ = finished
    results = folder.results()
    assert list(results["systems"]) == ["ours", "naive"] and results["complete"]
    names = {f"{name}_{when}" for name in ("acceptance", "held_out", "diversity") for when in ("first", "last")}
    for name, system in results["systems"].items():
        assert names | {"copies", "prior_reward_first", "prior_reward_last"} <= set(system)
        assert all(np.isfinite(one["value"]) for one in system.values())
        told = results["rounds"][name]["0"]
        assert [one["round"] for one in told] == [1, 2]
        last = told[results["kept_round"][name][0] - 1]
        for metric in ("acceptance", "held_out", "diversity"):
            assert system[f"{metric}_first"]["value"] == pytest.approx(told[0][metric])
            assert system[f"{metric}_last"]["value"] == pytest.approx(last[metric])
    first = [results["systems"][name]["held_out_first"] for name in ("ours", "naive")]
    assert first[0] == first[1]  # they share the first round
    assert "round 2" in (folder.path / "report.html").read_text()


def test_the_ledger_says_of_every_sample_where_it_came_from_and_why_it_was_kept(finished):
    folder, _ = finished
    rows = pq.read_table(folder.path / "ledger.parquet").to_pylist()
    assert len(rows) == 2 * 2 * 24 == len({row["sample_id"] for row in rows})
    weights = {(row["system"], row["round"]): row["weights"] for row in rows}
    assert len(set(weights.values())) == 3 and weights["ours", 1] == weights["naive", 1]
    assert all((folder.path / row["shard"]).is_file() and row["reason"] for row in rows)
    for row in rows:
        assert row["copy"] == (row["nearest_distance"] < row["copy_distance"])
        assert row["kept"] == (row["reason"] == "kept")
        if row["system"] == "ours" and row["kept"]:
            assert row["accepted"] and not row["copy"]
    per_cluster = collections.Counter(
        (row["round"], row["cluster"]) for row in rows if row["kept"] and row["system"] == "ours"
    )
    assert per_cluster and max(per_cluster.values()) <= 2  # 24 x 0.25 in three clusters
    naive = [row for row in rows if row["system"] == "naive" and row["round"] == 1]
    best = sorted(naive, key=lambda row: -row["reward"])[:6]
    assert {row["sample_id"] for row in best} == {row["sample_id"] for row in naive if row["kept"]}
    drawn = {
        name: [(row["prompt"], row["seed"]) for row in rows if row["system"] == name] for name in ("ours", "naive")
    }
    assert drawn["ours"] == drawn["naive"]  # the same prompts and seeds
    assert not {row["prompt"] for row in rows} & {row["nearest_original"] for row in rows}  # no original's prompt


def test_the_adapter_loads_in_stock_diffusers_and_is_that_of_the_kept_round(finished, flow_folder):
    from diffusers import DiffusionPipeline
    from safetensors.torch import load_file

    folder, _ = finished
    pipe = DiffusionPipeline.from_pretrained(flow_folder)
    pipe.load_lora_weights(str(folder.final))
    number = folder.results()["kept_round"]["ours"][0]
    part = folder.path / ("start-seed0/round-1" if number == 1 else f"ours-seed0/round-{number}")
    ours = load_file(part / "weights.safetensors")
    saved = load_file(folder.final / "pytorch_lora_weights.safetensors")
    key = next(name for name in ours if "lora_A" in name)
    assert (saved[f"transformer.{key}"] == ours[key]).all()


def same(folder, whole):
    for name in ("final/pytorch_lora_weights.safetensors", "ledger.parquet"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    results = [json.loads((one / "results.json").read_text()) for one in (folder, whole)]
    for key in ("systems", "rounds", "differences", "kept_round"):
        assert results[0][key] == results[1][key]


def shards(calls):
    """Numbers, from 1 on, of the calls that scored a shard of samples."""
    return [at + 1 for at, size in enumerate(calls) if size == 8]


def test_cut_off_in_every_round_it_ends_with_the_same_bytes_and_redoes_no_finished_sample(
    finished, recipe_file, tmp_path, monkeypatch
):
    """In the second shard of the first round, in naive's third, in training, in ours' second."""
    whole, calls = finished
    path, made = recipe_file(), 0
    (tmp_path / "gently").touch()
    for place in (1, 5, "training", 7):
        with monkeypatch.context() as patch:
            if place == "training":
                patch.setattr(mixture.Mixture, "losses", cut_in_training(mixture.Mixture.losses))
            else:
                (tmp_path / "stop_at").write_text(str(shards(calls)[place] + made))
                made += 1  # the call that did not return is made again
            with pytest.raises(RuntimeError, match="power cut"):
                launch(path)
    folder = launch(path)[-1]
    same(folder.path, whole.path)
    redone = [int(line) for line in (tmp_path / "calls").read_text().split()]
    assert redone.count(8) == calls.count(8) + made


def cut_in_training(losses):
    """The losses that fail at the second step, of which the first left a checkpoint."""

    def cut(self, step):
        if step == 1:
            raise RuntimeError("power cut")
        return losses(self, step)

    return cut


@pytest.mark.slow
def test_kill_9_ends_with_the_same_bytes(finished, recipe_file, tmp_path):
    whole, calls = finished
    path = recipe_file()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    (tmp_path / "stop_at").write_text(str(shards(calls)[7]))
    done = subprocess.run([sys.executable, "-m", "rlkit", path.name], cwd=tmp_path, env=env, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    same(launch(path)[-1].path, whole.path)


@pytest.mark.parametrize("family", ["stable_diffusion", "flux"])
def test_other_families(family, tiny_pipeline, recipe_file):
    changes = ["bootstrap.rounds=1", "bootstrap.num_samples=8", "bootstrap.naive=false", "train.max_steps=1"]
    folder = launch(recipe_file(tiny_pipeline(family)), [*changes, "bootstrap.bar=0", "evaluate.num_clips=1"])[-1]
    assert list(folder.results()["systems"]) == ["ours"]
    assert len(folder.results()["rounds"]["ours"]["0"]) == 1
    assert (folder.final / "pytorch_lora_weights.safetensors").is_file()


def few_pictures(folder, count, side=20):
    folder.mkdir()
    for at, shown in enumerate(look.few(count)):
        Image.fromarray(look.render(shown, 0, side)).save(folder / f"{at}.png")
    return folder


def test_a_folder_of_pictures_needs_no_captions_and_unreadable_ones_are_set_aside(recipe_file, tmp_path):
    folder = few_pictures(tmp_path / "ten", 6)
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("not a picture")
    changes = [f"data.folder={folder}", "bootstrap.rounds=1", "bootstrap.naive=false", "train.max_steps=1"]
    run = launch(recipe_file(), changes)[-1]
    assert run.results()["starts"]["0"]["set_aside"] == 1
    (line,) = (run.path / "rejected_rows.jsonl").read_text().splitlines()
    assert "broken.png" in line
    rows = pq.read_table(run.path / "ledger.parquet").to_pylist()
    assert {row["nearest_original"] for row in rows} <= {f"{at}.png" for at in range(6)}


def test_folders_that_cannot_be_used(recipe_file, tmp_path):
    (tmp_path / "empty").mkdir()
    few_pictures(tmp_path / "three", 3)
    for name, said in (("empty", "no usable picture"), ("three", "holds 3 usable pictures, expected at least 4")):
        with pytest.raises(DataError, match=said):
            launch(recipe_file(), [f"data.folder={tmp_path / name}", f"out={name}_run"])
    with pytest.raises(RecipeError, match="missing"):
        load(recipe_file(), ["data.folder=missing"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.lora=null", "trains a LoRA"),
        ("guard.every=0", "which round was best"),
        ("data.source=gallery", "a few pictures"),
        ("bootstrap.num_class_images=0", "tells originals"),
        ("bootstrap.seeds=[1, 1]", "twice"),
        ("train.max_steps=-1", "optimiser steps"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(recipe_file, override, said):
    with pytest.raises(RecipeError, match=said):
        load(recipe_file(), [override])


def test_pictures_that_look_like_the_base_models_own_stop_the_run(recipe_file, tmp_path, finished):
    """Its own samples as originals: no judge could tell them, and nothing would be learnt."""
    own = tmp_path / "own"
    own.mkdir()
    rows = pq.read_table(finished[0].path / "seed0/prior/samples-00000.parquet").to_pylist()
    for row in rows:
        (own / f"{row['number']}.png").write_bytes(row["png"])
    with pytest.raises(GuardError, match="cannot be told"):
        launch(recipe_file(), [f"data.folder={own}"])


def test_rewards_that_a_held_out_judge_does_not_share_stop_the_loop(recipe_file, tmp_path):
    """Redness is kept, and its opposite is what the held-out judge likes."""
    (tmp_path / "pale.py").write_text(
        COUNTED.replace("calls.open", "Path('others').open").replace("float(np", "-float(np")
    )
    keep = ["sampling.gate=stop", "evaluate.held_out_rewards=[./pale.py]", "bootstrap.likeness_weight=0"]
    with pytest.raises(GateError, match="of 24 samples of the first round chosen by the rewards"):
        launch(recipe_file(), keep)
    folder = launch(recipe_file(), [*keep, "sampling.gate=warn", "out=warned"])[-1]
    told = json.loads((folder.path / "seed0/gate.json").read_text())
    assert not told["open"] and "difference -" in told["told"]
