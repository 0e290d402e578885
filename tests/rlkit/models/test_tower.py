"""A trained tower in a fresh captioner: whole, from the package or a saved run, or one clear error."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlkit import models
from rlkit.errors import ModelError
from rlkit.models import family_module, tower
from rlkit.recipe import Model


def fresh(**options):
    return models.load(Model(**options), texts=["A red circle moves left."], frame_size=28)


def tower_of(captioner):
    pattern = family_module(captioner.family).VISION
    return {name: weight for name, weight in captioner.base.named_parameters() if re.match(pattern, name)}


def test_the_packaged_tower_replaces_every_weight_and_nothing_else():
    plain, trained = fresh(init="qwen2_5_vl"), fresh(init="qwen2_5_vl", tower="world")
    stored = load_file(tower.WORLD)
    ours = tower_of(trained)
    assert set(stored) == set(ours)
    for name, weight in ours.items():
        assert torch.equal(weight, stored[name].float()), name
        assert not torch.equal(weight, tower_of(plain)[name]), name
    others = dict(plain.base.named_parameters())
    for name, weight in trained.base.named_parameters():
        if name not in ours:
            assert torch.equal(weight, others[name]), name


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_a_saved_captioner_gives_its_tower(family, tmp_path):
    source = fresh(init=family)
    for weight in tower_of(source).values():
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(1))
    source.base.save_pretrained(tmp_path / "final")
    taken = tower_of(fresh(init=family, tower=str(tmp_path / "final")))
    assert taken
    for name, weight in tower_of(source).items():
        assert torch.equal(taken[name], weight), name
    tower.save(tmp_path / "final", tmp_path / "tower.safetensors")
    for name, weight in load_file(tmp_path / "tower.safetensors").items():
        assert torch.equal(weight, taken[name].half()), name


def test_another_size_is_refused():
    with pytest.raises(ModelError, match=r"model\.tower world: .* of shape .*, expected .*data\.frame_size"):
        models.load(Model(init="qwen2_5_vl", tower="world"), texts=["A."], frame_size=56)


def test_what_is_no_tower_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        fresh(init="qwen2_5_vl", tower=str(tmp_path / "absent"))
    save_file({"model.layers.0.weight": torch.zeros(2)}, tmp_path / "text.safetensors")
    with pytest.raises(ModelError, match="holds no vision tower"):
        fresh(init="qwen2_5_vl", tower=str(tmp_path / "text.safetensors"))
    with pytest.raises(ModelError, match="is missing"):
        fresh(init="qwen3_vl", tower="world")
