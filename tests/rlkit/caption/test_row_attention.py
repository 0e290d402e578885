"""Masks say who sees whom, and the split attention is sdpa with the whole mask."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rlkit.caption import row_attention

# Two rows: prompts of 4 and 3 tokens, answers of 2 and 3, and of 1, 1 and 2; one token of padding.
SEGMENTS = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 1, 2, 3, 3, -1, -1]])


def sees(row, query, key):
    """The rule, said once more in words: backwards only, and only the prompt or one's own answer."""
    own, other = SEGMENTS[row, query], SEGMENTS[row, key]
    return key <= query and bool(other == 0 or other == own)


def test_dense_mask_is_the_rule():
    mask = row_attention.dense_mask(SEGMENTS)
    expected = [[[sees(row, q, k) for k in range(9)] for q in range(9)] for row in range(2)]
    assert mask[:, 0].tolist() == expected


def test_block_mask_is_the_dense_mask():
    rule = row_attention.block_mask(SEGMENTS).mask_mod
    place = torch.arange(9)
    for row, dense in enumerate(row_attention.dense_mask(SEGMENTS)[:, 0]):
        assert torch.equal(rule(row, 0, place[:, None], place[None, :]), dense)


def test_additive_mask_forbids_what_the_mask_forbids():
    mask = row_attention.dense_mask(SEGMENTS)
    assert torch.equal(row_attention.additive(mask, torch.float32) == 0, mask)


@pytest.mark.parametrize("groups", [1, 2])
def test_split_attention_is_sdpa_with_the_whole_mask(groups):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 9, 8, generator=generator, requires_grad=True)
    key, value = (torch.randn(2, 4 // groups, 9, 8, generator=generator, requires_grad=True) for _ in range(2))
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = groups, True
    results = []
    for function, mask in (
        (sdpa_attention_forward, row_attention.dense_mask(SEGMENTS)),
        (row_attention.attend, row_attention.dense_mask(SEGMENTS, start=3)),
    ):
        output, _ = function(module, query, key, value, mask, scaling=0.3)
        weights = torch.arange(output.numel()).view_as(output) / output.numel()
        results.append([output, *torch.autograd.grad((output * weights).sum(), [query, key, value])])
    for ours, whole in zip(*results, strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-6)


def test_saved_models_do_not_ask_for_our_attention(tiny_captioner, tmp_path):
    captioner = tiny_captioner("qwen2_5_vl")
    assert captioner.base.config.text_config._attn_implementation == row_attention.NAME
    captioner.model.save_pretrained(tmp_path)
    assert row_attention.NAME not in (tmp_path / "config.json").read_text()
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert again.config.text_config._attn_implementation == "sdpa"


def test_generation_is_what_it_is_with_sdpa(tiny_captioner, make_record, make_clip):
    from rlkit.caption import rows

    captioner = tiny_captioner("qwen2_5_vl")
    prompt = rows.encode(captioner, make_record(), make_clip()).prompt
    text, found = captioner.base.config.text_config, []
    for name in (row_attention.NAME, "sdpa"):
        text._attn_implementation = name
        found.append(captioner.model.generate(**prompt, max_new_tokens=8, do_sample=False))
    assert torch.equal(*found)
