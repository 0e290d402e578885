"""LAION's heads, written out, on the embeddings of transformers' whole CLIP and SigLIP models."""

import pytest
import torch
from torch import einsum
from transformers import CLIPModel, SiglipModel

from reward_models import laion_aesthetic
from reward_models.published.checkpoint import CheckpointError
from reward_models.published.pixels import Square
from tests.reward_models import tiny_checkpoints
from tests.reward_models.tiny_checkpoints import pictures


def head(embedding, state, prefix, indices):
    value = embedding / embedding.norm(dim=-1, keepdim=True)
    for index in indices:
        value = einsum("bi,oi->bo", value, state[f"{prefix}.{index}.weight"]) + state[f"{prefix}.{index}.bias"]
    return value[:, 0].tolist()


def test_v2_equals_the_head_on_clips_image_features(tmp_path):
    options = tiny_checkpoints.laion_v2(tmp_path)
    model = CLIPModel.from_pretrained(tmp_path / "encoder").eval()
    with torch.no_grad():
        embedding = model.get_image_features(pixel_values=Square(28).images(pictures())).pooler_output
    expected = head(embedding, torch.load(tmp_path / "head.pth", weights_only=True), "layers", (0, 2, 4, 6, 7))
    score = laion_aesthetic.load(**options)
    assert score(prompts=[None] * 4, completions=pictures()) == pytest.approx(expected, abs=1e-5)
    in_folder = laion_aesthetic.load(**(options | {"model": str(tmp_path), "file": "head.pth"}))
    assert in_folder(prompts=[None] * 4, completions=pictures()) == pytest.approx(expected, abs=1e-5)


def test_v2_5_equals_the_head_on_siglips_image_features(tmp_path):
    options = tiny_checkpoints.laion_v2_5(tmp_path)
    model = SiglipModel.from_pretrained(tmp_path / "encoder").eval()
    half = (0.5, 0.5, 0.5)
    with torch.no_grad():
        pixels = Square(28, half, half, crop="squash").images(pictures())
        embedding = model.get_image_features(pixel_values=pixels).pooler_output
    expected = head(embedding, torch.load(tmp_path / "head.pth", weights_only=True), "scoring_head", (0, 2, 4, 6, 8))
    found = laion_aesthetic.load(**options)(prompts=[None] * 4, completions=pictures())
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_head_of_the_other_version_is_refused(tmp_path):
    options = tiny_checkpoints.laion_v2(tmp_path)
    state = torch.load(tmp_path / "head.pth", weights_only=True)
    torch.save({k.replace("layers", "scoring_head"): v for k, v in state.items()}, tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match=r"10 missing: .*10 unexpected: scoring_head\.0\.weight"):
        laion_aesthetic.load(**options)
    with pytest.raises(ValueError, match=r"version is 'v3', expected one of v2, v2\.5"):
        laion_aesthetic.load(**(options | {"version": "v3"}))
    with pytest.raises(CheckpointError, match=r"say with file= .*models/aesthetic_predictor_v2_5\.pth of https"):
        laion_aesthetic.load(model="discus0434/aesthetic", version="v2.5")


def test_an_encoder_of_another_width_is_refused(tmp_path):
    options = tiny_checkpoints.laion_v2(tmp_path)
    state = torch.load(tmp_path / "head.pth", weights_only=True)
    torch.save(state | {"layers.0.weight": torch.zeros(1024, 24)}, tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match=r"layers\.0\.weight is \[1024, 24\], expected \[1024, 16\]"):
        laion_aesthetic.load(**options)
