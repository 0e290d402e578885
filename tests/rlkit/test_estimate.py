"""What a model takes: counts equal those of the real model; estimates are near what is measured."""

import pytest

from rlkit import estimate, models
from rlkit.caption import rows
from rlkit.recipe import Data, Lora, Model, Recipe, Train

FAMILIES = ["qwen2_5_vl", "qwen3_vl", "llava_onevision"]


def recipe(**sections):
    return Recipe(algorithm="dpo", **sections)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_counted_on_the_meta_device_are_the_real_models(family):
    asked = recipe(model=Model(init=family, vision="full"))
    shape, _ = estimate.shape_of(asked, [])
    captioner = models.load(asked.model, texts=["A red circle moves left. Then a blue square spins."] * 50)
    assert shape.language + shape.vision == sum(one.numel() for one in captioner.model.parameters())
    assert shape.trainable == shape.language + shape.vision


@pytest.mark.parametrize("vision", ["frozen", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_parameters_are_pefts(family, vision):
    asked = recipe(model=Model(init=family, vision=vision, lora=Lora(r=4)))
    shape, _ = estimate.shape_of(asked, [])
    captioner = models.load(asked.model, texts=["A red circle moves left. Then a blue square spins."] * 50)
    assert shape.trainable == sum(one.numel() for one in captioner.model.parameters() if one.requires_grad)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_vision_is_not_trained(family):
    shape, _ = estimate.shape_of(recipe(model=Model(init=family)), [])
    assert shape.trainable == shape.language


@pytest.mark.parametrize("num_frames", [4, 6])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_a_clip_are_the_processors(family, num_frames, tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner(family)
    encoded = rows.encode(captioner, make_record(), make_clip(num_frames=num_frames, size=56))
    real = int((encoded.prompt["input_ids"] == captioner.processor.video_token_id).sum())
    config = captioner.model.config.to_dict()
    assert estimate.tokens_per_clip(config, recipe(data=Data(num_frames=num_frames, frame_size=56))) == real


def test_memory_follows_the_weights_and_their_type():
    shape = estimate.Shape(1000, 200, 1000, 64, 256, 2, 500, 10)
    double = estimate.memory_of(recipe(), shape, 100, 2)
    assert (double["policy"], double["vision"], double["gradients"], double["optimiser"]) == (4000, 800, 4000, 8000)
    half = estimate.memory_of(recipe(model=Model(dtype="bfloat16")), shape, 100, 2)
    assert half["policy"] == 2000
    assert double["reference"] == 0  # its log-probs are on disk


def test_checkpointing_lowers_the_estimate():
    shape = estimate.Shape(1000, 200, 1000, 64, 256, 8, 500, 10)
    kept = estimate.memory_of(recipe(), shape, 100, 2)["activations (estimate)"]
    recomputed = estimate.memory_of(recipe(train=Train(gradient_checkpointing=True)), shape, 100, 2)[
        "activations (estimate)"
    ]
    assert recomputed < kept / 3


def test_activation_estimate_is_near_what_autograd_keeps():
    import torch

    asked = recipe(model=Model(init="qwen2_5_vl"), train=Train(per_device_train_batch_size=4))
    model = models.load(asked.model, texts=["A red circle moves left."] * 50).model
    shape, _ = estimate.shape_of(asked, [])
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
    formula = 4 * 128 * (14 * shape.hidden_size + 4 * shape.intermediate_size) * 4 * shape.layers
    assert 0.6 < formula / measured < 1.6


def test_a_model_that_is_not_at_hand_leaves_memory_unknown(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shape, why = estimate.shape_of(recipe(model=Model(id="nobody/no-such-model")), [])
    assert shape is None and "nobody/no-such-model" in why
