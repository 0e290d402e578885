"""HPSv2's state dict, renamed, scores as OpenCLIP's own equations on the original names."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms as T
from transformers import AutoTokenizer

from reward_models import hps_v2
from reward_models.published.checkpoint import CheckpointError
from reward_models.published.pixels import CLIP_MEAN, CLIP_STD
from tests.reward_models import tiny_checkpoints
from tests.reward_models.tiny_checkpoints import PROMPTS, pictures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hps")
    return folder, tiny_checkpoints.hps_v2(folder)


def blocks(x, state, tower, heads, mask, activation):
    """Pre-norm transformer on [tokens, batch, width] with torch's own multi-head attention."""
    for block in range(2):
        at = f"{tower}.resblocks.{block}."
        y = F.layer_norm(x, x.shape[-1:], state[at + "ln_1.weight"], state[at + "ln_1.bias"])
        attended, _ = F.multi_head_attention_forward(
            y, y, y, x.shape[-1], heads, state[at + "attn.in_proj_weight"], state[at + "attn.in_proj_bias"],
            None, None, False, 0.0, state[at + "attn.out_proj.weight"], state[at + "attn.out_proj.bias"],
            training=False, attn_mask=mask, need_weights=False,
        )  # fmt: skip
        x = x + attended
        y = F.layer_norm(x, x.shape[-1:], state[at + "ln_2.weight"], state[at + "ln_2.bias"])
        y = activation(F.linear(y, state[at + "mlp.c_fc.weight"], state[at + "mlp.c_fc.bias"]))
        x = x + F.linear(y, state[at + "mlp.c_proj.weight"], state[at + "mlp.c_proj.bias"])
    return x


def reference(state, ids, pixels, activation=F.gelu):
    """Cosine of one text and one picture by the tensors' original names."""
    x = F.conv2d(pixels[None], state["visual.conv1.weight"], stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(1, 1, -1), x], 1) + state["visual.positional_embedding"]
    x = F.layer_norm(x, x.shape[-1:], state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    x = blocks(x.transpose(0, 1), state, "visual.transformer", 2, None, activation)[0]
    x = F.layer_norm(x, x.shape[-1:], state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    seen = x @ state["visual.proj"]
    ids = torch.tensor([ids + [0] * (77 - len(ids))])  # OpenCLIP pads with 0
    x = (state["token_embedding.weight"][ids] + state["positional_embedding"]).transpose(0, 1)
    x = blocks(x, state, "transformer", 2, torch.full((77, 77), -torch.inf).triu(1), activation)
    x = F.layer_norm(x, x.shape[-1:], state["ln_final.weight"], state["ln_final.bias"]).transpose(0, 1)
    read = x[0, ids[0].argmax()] @ state["text_projection"]
    return F.cosine_similarity(seen[0], read, dim=0).item()


def test_equals_open_clips_equations_and_is_not_multiplied_by_the_logit_scale(checkpoint):
    folder, options = checkpoint
    state = torch.load(folder / "HPS_v2.1_compressed.pt", weights_only=True)["state_dict"]
    transform = T.Compose(
        [T.ToTensor(), T.Resize(28, T.InterpolationMode.BICUBIC), T.CenterCrop(28), T.Normalize(CLIP_MEAN, CLIP_STD)]
    )
    ids = AutoTokenizer.from_pretrained(folder)(PROMPTS)["input_ids"]
    pairs = list(zip(ids, map(transform, pictures()), strict=True))
    found = hps_v2.load(**options)(prompts=PROMPTS, completions=pictures())
    assert found == pytest.approx([reference(state, *pair) for pair in pairs], abs=1e-5)

    def quick_gelu(x):
        return x * torch.sigmoid(1.702 * x)

    trap = [reference(state, *pair, quick_gelu) for pair in pairs]  # transformers' default activation
    assert max(abs(a - b) for a, b in zip(found, trap, strict=True)) > 1e-3


def test_antialias_is_a_choice(checkpoint):
    found = [
        hps_v2.load(**checkpoint[1], antialias=one)(prompts=PROMPTS, completions=pictures()) for one in (True, False)
    ]
    assert found[0][:3] != pytest.approx(found[1][:3], abs=1e-4)
    assert found[0][3] == pytest.approx(found[1][3], abs=1e-6)  # 28 x 28: nothing to resize


def test_another_kind_of_file_says_so(tmp_path):
    torch.save({"state_dict": {"logit_scale": torch.zeros(())}}, tmp_path / "HPS_v2.1_compressed.pt")
    with pytest.raises(CheckpointError, match=r"7 missing: visual\.conv1\.weight"):
        hps_v2.load(model=str(tmp_path))
