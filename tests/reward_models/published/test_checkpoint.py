"""Strict loading: a tensor too few, too many or of another shape refuses; a pickle never runs; errors say why."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import reward_models
from reward_models.published.checkpoint import CheckpointError, fetch, fetch_folder, load_strictly, read, read_folder
from tests.reward_models.tiny_checkpoints import IMAGE_REWARDS, MODULES, PROMPTS, pictures

HEADS = {
    "clip_score": ["visual_projection.weight", "text_projection.weight"],
    "pick_score": ["visual_projection.weight", "text_projection.weight", "logit_scale"],
    "hps_v2": ["visual.proj", "text_projection"],
    "laion_v2": [f"layers.{i}.{kind}" for i in (0, 2, 4, 6, 7) for kind in ("weight", "bias")],
    "laion_v2_5": [f"scoring_head.{i}.{kind}" for i in (0, 2, 4, 6, 8) for kind in ("weight", "bias")],
    "image_reward": [f"mlp.layers.{i}.{kind}" for i in (0, 2, 4, 6, 7) for kind in ("weight", "bias")],
}
FILES = {
    "hps_v2": "HPS_v2.1_compressed.pt",
    "laion_v2": "head.pth",
    "laion_v2_5": "head.pth",
    "image_reward": "ImageReward.pt",
}


@pytest.fixture(scope="session", params=HEADS)
def checkpoint(request, tmp_path_factory):
    """(name, options, path of the file with the head, its tensors)."""
    folder = tmp_path_factory.mktemp("strict") / request.param
    folder.mkdir()
    options = IMAGE_REWARDS[request.param](folder)
    path = folder / FILES.get(request.param, "model.safetensors")
    return request.param, options, path, read(path)


def load_with(checkpoint, state):
    """The reward after its file was replaced by `state`; the file is put back."""
    name, options, path, _ = checkpoint
    kept = path.rename(path.with_name("kept"))  # not written over: transformers maps the file into memory
    try:
        save_file(state, path, {"format": "pt"}) if path.suffix == ".safetensors" else torch.save(state, path)
        return reward_models.load(MODULES.get(name, name), **options)
    finally:
        kept.replace(path)


def test_every_head_tensor_must_be_in_the_file(checkpoint):
    name, _, path, state = checkpoint
    for head in HEADS[name]:
        with pytest.raises(CheckpointError, match=r"random or unread weights must not score.*missing") as error:
            load_with(checkpoint, {key: value for key, value in state.items() if key != head})
        said = str(error.value)
        assert "1 missing" in said and "unexpected" not in said
        assert (str(path) in said or str(path.parent) in said) and head.split(".")[-1] in said


def test_every_head_tensor_changes_the_score(checkpoint):
    name, options, _, state = checkpoint
    plain = reward_models.load(MODULES.get(name, name), **options)(prompts=PROMPTS, completions=pictures())
    for head in HEADS[name]:
        moved = load_with(checkpoint, state | {head: state[head] + 0.3 * (1 + state[head].abs().mean())})
        found = moved(prompts=PROMPTS, completions=pictures())
        assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) > 1e-4, head


def test_an_unexpected_tensor_refuses(checkpoint):
    with pytest.raises(CheckpointError, match=r"1 unexpected: .*regression_head\.weight"):
        load_with(checkpoint, checkpoint[3] | {"regression_head.weight": torch.zeros(1)})


def test_a_tensor_of_another_shape_refuses_and_is_not_called_missing(checkpoint):
    name, _, _, state = checkpoint
    head = HEADS[name][-1]
    with pytest.raises(CheckpointError, match="1 of another shape") as error:
        load_with(checkpoint, state | {head: torch.zeros(*state[head].shape, 2)})
    assert "missing" not in str(error.value)


def test_nan_weights_give_no_score_and_a_warning(checkpoint):
    name, _, _, state = checkpoint
    broken = load_with(checkpoint, state | {HEADS[name][0]: torch.full_like(state[HEADS[name][0]], torch.nan)})
    with pytest.warns(UserWarning, match="4 of 4 scores are not finite"):
        assert broken(prompts=PROMPTS, completions=pictures()) == [None] * 4


class Runs:
    def __reduce__(self):
        return os.mkdir, (os.environ["RLKIT_PICKLE_PROBE"],)


def test_a_pickle_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setenv("RLKIT_PICKLE_PROBE", str(tmp_path / "ran"))
    torch.save({"state_dict": {"a": torch.zeros(1)}, "optimizer": Runs()}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"w\.pt is damaged, or a pickle that holds more than tensors"):
        read(tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "w.pt", weights_only=False)  # the probe does run where it may
    assert (tmp_path / "ran").exists()


def test_reads_both_formats_wrapped_or_not(tmp_path):
    state = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.bfloat16)}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "bare.pth")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "wrapped.pt")
    for file in ("w.safetensors", "bare.pth", "wrapped.pt"):
        found = read(tmp_path / file)
        assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("file", ["w.safetensors", "w.pt"])
def test_a_damaged_file_is_an_error_with_its_path(tmp_path, file):
    (tmp_path / file).write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=rf"{file} is (not a whole|damaged)"):
        read(tmp_path / file)


def test_a_file_without_tensors_is_an_error(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="holds dict, expected tensors by name"):
        read(tmp_path / "w.pt")


def test_a_folder_in_shards_is_read_whole(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_folder(tmp_path).keys() == {"a", "b"}
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model-2\.safetensors; it holds model-1\.safetensors"):
        read_folder(tmp_path)


def test_renames_by_the_first_rule_that_matches_the_whole_name():
    module = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Linear(2, 1, bias=False)})
    state = {
        "x.0.weight": torch.ones(1, 2),
        "x.0.bias": torch.ones(1),
        "b.weight": torch.ones(1, 2),
        "old": torch.ones(9),
    }
    rules = [(r"x\.0\.(weight|bias)", r"a.\1"), (r"x\..*", "nowhere"), ("old", None)]
    load_strictly(module, state, source="here", rules=rules)
    assert torch.equal(module["a"].weight, torch.ones(1, 2))
    with pytest.raises(CheckpointError, match=r"1 missing: a\.bias; 1 unexpected: x\.0\.bia \(as nowhere\)"):
        load_strictly(
            module, {("x.0.bia" if k == "x.0.bias" else k): v for k, v in state.items()}, source="here", rules=rules
        )
    with pytest.raises(CheckpointError, match=r"x\.0\.weight and another tensor both become a\.weight"):
        load_strictly(module, {"a.weight": torch.ones(1, 2)} | state, source="here", rules=rules)


def test_long_lists_are_cut_and_counted():
    with pytest.raises(CheckpointError, match=r"20 unexpected: .* \.\.\.\. Is it the right file"):
        load_strictly(nn.Identity(), {f"t{i}": torch.zeros(1) for i in range(20)}, source="here")


def test_where_there_is_no_network_the_error_says_so(tmp_path):
    with pytest.raises(CheckpointError, match=r"w\.pt of nobody/nothing is not in the local cache.*hf download nobody"):
        fetch("nobody/nothing", "w.pt")
    with pytest.raises(CheckpointError, match="nobody/nothing is not in the local cache"):
        fetch_folder("nobody/nothing", ["*.json"])
    with pytest.raises(CheckpointError, match=r"no such/hub/id is neither a folder here nor a hub id"):
        fetch("no such/hub/id", "w.pt")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=rf"{tmp_path} has no w\.pt; it holds notes\.txt\."):
        fetch(tmp_path, "w.pt")
    (tmp_path / "w.pt").touch()
    assert fetch(tmp_path, "w.pt") == fetch(tmp_path / "w.pt", "other.pt") == Path(tmp_path / "w.pt")


def test_tensors_of_a_safetensors_checkpoint_load_the_same(tmp_path):
    folder = tmp_path / "hps"
    folder.mkdir()
    options = IMAGE_REWARDS["hps_v2"](folder)
    plain = reward_models.load("hps_v2", **options)(prompts=PROMPTS, completions=pictures())
    save_file(read(folder / "HPS_v2.1_compressed.pt"), folder / "hps.safetensors")
    again = reward_models.load("hps_v2", **(options | {"file": "hps.safetensors"}))
    assert again(prompts=PROMPTS, completions=pictures()) == plain
    assert load_file(folder / "hps.safetensors").keys() == read(folder / "HPS_v2.1_compressed.pt").keys()
