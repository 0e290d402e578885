"""When rewards may steer: their choice beats the rest by the held-out judge, beyond chance."""

import math

import numpy as np
import pytest

from rlkit import gates
from rlkit.errors import GateError
from rlkit.generators import reward_gate
from rlkit.recipe import Recipe, Sampling
from rlkit.running.folder import RunFolder


class Said:
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path, True)


def samples(gain, count=200, seed=0):
    """Held-out scores of unit variance, whose chosen tenth is `gain` better in the mean."""
    rng = np.random.default_rng(seed)
    chosen = np.arange(count) % 10 == 0
    return rng.normal(size=count) + gain * chosen, chosen, [str(at) for at in range(count)]


def test_a_choice_that_the_held_out_judge_likes_opens_the_gate(folder):
    values, chosen, prompts = samples(2.0)
    gate = reward_gate.of_samples(values, chosen, prompts, "20 of 200")
    assert gate.open and gate.gain.value == pytest.approx(values[chosen].mean() - values.mean())
    assert gate.plain.value == pytest.approx(values.mean())
    said = Said()
    gates.settle("reward", "redness", gate, "", Recipe(algorithm="bootstrap"), folder, said)
    assert said.notes[0].startswith("reward gate open: 20 of 200; by the held-out judge")
    assert gates.passed(Recipe(algorithm="bootstrap"), folder)


def test_a_blind_one_does_not_in_19_of_20_cases(folder):
    shut = [not reward_gate.of_samples(*samples(0.0, seed=seed), "x").open for seed in range(40)]
    assert sum(shut) >= 36
    gate = reward_gate.of_samples(*samples(-1.0), "20 of 200")
    with pytest.raises(GateError, match=r"reward gate closed.*difference -.*Do better, or sampling.gate=warn"):
        gates.settle("reward", "redness", gate, "Do better", Recipe(algorithm="bootstrap"), folder, Said())
    assert not gates.passed(Recipe(algorithm="bootstrap"), folder)  # asked again when the run is launched again
    warn = Recipe(algorithm="bootstrap", sampling=Sampling(gate="warn"))
    said = Said()
    gates.settle("reward", "redness", gate, "Do better", warn, folder, said)
    assert "closed" in said.notes[0] and gates.passed(warn, folder)
    assert gates.passed(Recipe(algorithm="bootstrap", sampling=Sampling(gate="off")), folder)


def test_prompts_are_compared_one_by_one_and_those_without_a_score_left_out():
    """A gain of 0.1 on every prompt is sure, however far apart prompts lie."""
    plain = [*np.linspace(0, 10, 30), math.nan, 1.0]
    best = [one + 0.1 for one in plain[:30]] + [5.0, math.nan]
    gate = reward_gate.of_prompts(plain, best, [str(at) for at in range(32)], "the best of 8")
    assert gate.open and gate.gain.value == pytest.approx(0.1) and gate.gain.low == pytest.approx(0.1)
    assert gate.plain.value == pytest.approx(5.0)


def test_without_any_score_the_gate_stays_shut():
    assert not reward_gate.of_prompts([math.nan], [1.0], ["a"], "x").open
    assert not reward_gate.of_samples([math.nan] * 4, [True, False] * 2, list("abcd"), "x").open
