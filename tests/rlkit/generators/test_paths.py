"""Ratios of sampled paths: exactly 1 before the first update of a round, which the run checks."""

import dataclasses

import pytest
import torch

pytest.importorskip("diffusers")

from rlkit.errors import GuardError
from rlkit.generators.session import open_session
from rlkit.recipe.file import load
from rlkit.train import ddpo, flow_grpo

FILES = {"flow_grpo": flow_grpo, "ddpo": ddpo}


def made(path, algorithm, overrides=()):
    recipe = load(path, overrides)
    return FILES[algorithm].algorithm(open_session(recipe, FILES[algorithm].start(recipe)))


@pytest.mark.parametrize("algorithm", FILES)
@pytest.mark.parametrize("guided", [False, True])
def test_every_ratio_is_exactly_1_before_the_first_update_and_not_after(generator_recipe, algorithm, guided):
    changes = ["generation.rollout_guidance_scale=3", "online.num_iterations=1"] if guided else []
    trains = made(generator_recipe(algorithm), algorithm, changes)
    losses = list(trains.losses(0))
    assert len(losses) == 2 * 2  # parts, and steps but the last
    assert all(metrics["ratio/max_deviation"] == 0.0 for _, metrics in losses)
    sum(loss for loss, _ in losses).backward()
    assert max(one.grad.abs().max() for one in trains.generator.parameters() if one.grad is not None) > 0
    with torch.no_grad():
        for one in trains.generator.parameters():
            one.add_(0.01)
    drawn = trains.current
    _, metrics = trains.loss(drawn, 0, 0, 8.0, first=False)
    assert metrics["ratio/max_deviation"] > 0
    with pytest.raises(GuardError, match="before the first update a ratio is off 1"):
        trains.loss(drawn, 0, 0, 8.0, first=True)


def test_a_path_kept_in_bf16_is_noticed(generator_recipe):
    trains = made(generator_recipe("flow_grpo"), "flow_grpo")
    drawn = trains.collect(0)
    path = drawn.drawn[0]
    path.trajectory = path.trajectory.bfloat16().float()
    path.steps = [dataclasses.replace(one, sample=one.sample.bfloat16().float()) for one in path.steps]
    with pytest.raises(GuardError, match="fp32"):
        trains.loss(drawn, 0, 0, 8.0, first=True)


@pytest.mark.parametrize("algorithm", FILES)
def test_the_last_step_draws_nothing_and_is_not_trained(generator_recipe, algorithm):
    trains = made(generator_recipe(algorithm), algorithm)
    path = trains.collect(0).drawn[0]
    assert [bool((one.std > 0).all()) for one in path.steps] == [True, True, False]
    assert list(trains.trained(0)) == [0, 1]


@pytest.mark.parametrize("algorithm", FILES)
def test_forward_passes_count_drawing_training_and_reference(generator_recipe, algorithm):
    for weight, passes in ((0.0, 2), (0.1, 3)):
        trains = made(generator_recipe(algorithm), algorithm, [f"{algorithm}.kl_weight={weight}"])
        told = [metrics for _, metrics in trains.losses(0)]
        assert trains.forward_passes == 8 * 3 + 8 * 2 * passes
        assert ("kl" in told[0]) == (weight > 0)
        assert weight == 0 or told[0]["kl"] == 0.0  # the reference is the policy
