"""CLIP-FlanT5: its head is its own, tokens that the tokenizer lacks do not count, the tower may be apart."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reward_models import clip_flant5
from reward_models.published.checkpoint import CheckpointError, load_strictly, read_folder
from tests.reward_models import tiny_checkpoints
from tests.reward_models.tiny_checkpoints import PROMPTS, pictures


@pytest.fixture
def checkpoint(tmp_path):
    options = tiny_checkpoints.clip_flant5(tmp_path)
    return tmp_path, options, read_folder(tmp_path)


def load_with(checkpoint, state, **options):
    folder, given, _ = checkpoint
    for path in folder.glob("pytorch_model*"):
        path.unlink()
    save_file({k: v.clone() for k, v in state.items()}, folder / "model.safetensors")
    return clip_flant5.load(**(given | options))


def score_of(reward):
    return reward(prompts=PROMPTS, completions=pictures())


def test_the_tower_may_be_apart(checkpoint, tmp_path_factory):
    apart = tiny_checkpoints.clip_flant5(tmp_path_factory.mktemp("apart"), own_tower=False)
    assert score_of(clip_flant5.load(**apart)) == pytest.approx(score_of(clip_flant5.load(**checkpoint[1])), abs=1e-6)


def test_tokens_that_the_tokenizer_lacks_do_not_count(checkpoint):
    plain = score_of(clip_flant5.load(**checkpoint[1]))
    state = dict(checkpoint[2])
    moved = state["lm_head.weight"].clone()
    moved[-28:] += 5.0
    assert score_of(load_with(checkpoint, state | {"lm_head.weight": moved})) == pytest.approx(plain, abs=1e-6)
    moved[:-28] += 0.2 * torch.randn(moved[:-28].shape, generator=torch.Generator().manual_seed(0))
    other = score_of(load_with(checkpoint, state | {"lm_head.weight": moved}))
    assert max(abs(a - b) for a, b in zip(other, plain, strict=True)) > 1e-3


def test_the_head_is_not_the_embedding_unless_the_config_says_so(checkpoint):
    """transformers 5 ties them for every T5; loaded so, the head would overwrite the words of the question."""
    folder, options, state = checkpoint
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | {"tie_word_embeddings": True}))
    with pytest.raises(CheckpointError, match=r"shared\.weight and language\.lm_head\.weight differ, and are one"):
        clip_flant5.load(**options)
    tied = state | {"lm_head.weight": state["shared.weight"]}
    assert all(0 < one < 1 for one in score_of(load_with(checkpoint, tied)))


def test_tied_tensors_that_differ_are_refused_anywhere():
    module = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    module["b"].weight = module["a"].weight
    with pytest.raises(CheckpointError, match=r"here: a\.weight and b\.weight differ, and are one tensor"):
        load_strictly(module, {"a.weight": torch.zeros(2, 2), "b.weight": torch.ones(2, 2)}, source="here")
    load_strictly(module, {"a.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)}, source="here")


@pytest.mark.parametrize("name", ["mm_projector.0.weight", "mm_projector.2.bias", "lm_head.weight", "shared.weight"])
def test_a_missing_tensor_is_refused(checkpoint, name):
    kept = {key: value for key, value in checkpoint[2].items() if key != name}
    with pytest.raises(CheckpointError, match="1 missing"):
        load_with(checkpoint, kept)


def test_the_answer_and_the_question_are_choices(checkpoint):
    plain = score_of(clip_flant5.load(**checkpoint[1]))
    assert score_of(clip_flant5.load(**checkpoint[1], answer="no")) != pytest.approx(plain, abs=1e-3)
    assert score_of(clip_flant5.load(**checkpoint[1], question="{} yes")) != pytest.approx(plain, abs=1e-3)
    with pytest.raises(ValueError, match=r"expected one \{\}"):
        clip_flant5.load(**checkpoint[1], question="Is it?")
