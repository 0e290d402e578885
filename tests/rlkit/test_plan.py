"""The arithmetic of a run: counts equal those of the real model, uneven settings are refused with the nearest that
work."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from rlkit import models, plan, rows
from rlkit.cli import main
from rlkit.errors import PlanError
from rlkit.recipe import Data, Lora, Model, Recipe, Train
from rlkit.recipe_file import load_chain

FAMILIES = ["qwen2_5_vl", "qwen3_vl", "llava_onevision"]


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


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_counted_on_the_meta_device_are_the_real_models(family):
    asked = recipe(model=Model(init=family, vision="full"))
    shape, _ = plan.shape_of(asked, [])
    captioner = models.load(asked.model, texts=["A red circle moves left. Then a blue square spins."] * 50)
    assert shape.language + shape.vision == sum(one.numel() for one in captioner.model.parameters())
    assert shape.trainable == shape.language + shape.vision


@pytest.mark.parametrize("vision", ["frozen", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_parameters_are_pefts(family, vision):
    asked = recipe(model=Model(init=family, vision=vision, lora=Lora(r=4)))
    shape, _ = plan.shape_of(asked, [])
    captioner = models.load(asked.model, texts=["A red circle moves left. Then a blue square spins."] * 50)
    assert shape.trainable == sum(one.numel() for one in captioner.model.parameters() if one.requires_grad)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_vision_is_not_trained(family):
    shape, _ = plan.shape_of(recipe(model=Model(init=family)), [])
    assert shape.trainable == shape.language


@pytest.mark.parametrize("num_frames", [4, 6])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_a_clip_are_the_processors(family, num_frames, tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner(family)
    encoded = rows.encode(captioner, make_record(), make_clip(num_frames=num_frames, size=56))
    real = int((encoded.prompt["input_ids"] == captioner.processor.video_token_id).sum())
    config = captioner.model.config.to_dict()
    assert plan.tokens_per_clip(config, recipe(data=Data(num_frames=num_frames, frame_size=56))) == real


def test_steps_epochs_and_rows():
    train = Train(per_device_train_batch_size=4, gradient_accumulation_steps=2, num_train_epochs=3)
    batches = plan.batches_of(recipe(data=Data(num_clips=100), train=train), devices=2)
    assert batches.rows_per_step == 4 * 2 * 2
    assert batches.steps == math.ceil(100 / 16) * 3
    fixed = plan.batches_of(recipe(data=Data(num_clips=100), train=dataclasses.replace(train, max_steps=14)), devices=2)
    assert (fixed.steps, fixed.epochs) == (14, 2.0)


def test_memory_follows_the_weights_and_their_type():
    shape = plan.Shape(1000, 200, 1000, 64, 256, 2, 500, 10)
    double = plan.memory_of(recipe(), shape, 100, 2)
    assert (double["policy"], double["vision"], double["gradients"], double["optimiser"]) == (4000, 800, 4000, 8000)
    half = plan.memory_of(recipe(model=Model(dtype="bfloat16")), shape, 100, 2)
    assert half["policy"] == 2000
    assert double["reference"] == 0  # its log-probs are on disk


def test_checkpointing_lowers_the_estimate():
    shape = plan.Shape(1000, 200, 1000, 64, 256, 8, 500, 10)
    kept = plan.memory_of(recipe(), shape, 100, 2)["activations (estimate)"]
    recomputed = plan.memory_of(recipe(train=Train(gradient_checkpointing=True)), shape, 100, 2)[
        "activations (estimate)"
    ]
    assert recomputed < kept / 3


def test_activation_estimate_is_near_what_autograd_keeps():
    import torch

    asked = recipe(model=Model(init="qwen2_5_vl"), train=Train(per_device_train_batch_size=4))
    model = models.load(asked.model, texts=["A red circle moves left."] * 50).model
    shape, _ = plan.shape_of(asked, [])
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    text = model.model.language_model
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        text(inputs_embeds=torch.randn(4, 128, shape.hidden_size, requires_grad=True), use_cache=False)
    measured = sum(size for size, _ in kept.values())
    estimate = 4 * 128 * (14 * shape.hidden_size + 4 * shape.intermediate_size) * 4 * shape.layers
    assert 0.6 < estimate / measured < 1.6


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
        (2, 8, 100, None, "Nearest that divide: data.num_clips=80 or 96 or 112"),
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
    assert plan.shape_of(chain[1].recipe, chain)[0].language == plan.shape_of(chain[0].recipe, chain)[0].language


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


def test_a_model_that_is_not_at_hand_leaves_memory_unknown(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shape, why = plan.shape_of(recipe(model=Model(id="nobody/no-such-model")), [])
    assert shape is None and "nobody/no-such-model" in why


def test_a_finished_recipe_of_the_chain_is_not_refused(folder):
    Path("dpo.yaml").write_text(Path("dpo.yaml").read_text() + "variants: {k1: {num_negatives: 1}}\n")
    base, dpo = load_chain("dpo.yaml")
    with pytest.raises(PlanError, match="base: 96 clips do not divide among 5 devices"):
        plan.plan(base, [base, dpo], 5, None, None)
    base.out.mkdir(parents=True)
    (base.out / "results.json").write_text('{"complete": true}')
    assert plan.plan(base, [base, dpo], 5, None, None)["finished"]
    assert plan.plan(dpo, [base, dpo], 2, None, None)["systems"] == 2
