"""Short prompts say what the picture shows, held-out ones are never trained on, the noise is what is asked for."""

import random

import pytest

from data_synth.world import pictures, short_prompts
from reward_models.kept_meaning import kept
from reward_models.world_picture import asked


def test_a_short_prompt_says_less_and_nothing_else():
    rng, lengths = random.Random(0), set()
    for shown in pictures.descriptions("train")[::7]:
        text = short_prompts.short(shown, rng)
        named, full = asked(text), asked(pictures.prompt(shown))
        assert {"count", "colour", "shape"} <= named.keys() and named.items() <= full.items()
        assert text[0].islower() and not text.endswith(".")
        lengths.add(len(named))
    assert lengths == {3, 4, 5}


def test_nothing_that_is_held_out_is_trained_on():
    trained = {one.prompt for one in short_prompts.examples(3000, noise=0.3)}
    held, others = (set(short_prompts.typed(10**6, held=held)) for held in (True, False))
    cores = {tuple(asked(text)[part] for part in ("count", "colour", "shape")) for text in held}
    assert 0.1 < len(cores) / 72 < 0.35 and not held & others and not held & trained
    for text in trained | others:
        assert tuple(asked(text)[part] for part in ("count", "colour", "shape")) not in cores


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_share_of_wrong_examples_is_the_noise(noise):
    found = short_prompts.examples(2000, noise=noise, seed=3)
    wrong = [one for one in found if kept(one.prompt, one.completion) < 1]
    assert abs(len(wrong) / len(found) - noise) < 0.035 and (noise or not wrong)
    assert found == short_prompts.examples(2000, noise=noise, seed=3) != short_prompts.examples(2000, noise=noise)
