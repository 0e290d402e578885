"""Pictures of the world: the same bytes for the same arguments, splits that share nothing, prompts that say all."""

import numpy as np
import pytest

from data_synth.world import pictures


def test_same_arguments_give_the_same_bytes_and_seeds_move_things():
    shown = pictures.Description(2, "red", "ball", "grey", "close-up")
    assert np.array_equal(pictures.render(shown, 3), pictures.render(shown, 3))
    assert not np.array_equal(pictures.render(shown, 3), pictures.render(shown, 4))
    assert pictures.render(shown, 3).shape == (32, 32, 3) and pictures.render(shown, 3).dtype == np.uint8
    assert pictures.drawn(40, seed=1) == pictures.drawn(40, seed=1) != pictures.drawn(40, seed=2)


def test_held_out_prompts_are_new_combinations_of_known_words():
    split = {name: pictures.descriptions(name) for name in ("train", "dev", "test")}
    assert sum(len(one) for one in split.values()) == 3 * 6 * 4 * 4 * 3
    prompts = {name: {pictures.prompt(one) for one in found} for name, found in split.items()}
    assert not prompts["train"] & prompts["test"] and not prompts["train"] & prompts["dev"]
    assert not prompts["dev"] & prompts["test"]
    words = {word for text in prompts["train"] for word in text.split()}
    assert {word for text in prompts["test"] | prompts["dev"] for word in text.split()} <= words


def test_every_description_comes_once_before_any_comes_again():
    pool = len(pictures.descriptions("test"))
    found = pictures.drawn(pool + 3, split="test")
    assert len(set(found[:pool])) == pool and set(found[pool:]) <= set(found[:pool])
    assert all(pictures.split_of(one) == "test" for one in found)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="validation"):
        pictures.descriptions("validation")


def test_things_have_the_colour_of_the_prompt():
    shown = pictures.Description(1, "green", "ball", "teal", "close-up")
    assert tuple(pictures.render(shown, 0)[16, 16]) == (60, 175, 75)
    assert tuple(pictures.render(shown, 0)[0, 0]) == (24, 98, 100)
