"""Online DPO on tiny pipelines, flow and epsilon."""

import math

import pytest

pytest.importorskip("diffusers")

from rlkit.generators.session import open_session
from rlkit.recipe.file import load
from rlkit.run import run as launch
from rlkit.train import online_dpo


def made(path, overrides=()):
    recipe = load(path, overrides)
    return online_dpo.OnlineDpo(open_session(recipe, online_dpo.start(recipe)))


def test_it_raises_the_trained_reward_on_held_out_prompts(generator_recipe):
    changes = ["train.max_steps=30", "train.learning_rate=3.0e-3", "model.lora=null", "evaluate.num_clips=6"]
    changes += ["online_dpo.dpo_beta=10", "train.gradient_accumulation_steps=4"]
    results = launch(generator_recipe("online_dpo"), changes)[-1].results()
    assert results["differences"]["online_dpo"]["base"]["reward"]["low"] > 3


def test_pairs_are_the_best_and_the_worst_of_each_group_and_the_first_loss_is_log_2(generator_recipe):
    trains = made(generator_recipe("online_dpo"))
    losses = list(trains.losses(0))
    drawn, found = trains.current, trains.pairs(trains.current)
    for number, (best, worst) in enumerate(zip(found.best.tolist(), found.worst.tolist(), strict=True)):
        group = drawn.scores[4 * number : 4 * number + 4, 0]
        assert drawn.scores[best, 0] == group.max() and drawn.scores[worst, 0] == group.min()
    total = sum(loss for loss, _ in losses) / 2  # the engine divides by gradient_accumulation_steps
    assert total.item() == pytest.approx(math.log(2), rel=1e-6)
    assert losses[0][1]["pairs/made"] == 2.0 and losses[0][1]["rewards/margins"] == 0.0
    assert trains.forward_passes == 8 * 3 + 4 * 3  # drawing; two pairs by policy (backward too) and reference
    total.backward()
    assert max(one.grad.abs().max() for one in trains.generator.parameters() if one.grad is not None) > 0


def test_masked_pictures_are_in_no_pair(generator_recipe):
    trains = made(generator_recipe("online_dpo"))
    drawn = trains.collect(0)
    best = trains.pairs(drawn).best[0].item()
    drawn.mask[best] = False
    assert best not in trains.pairs(drawn).best.tolist()
    drawn.mask[1:4] = drawn.mask[0] = False  # the whole first group
    assert len(trains.pairs(drawn).best) == 1


def test_an_epsilon_model_takes_a_step_too(generator_recipe, epsilon_folder):
    changes = [f"model.id={epsilon_folder}", "train.max_steps=1", "evaluate.num_clips=1"]
    results = launch(generator_recipe("online_dpo"), changes)[-1].results()
    assert results["complete"] and results["systems"]["online_dpo"]["forward_passes"]["value"] == 8 * 3 + 4 * 3
