"""ImageReward's state dict, renamed, scores as the original's equations on the original names."""

import pytest
import torch
import torch.nn.functional as F
from torch import einsum
from transformers import AutoTokenizer

from reward_models import image_reward
from reward_models.published.checkpoint import CheckpointError
from reward_models.published.pixels import Square
from tests.reward_models import tiny_checkpoints
from tests.reward_models.tiny_checkpoints import PROMPTS, pictures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image_reward")
    options = tiny_checkpoints.image_reward(folder)
    return folder, options, torch.load(folder / "ImageReward.pt", weights_only=True)


def dense(x, state, name):
    return einsum("...i,oi->...o", x, state[f"{name}.weight"]) + state[f"{name}.bias"]


def norm(x, state, name, eps):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attend(query, key, value, heads):
    query, key, value = (x.unflatten(-1, (heads, -1)) for x in (query, key, value))
    weights = (einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5).softmax(-1)
    return einsum("hqk,khd->qhd", weights, value).flatten(1)


def reference(state, ids, pixels, eps=1e-6):
    at = "blip.visual_encoder."
    patches = pixels.unfold(1, 16, 16).unfold(2, 16, 16).flatten(1, 2)  # [3, 4, 16, 16]
    x = einsum("cpyx,ocyx->po", patches, state[at + "patch_embed.proj.weight"]) + state[at + "patch_embed.proj.bias"]
    x = torch.cat([state[at + "cls_token"][0], x]) + state[at + "pos_embed"][0]
    for block in range(2):
        here = f"{at}blocks.{block}."
        query, key, value = dense(norm(x, state, here + "norm1", eps), state, here + "attn.qkv").chunk(3, -1)
        x = x + dense(attend(query, key, value, heads=2), state, here + "attn.proj")
        y = F.gelu(dense(norm(x, state, here + "norm2", eps), state, here + "mlp.fc1"))
        x = x + dense(y, state, here + "mlp.fc2")
    seen = norm(x, state, at + "norm", eps)
    at = "blip.text_encoder."
    words = state[at + "embeddings.word_embeddings.weight"][ids]
    x = words + state[at + "embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x, state, at + "embeddings.LayerNorm", 1e-12)
    for layer in range(2):
        here = f"{at}encoder.layer.{layer}."
        for kind, other in (("attention", None), ("crossattention", seen)):
            other = x if other is None else other
            query, key, value = (
                dense(y, state, f"{here}{kind}.self.{part}")
                for y, part in ((x, "query"), (other, "key"), (other, "value"))
            )
            y = dense(attend(query, key, value, heads=1), state, f"{here}{kind}.output.dense")
            x = norm(x + y, state, f"{here}{kind}.output.LayerNorm", 1e-12)
        y = dense(F.gelu(dense(x, state, here + "intermediate.dense")), state, here + "output.dense")
        x = norm(x + y, state, here + "output.LayerNorm", 1e-12)
    value = x[0]
    for index in (0, 2, 4, 6, 7):
        value = dense(value, state, f"mlp.layers.{index}")
    return ((value - 0.16717362830052426) / 1.0333394966054072).item()


def test_equals_the_equations_on_the_original_names(checkpoint):
    folder, options, state = checkpoint
    ids = AutoTokenizer.from_pretrained(folder)(PROMPTS)["input_ids"]
    pairs = list(zip(ids, Square(32).images(pictures()), strict=True))
    found = image_reward.load(**options)(prompts=PROMPTS, completions=pictures())
    assert found == pytest.approx([reference(state, *pair) for pair in pairs], abs=1e-4)


def test_the_vits_epsilon_is_the_originals(checkpoint):
    """With small activations 1e-6 and transformers' 1e-5 differ."""
    folder, options, state = checkpoint
    faint = {
        k: v * (3e-3 if "patch_embed" in k or "pos_embed" in k or "cls_token" in k else 1) for k, v in state.items()
    }
    torch.save(faint, folder / "faint.pt")
    ids = AutoTokenizer.from_pretrained(folder)(PROMPTS)["input_ids"]
    pairs = list(zip(ids, Square(32).images(pictures()), strict=True))
    found = image_reward.load(**(options | {"file": "faint.pt"}))(prompts=PROMPTS, completions=pictures())
    assert found == pytest.approx([reference(faint, *pair) for pair in pairs], abs=1e-4)
    trap = [reference(faint, *pair, eps=1e-5) for pair in pairs]
    assert max(abs(a - b) for a, b in zip(found, trap, strict=True)) > 1e-3


def test_another_kind_of_file_says_so(tmp_path):
    torch.save({"mlp.layers.0.weight": torch.zeros(1, 1)}, tmp_path / "ImageReward.pt")
    with pytest.raises(CheckpointError, match=r"1 missing: blip\.visual_encoder\.patch_embed"):
        image_reward.load(model=str(tmp_path))
