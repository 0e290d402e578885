"""DDPO on a tiny epsilon pipeline."""

import pytest
import torch

pytest.importorskip("diffusers")

from rlkit.advantages import PromptStatistics
from rlkit.errors import ModelError
from rlkit.generators.session import open_session
from rlkit.recipe.file import load
from rlkit.run import run as launch
from rlkit.train import ddpo


def test_a_run_leaves_results_and_an_adapter(generator_recipe):
    folder = launch(generator_recipe("ddpo"), ["evaluate.num_clips=1"])[-1]
    results = folder.results()
    assert results["complete"] and results["headline"] == ["base", "ddpo"]
    # two rounds of 8 pictures in 3 steps; 3 optimiser steps on 2 steps of 8 pictures, forward and backward
    assert results["systems"]["ddpo"]["forward_passes"]["value"] == 2 * 8 * 3 + 3 * 2 * 8 * 2
    assert (folder.final / "pytorch_lora_weights.safetensors").is_file()


def test_steps_are_those_of_diffusers_ddim_with_eta_1(generator_recipe):
    """The stock scheduler, given the same noise, draws the same path."""
    from diffusers import DDIMScheduler

    recipe = load(generator_recipe("ddpo"))
    trains = ddpo.algorithm(open_session(recipe, ddpo.start(recipe)))
    path = trains.collect(0).drawn[0]
    scheduler = DDIMScheduler.from_config(trains.generator.pipe.scheduler.config)
    scheduler.set_timesteps(3)
    text = trains.session.embeddings(trains.collect(0).prompts[:4])
    for index in (0, 1):
        sample, timestep = path.trajectory[index], scheduler.timesteps[index]
        epsilon = trains.generator.predict(sample, timestep.expand(4), text)
        step = path.steps[index]
        noise = (step.sample - step.mean) / step.std[:, None, None, None]
        stock = scheduler.step(epsilon, timestep, sample, eta=1.0, variance_noise=noise).prev_sample
        torch.testing.assert_close(path.trajectory[index + 1], stock, rtol=1e-4, atol=1e-4)


def test_several_rewards_are_compared_each_with_its_prompt_s_past_then_added(generator_recipe):
    changes = ["rewards=[{./redness.py: {weight: 2.0}}, world_picture]", "ddpo.min_count=2"]
    recipe = load(generator_recipe("ddpo"), changes)
    past = ddpo.Past(open_session(recipe, ddpo.start(recipe)))
    scores, prompts = torch.tensor([[1.0, 5.0], [2.0, 3.0], [4.0, torch.nan], [9.0, 0.0]]), [0, 0, 1, 1]
    found = past(scores, [0, 0, 1, 1], prompts)
    first, second = (PromptStatistics(min_count=2).update(scores[:, at], prompts) for at in (0, 1))
    assert found.mask.tolist() == [True, True, False, True]
    torch.testing.assert_close(found.values, torch.where(found.mask, 2 * first.values + second.values, 0.0))
    assert found.counts.missing == 1


def test_a_flow_model_is_refused(generator_recipe, flow_folder):
    with pytest.raises(ModelError, match="ddpo trains epsilon models; StableDiffusion3Pipeline predicts a velocity"):
        ddpo.start(load(generator_recipe("ddpo"), [f"model.id={flow_folder}"]))
