"""Loading: what is trained, what may be shared, and why not."""

import dataclasses

import pytest
import torch
from transformers import AutoConfig

from rlkit import models
from rlkit.caption import one_row, rows, tower_attention
from rlkit.errors import ModelError
from rlkit.models import tiny
from rlkit.recipe import Lora, Model


@pytest.fixture
def fresh():
    """family -> a model of its own, for tests that wrap or change it."""

    def get(family="qwen2_5_vl"):
        sizes = {"hidden_size": 32, "num_layers": 1, "vision_hidden_size": 32, "vision_depth": 2}
        return tiny.build(family, ["A red circle moves left. Describe the video."] * 5, **sizes)

    return get


def in_tower(family, name):
    tower = {"qwen2_5_vl": (".visual.",), "qwen3_vl": (".visual.",)}
    return any(part in name for part in tower.get(family, (".vision_tower.", ".multi_modal_projector.")))


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_full_fine_tuning_with_a_frozen_tower(fresh, family):
    captioner = models.prepare(*fresh(family), vision="frozen")
    names = trainable(captioner.model)
    assert names and not any(in_tower(family, name) for name in names)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_all_linear_lora_never_touches_a_shared_tower(fresh, family):
    captioner = models.prepare(*fresh(family), vision="frozen", lora=Lora(r=2))
    names = {name for name, _ in captioner.model.named_parameters() if "lora_" in name}
    assert trainable(captioner.model) == names
    assert {name.split(".")[-4] for name in names} >= {"q_proj", "o_proj", "down_proj"}
    assert not any(in_tower(family, name) for name in names)
    assert not any("lm_head" in name for name in names)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_vision_lora_adapts_the_tower_too(fresh, family):
    captioner = models.prepare(*fresh(family), vision="lora", lora=Lora(r=2))
    assert any(in_tower(family, name) for name in trainable(captioner.model))


def test_named_lora_targets_stay_out_of_the_tower(fresh):
    captioner = models.prepare(*fresh(), vision="frozen", lora=Lora(r=2, target_modules=["gate_proj"]))
    names = trainable(captioner.model)
    assert names and all("gate_proj" in name and ".visual." not in name for name in names)


def test_lora_targets_that_match_nothing_are_refused(fresh):
    with pytest.raises(ModelError, match=r"\['query'\] name no linear layer"):
        models.prepare(*fresh(), vision="frozen", lora=Lora(target_modules=["query"]))


def test_contradictory_vision_settings_are_refused(fresh):
    model, processor = fresh()
    with pytest.raises(ModelError, match=r"model\.lora is null"):
        models.prepare(model, processor, vision="lora")
    with pytest.raises(ModelError, match=r"vision is full beside model\.lora"):
        models.prepare(model, processor, vision="full", lora=Lora())


def test_reference_of_an_adapter_is_the_adapter_disabled(fresh, make_record, make_clip):
    captioner = models.prepare(*fresh(), vision="frozen", lora=Lora(r=2))
    batch = rows.collate([rows.encode(captioner, make_record(2), make_clip())])
    with torch.no_grad():
        before, mask = one_row.log_probs(captioner, batch)
        for name, parameter in captioner.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        trained, _ = one_row.log_probs(captioner, batch)
        with captioner.model.disable_adapter():
            reference, _ = one_row.log_probs(captioner, batch)
    assert torch.equal(before[mask], reference[mask])
    assert not torch.allclose(trained[mask], reference[mask])


def test_adapted_one_row_equals_separate_rows(fresh, make_record, make_clip):
    captioner = models.prepare(*fresh(), vision="lora", lora=Lora(r=2))
    batch = rows.collate([rows.encode(captioner, make_record(2), make_clip())])
    mask = batch["target_mask"]
    ours, separate = (f(captioner, batch)[0][mask] for f in (one_row.log_probs, one_row.separate_log_probs))
    torch.testing.assert_close(ours, separate, rtol=1e-5, atol=0)


def test_load_reads_a_folder(fresh, tmp_path):
    model, processor = fresh()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    captioner = models.load(Model(id=str(tmp_path), dtype="bfloat16"))
    assert captioner.family == "qwen2_5_vl" and captioner.sharing and captioner.vision == "frozen"
    assert captioner.model.dtype == torch.bfloat16


def test_load_merges_an_adapter_folder(fresh, tmp_path, make_record, make_clip):
    model, processor = fresh()
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    recipe = Model(id=str(tmp_path / "base"), lora=Lora(r=2))
    trained = models.load(recipe)
    with torch.no_grad():
        for name, parameter in trained.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    trained.model.save_pretrained(tmp_path / "adapter")
    again = models.load(dataclasses.replace(recipe, id=str(tmp_path / "adapter"), lora=None))
    batch = rows.collate([rows.encode(trained, make_record(1), make_clip())])
    mask = batch["target_mask"]
    with torch.no_grad():
        expected, found = (one_row.log_probs(captioner, batch)[0][mask] for captioner in (trained, again))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_that_was_trained_on_an_adapter_keeps_both(fresh, tmp_path, make_record, make_clip):
    """Rounds that go on from each other: the second adapter's folder names the first one's as its base."""
    model, processor = fresh()
    model.save_pretrained(tmp_path / "0")
    processor.save_pretrained(tmp_path / "0")
    trained = None
    for number in (1, 2):
        trained = models.load(Model(id=str(tmp_path / str(number - 1)), lora=Lora(r=2)))
        with torch.no_grad():
            for name, parameter in trained.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
        trained.model.save_pretrained(tmp_path / str(number))
    again = models.load(Model(id=str(tmp_path / "2")))
    batch = rows.collate([rows.encode(trained, make_record(1), make_clip())])
    mask = batch["target_mask"]
    with torch.no_grad():
        expected, found = (one_row.log_probs(captioner, batch)[0][mask] for captioner in (trained, again))
        trained.model.base_model.disable_adapter_layers()
        one_less = one_row.log_probs(trained, batch)[0][mask]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (one_less - expected).abs().max() > 0.01


