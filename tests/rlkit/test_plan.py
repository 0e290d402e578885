"""The arithmetic of a run: uneven settings are refused with the nearest that work, and the plan says it all."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from rlkit import estimate, plan
from rlkit.cli import main
from rlkit.errors import PlanError
from rlkit.recipe import Data, Grpo, Lora, Model, PlugIn, Recipe, Train
from rlkit.recipe.file import load_chain


def recipe(**sections):
    return Recipe(algorithm="dpo", **sections)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("algo.py").write_text("def run(recipe, folder): ...\n")
    Path("base.yaml").write_text(
        "algorithm: ./algo.py\nmodel: {init: qwen2_5_vl, vision: full}\ndata: {num_clips: 96, frame_size: 56}\n"
    )
    Path("dpo.yaml").write_text(
        "algorithm: ./algo.py\nneeds: [base.yaml]\nmodel: {id: runs/base/final}\nnegatives: [order_swap]\n"
        "num_negatives: 4\ndata: {num_clips: 64}\ntrain: {num_train_epochs: 2}\n"
    )
    return tmp_path


def test_steps_epochs_and_rows():
    train = Train(per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=3)
    batches = plan.batches_of(recipe(data=Data(num_clips=100), train=train), devices=2)
    assert batches.rows_per_step == 4 * 2 * 2
    assert batches.steps == math.ceil(100 / 16) * 3
    fixed = plan.batches_of(recipe(data=Data(num_clips=100), train=dataclasses.replace(train, max_steps=14)), devices=2)
    assert (fixed.steps, fixed.epochs) == (14, 2.0)


def test_a_row_of_grpo_holds_the_completions_of_its_clip_and_its_reference_is_a_second_model():
    drawn = Recipe(algorithm="grpo", grpo=Grpo(num_generations=6, beta=0.1))
    assert (
        plan.answers_of(drawn) == 6 and plan.answers_of(recipe(negatives=[PlugIn("order_swap")], num_negatives=4)) == 5
    )
    shape = estimate.Shape(100, 20, 100, 8, 16, 2, 50, 9)
    assert estimate.memory_of(drawn, shape, 200, 6)["reference"] == (100 + 20) * 4
    adapted = dataclasses.replace(drawn, model=Model(lora=Lora()))
    free = dataclasses.replace(drawn, grpo=Grpo(num_generations=6))
    for other in (recipe(), adapted, free):
        assert estimate.memory_of(other, shape, 200, 6)["reference"] == 0


@pytest.mark.parametrize(
    ("devices", "per_device", "clips", "rows_per_step", "expected"),
    [
        (
            8,
            3,
            960,
            32,
            "Nearest that can: 24 or 48 or 72 rows per step or train.per_device_train_batch_size=1 or 2 or 4",
        ),
        (1, 8, 960, 32, "Set train.gradient_accumulation_steps=4."),
        (1, 64, 40, None, "one step takes 64 rows but there are only 40 clips"),
        (2, 8, 97, None, "some clips would count twice. Nearest that do not: data.num_clips=95 or 96 or 98"),
    ],
)
def test_uneven_settings_are_refused_with_the_nearest_even_ones(devices, per_device, clips, rows_per_step, expected):
    asked = recipe(data=Data(num_clips=clips), train=Train(per_device_train_batch_size=per_device))
    with pytest.raises(PlanError) as caught:
        plan.refuse_uneven(plan.batches_of(asked, devices), rows_per_step)
    assert expected in str(caught.value)


def test_suggested_settings_are_accepted():
    asked = recipe(data=Data(num_clips=96), train=Train(per_device_train_batch_size=8))
    assert plan.refuse_uneven(plan.batches_of(asked, 2), 16) is None


def test_too_little_memory_names_the_batch_that_fits():
    asked = recipe(train=Train(per_device_train_batch_size=8))
    result = {"name": "dpo", "memory_gib": {"policy": 2.0, "activations (estimate)": 8.0, "mask": 0.0}}
    with pytest.raises(PlanError, match=r"per_device_train_batch_size=4 train.gradient_accumulation_steps=2"):
        plan.refuse_too_big(result, asked, 6.5)


def test_a_model_that_a_needed_recipe_makes_has_its_size(folder):
    chain = load_chain("dpo.yaml")
    assert (
        estimate.shape_of(chain[1].recipe, chain)[0].language == estimate.shape_of(chain[0].recipe, chain)[0].language
    )


def test_the_plan_as_json(folder, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["plan", "dpo.yaml", "--json", "--devices", "2"])
    assert caught.value.code == 0
    base, dpo = json.loads(capsys.readouterr().out)
    assert (base["rows_per_step"], base["steps"]) == (16, 6)
    assert (dpo["steps"], dpo["tokens"]["answers"]) == (8, 5)
    prefix = dpo["tokens"]["clip"] + dpo["tokens"]["prompt"]
    assert dpo["sharing"] == round(5 * (prefix + dpo["tokens"]["answer"]) / (prefix + 5 * dpo["tokens"]["answer"]), 2)


def test_the_plan_for_people_names_every_component(folder, capsys):
    with pytest.raises(SystemExit):
        main(["plan", "base.yaml"])
    out = capsys.readouterr().out
    for word in ("steps", "tokens", "policy", "vision", "reference", "optimiser", "activations", "disk", "time"):
        assert word in out


def test_a_finished_recipe_of_the_chain_is_not_refused(folder):
    Path("dpo.yaml").write_text(Path("dpo.yaml").read_text() + "variants: {k1: {num_negatives: 1}}\n")
    base, dpo = load_chain("dpo.yaml")
    with pytest.raises(PlanError, match="base: the last step of a pass has 8 of the 96 clips for 11 devices"):
        plan.plan(base, [base, dpo], 11, None, None)
    base.out.mkdir(parents=True)
    (base.out / "results.json").write_text('{"complete": true}')
    assert plan.plan(base, [base, dpo], 11, None, None)["finished"]
    assert plan.plan(dpo, [base, dpo], 2, None, None)["systems"] == 2
