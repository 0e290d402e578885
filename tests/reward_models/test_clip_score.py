"""CLIPScore and PickScore against transformers' own logits, and the traps of their scale and prefix."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from reward_models import clip_score, pick_score
from reward_models.published.checkpoint import CheckpointError
from reward_models.published.pixels import Square
from tests.reward_models import tiny_checkpoints
from tests.reward_models.tiny_checkpoints import PROMPTS, pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tiny_checkpoints.clip_score(folder)
    return folder


def logits(folder, texts, pixels):
    """transformers' logits_per_image of each picture and its own text."""
    model = CLIPModel.from_pretrained(folder).eval()
    encoded = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model, model(**encoded, pixel_values=pixels).logits_per_image.diagonal()


def test_clip_score_is_the_clipped_cosine_of_the_prefixed_text(folder):
    pixels = Square(28).images(pictures())
    model, expected = logits(folder, [f"A photo depicts {prompt}" for prompt in PROMPTS], pixels)
    cosines = (expected / model.logit_scale.exp()).tolist()
    assert min(cosines) < 0 < max(cosines)
    found = clip_score.load(model=str(folder))(prompts=PROMPTS, completions=pictures())
    assert found == pytest.approx([2.5 * max(cosine, 0.0) for cosine in cosines], abs=1e-5)


def test_clip_score_as_others_report_it(folder):
    _, expected = logits(folder, PROMPTS, Square(28).images(pictures()))
    score = clip_score.load(model=str(folder), prefix="", weight=100.0)
    found = score(prompts=PROMPTS, completions=pictures())
    cosines = (expected / CLIPModel.from_pretrained(folder).logit_scale.exp()).clamp(min=0)
    assert found == pytest.approx((100 * cosines).tolist(), abs=1e-3)


def test_pick_score_is_transformers_logit(folder):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    _, expected = logits(folder, PROMPTS, processor(pictures(), return_tensors="pt")["pixel_values"])
    found = pick_score.load(model=str(folder), tokenizer=str(folder))(prompts=PROMPTS, completions=pictures())
    assert found == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_file_without_the_logit_scale_is_refused_where_transformers_makes_one_up(tmp_path):
    options = tiny_checkpoints.pick_score(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "logit_scale"}, tmp_path / "model.safetensors", {"format": "pt"})
    assert CLIPModel.from_pretrained(tmp_path).logit_scale.item() != pytest.approx(4.2)  # the trap: it loads
    with pytest.raises(CheckpointError, match="1 missing: logit_scale"):
        pick_score.load(**options)


def test_old_files_with_position_ids_load(tmp_path):
    options = tiny_checkpoints.pick_score(tmp_path)
    plain = pick_score.load(**options)(prompts=PROMPTS, completions=pictures())
    state = load_file(tmp_path / "model.safetensors")
    extra = {f"{tower}_model.embeddings.position_ids": torch.arange(5)[None] for tower in ("text", "vision")}
    save_file(state | extra, tmp_path / "model.safetensors", {"format": "pt"})
    assert pick_score.load(**options)(prompts=PROMPTS, completions=pictures()) == plain
