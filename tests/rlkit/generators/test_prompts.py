"""Prompts: the world's and a file's splits, the endless order, refusals, and embeddings that are computed once."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("diffusers")

from data_synth.errors import DataError as WorldError
from rlkit.errors import DataError
from rlkit.generators.prompts import Embeddings, Prompts, read_prompts
from rlkit.recipe import Evaluate, Generation, Recipe


def from_file(tmp_path, text, count=200):
    path = tmp_path / "prompts.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_prompts(
        Recipe(algorithm="nft", generation=Generation(prompts=str(path)), evaluate=Evaluate(num_clips=count))
    )


def test_the_world_s_held_out_prompts_are_not_trained_on():
    found = read_prompts(Recipe(algorithm="nft", evaluate=Evaluate(num_clips=40)))
    assert len(found.held_out) == 40 and not set(found.held_out) & set(found.train)


def test_of_a_file_every_fifth_is_held_out_and_repeats_count_once(tmp_path):
    found = from_file(tmp_path, "a\n\nb\nc\nd\ne\nf\na\n")
    assert found.held_out == ["a", "f"] and found.train == ["b", "c", "d", "e"]
    assert from_file(tmp_path, "a\nb\nc\nd\ne\nf\n", count=1).held_out == ["a"]


def test_files_without_prompts_are_refused(tmp_path):
    for text in ("", "only one\n", "\n\n"):
        with pytest.raises(DataError, match="at least two"):
            from_file(tmp_path, text)
    with pytest.raises((DataError, WorldError), match="UTF-8"):
        from_file(tmp_path, b"caf\xe9\nbar\n")


def test_every_pass_over_the_prompts_is_another_permutation():
    prompts = Prompts([str(at) for at in range(12)], [])
    first, second = ([prompts.at(12 * again + at, 0) for at in range(12)] for again in range(2))
    assert sorted(first) == sorted(second) == list(range(12)) and first != second
    assert first == [prompts.at(at, 0) for at in range(12)] != [prompts.at(at, 1) for at in range(12)]


@pytest.mark.parametrize("cache_gib", [1.0, 0.0])
def test_embeddings_are_encoded_once_where_they_fit_and_are_right_where_not(cache_gib):
    asked = []

    def encode(pipe, prompts):
        asked.extend(prompts)
        return {"embeds": torch.tensor([[float(len(one or ""))] for one in prompts])}

    family = SimpleNamespace(encode_prompts=encode)
    embeddings = Embeddings(SimpleNamespace(family=family, pipe=None, device="cpu"), cache_gib)
    for _ in range(2):
        assert embeddings(["ab", None, "abc", "ab"])["embeds"].flatten().tolist() == [2.0, 0.0, 3.0, 2.0]
    assert asked == ["ab", None, "abc"] * (1 if cache_gib else 2)