def test_load_builds_a_tiny_family():
    captioner = models.load(Model(init="llava_onevision", vision="full"), texts=["A red circle."] * 3)
    assert captioner.family == "llava_onevision"


def test_a_folder_that_is_no_model_is_one_sentence(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded as a captioner"):
        models.load(Model(id=str(tmp_path)))
    with pytest.raises(ModelError, match="both null"):
        models.load(Model())


# ---- what may share a row -------------------------------------------------------------------------------------------


def test_linear_attention_is_refused_with_the_reason(fresh):
    """Qwen3.5 mixes three linear-attention layers with one of full attention."""
    model, processor = fresh()
    model.config = AutoConfig.for_model("qwen3_5")
    assert "linear_attention" in model.config.get_text_config().layer_types
    captioner = models.prepare(model, processor)
    assert not captioner.sharing
    assert "linear_attention layers, whose state runs through the whole row" in captioner.reason
    with pytest.raises(ModelError, match="sharing is on, but qwen3_5 has linear_attention"):
        models.prepare(model, processor, sharing="on")


def test_linear_attention_really_leaks_between_answers(make_clip):
    """The reason for the refusal, on the real class: the second answer in a row is wrong, the first is right."""
    from transformers import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5ForCausalLM

    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=16,
        linear_value_head_dim=16, layer_types=["linear_attention", "full_attention"],
    )  # fmt: skip
    model = Qwen3_5ForCausalLM(config).eval()
    prompt, answers = torch.arange(8), [torch.tensor([9, 10, 11]), torch.tensor([12, 13, 14])]
    row = torch.cat([prompt, *answers])[None]
    segments = torch.tensor([0] * 8 + [1] * 3 + [2] * 3)
    place = torch.arange(14)
    mask = (place[:, None] >= place) & ((segments == 0) | (segments[:, None] == segments))
    positions = torch.cat([torch.arange(8), torch.arange(8, 11), torch.arange(8, 11)])[None]
    with torch.no_grad():
        shared = model(input_ids=row, attention_mask=mask[None, None], position_ids=positions).logits[0]
        alone = [model(input_ids=torch.cat([prompt, answer])[None]).logits[0, 8:] for answer in answers]
    torch.testing.assert_close(shared[8:11], alone[0], rtol=1e-4, atol=1e-5)
    assert (shared[11:14] - alone[1]).abs().max() > 1e-3


def test_an_unknown_family_runs_on_separate_rows_and_says_so(fresh, make_record, make_clip):
    known = models.prepare(*fresh())
    model, processor = fresh()
    model.config.model_type = "newcomer"
    captioner = models.prepare(model, processor)
    assert not captioner.sharing and "no file for the family 'newcomer'" in captioner.reason
    record, clip = make_record(2), make_clip()
    batch = rows.collate([rows.encode(captioner, record, clip)])
    found, mask = one_row.log_probs(captioner, batch)
    expected, _ = one_row.log_probs(known, rows.collate([rows.encode(known, record, clip)]))
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["tiny", "other", "__init__"])
def test_files_that_are_no_family_are_not_taken_for_one(name):
    assert models.family_module(name).__name__ == "rlkit.models.other"


def test_dropout_is_refused_for_sharing(fresh):
    model, processor = fresh()
    model.config.text_config.attention_dropout = 0.1
    assert "attention_dropout is 0.1" in models.prepare(model, processor).reason
    assert "lora_dropout is 0.05" in models.prepare(*fresh(), vision="frozen", lora=Lora(lora_dropout=0.05)).reason


def test_attention_without_a_four_dimensional_mask_is_refused(fresh):
    model, processor = fresh()
    model.config.text_config._attn_implementation = "flash_attention_2"
    assert "flash_attention_2 takes no mask" in models.prepare(model, processor).reason


def test_a_row_longer_than_the_sliding_window_is_refused(fresh, make_record, make_clip):
    captioner = models.prepare(*fresh())
    text = captioner.model.config.text_config
    text.layer_types, text.sliding_window = ["sliding_attention"], 16
    batch = rows.collate([rows.encode(captioner, make_record(), make_clip())])
    with pytest.raises(ModelError, match="exceed the model's sliding window of 16"):
        one_row.log_probs(captioner, batch)


def test_sharing_off_is_obeyed(fresh):
    captioner = models.prepare(*fresh(), sharing="off")
    assert not captioner.sharing and captioner.reason == "model.sharing is off"


def test_flex_attention_is_refused_without_cuda():
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    with pytest.raises(ModelError, match="cannot train without CUDA; use sdpa"):
        models.load(Model(init="qwen2_5_vl", attn_implementation="flex_attention"))


def test_flex_attention_is_set_on_the_language_model_only(monkeypatch):
    """transformers 5.23 refuses it for the Qwen-VL classes as a whole; the towers keep sdpa's kernel."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    captioner = models.load(Model(init="qwen2_5_vl", attn_implementation="flex_attention"), texts=["A red circle."])
    config = captioner.model.config
    assert config.text_config._attn_implementation == "flex_attention"
    assert config.vision_config._attn_implementation == tower_attention.NAME
    assert captioner.sharing
