"""The packed tower attention is transformers' own loop over segments, in fewer calls."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlkit.caption import tower_attention
from rlkit.models import family_module, prepare

LENGTHS = {"alike": [6, 6, 6], "edges": [6, 4, 6, 4, 2], "one": [7]}


def looped(module, query, key, value, bounds):
    """As transformers does it with sdpa: split, attend, put together."""
    lengths = bounds.diff().tolist()
    parts = zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    return torch.cat(
        [sdpa_attention_forward(module, *part, None, scaling=0.3, is_causal=False)[0] for part in parts], 1
    )


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_output_and_gradients_are_those_of_the_loop(lengths):
    generator = torch.Generator().manual_seed(0)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    inputs = [torch.randn(1, 2, sum(lengths), 8, generator=generator, requires_grad=True) for _ in range(3)]
    module = nn.Module()
    module.is_causal = False
    ours, _ = tower_attention.attend(module, *inputs, None, scaling=0.3, cu_seq_lens_q=bounds)
    theirs = looped(module, *inputs, bounds)
    weights = torch.arange(ours.numel()).view_as(ours) / ours.numel()
    found, expected = (torch.autograd.grad((out * weights).sum(), inputs) for out in (ours, theirs))
    for one, other in zip((ours, *found), (theirs, *expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def grids(family):
    """Patches of two videos whose frames do not divide into windows, so that there are several lengths."""
    return torch.tensor([[2, 10, 6], [3, 4, 4]] if family == "qwen2_5_vl" else [[2, 6, 4], [3, 4, 4]])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_tower_gives_what_sdpa_gives_with_a_call_per_length(family, tiny_captioner, monkeypatch):
    captioner = tiny_captioner(family)
    config = captioner.base.config.vision_config
    assert config._attn_implementation == tower_attention.NAME
    grid = grids(family)
    width = config.in_channels * config.temporal_patch_size * config.patch_size**2
    pixels = torch.randn(int(grid.prod(1).sum()), width, generator=torch.Generator().manual_seed(0))
    calls = []
    kernel = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        tower_attention, "scaled_dot_product_attention", lambda *a, **k: calls.append(a[0].shape) or kernel(*a, **k)
    )
    features = family_module(family).features
    media = {"pixel_values_videos": pixels, "video_grid_thw": grid}
    ours = features(captioner.base, media)["video"].pooler_output
    per_layer = len(calls) / len(captioner.base.model.visual.blocks)
    config._attn_implementation = "sdpa"
    calls.clear()
    theirs = features(captioner.base, media)["video"].pooler_output
    assert not calls
    assert per_layer <= 4
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_saved_models_do_not_ask_for_our_attention(tiny_captioner, tmp_path):
    captioner = tiny_captioner("qwen2_5_vl")
    captioner.model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert loaded.config.vision_config._attn_implementation == "sdpa"


def test_other_attention_is_left_alone(tiny_model):
    model, processor = tiny_model("qwen2_5_vl")
    config = model.config.vision_config
    config._attn_implementation = "eager"
    prepare(model, processor)
    assert config._attn_implementation == "eager"
