"""Flow-GRPO end to end on a tiny flow pipeline, and its windows and forms."""

from functools import partial

import pytest
import torch

pytest.importorskip("diffusers")

from rlkit import sde
from rlkit.errors import ModelError
from rlkit.generators.session import open_session
from rlkit.recipe import FlowGrpo
from rlkit.recipe.file import load
from rlkit.run import run as launch
from rlkit.train import flow_grpo


def made(path, overrides=()):
    recipe = load(path, overrides)
    return flow_grpo.algorithm(open_session(recipe, flow_grpo.start(recipe)))


def test_it_raises_the_trained_reward_on_held_out_prompts(generator_recipe):
    """Redness, a reward that any generator can raise, in units of 0 to 255; all weights trained, the start kept."""
    changes = ["train.max_steps=24", "train.learning_rate=3.0e-3", "model.lora=null", "evaluate.num_clips=6"]
    changes += ["flow_grpo.kl_weight=0", "flow_grpo.clip_range=0.01", "online.ema_decay=0"]
    changes += ["train.gradient_accumulation_steps=4"]
    folder = launch(generator_recipe("flow_grpo"), changes)[-1]
    results = folder.results()
    assert results["differences"]["flow_grpo"]["base"]["reward"]["low"] > 3
    assert (folder.final / "model_index.json").is_file() and results["headline"] == ["base", "flow_grpo"]


@pytest.mark.parametrize("form", ["guard", "dppo"])
def test_forms_have_the_direction_of_the_clipped_loss_before_the_first_update(generator_recipe, form):
    """There all ratios are 1: guard's gradient is that of the clipped loss times std / |dt| step by step, dppo's equal
    to it."""
    gradients, trains = {}, made(generator_recipe("flow_grpo"), ["flow_grpo.kl_weight=0"])
    drawn = trains.collect(0)
    for one in ("clip", form):
        trains.objective = partial(flow_grpo.objective, FlowGrpo(form=one))
        loss, _ = trains.loss(drawn, 0, 0, 4.0, first=True)
        found = torch.autograd.grad(loss, trains.generator.parameters(), allow_unused=True)
        gradients[one] = torch.cat([grad.flatten() for grad in found if grad is not None])
    path = drawn.drawn[0]
    times = path.steps[0].std[0] / (path.levels[0] - path.levels[1]) if form == "guard" else 1.0
    assert gradients["clip"].norm() > 0
    torch.testing.assert_close(gradients[form], gradients["clip"] * times, rtol=1e-3, atol=1e-7)


def test_outside_of_the_window_steps_are_the_ode_s_and_cost_no_training(generator_recipe):
    trains = made(
        generator_recipe("flow_grpo"),
        ["flow_grpo.window=1", "flow_grpo.window_order=progressive", "generation.num_inference_steps=4"],
    )
    path = trains.collect(1).drawn[0]
    assert [bool((one.std > 0).all()) for one in path.steps] == [False, True, False, False]
    text = trains.session.embeddings(trains.collect(1).prompts[:4])
    velocity = trains.generator.predict(path.trajectory[0], path.timesteps[0].expand(4), text)
    euler = sde.ode_step(velocity, path.trajectory[0], path.levels[0], path.levels[1]).sample
    assert torch.equal(path.trajectory[1], euler)
    assert len(list(trains.losses(2))) == 2  # round 1: one step of both parts


def test_windows_move_over_all_random_steps():
    progressive = FlowGrpo(window=2, window_order="progressive", window_rounds=3)
    found = [list(flow_grpo.trained(progressive, 6, 0, number)) for number in range(15)]
    expected = [[0, 1], [1, 2], [2, 3], [3, 4], [0, 1]]
    assert found == [one for one in expected for _ in range(3)]
    drawn = [tuple(flow_grpo.trained(FlowGrpo(window=2), 6, 0, number)) for number in range(60)]
    assert set(drawn) == {(0, 1), (1, 2), (2, 3), (3, 4)}
    assert list(flow_grpo.trained(FlowGrpo(), 6, 0, 9)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sampler", ["flow_sde", "dance_sde", "cps"])
def test_all_samplers_start_at_ratio_1(generator_recipe, sampler):
    trains = made(generator_recipe("flow_grpo"), [f"flow_grpo.sampler={sampler}", "flow_grpo.form=guard"])
    assert all(metrics["ratio/max_deviation"] == 0.0 for _, metrics in trains.losses(0))


def test_the_kl_to_the_reference_pulls_back(generator_recipe):
    """With nothing to learn from, the gradient is that of kl_weight times the closed form, over the trained steps."""
    trains = made(generator_recipe("flow_grpo"), ["flow_grpo.kl_weight=2.0"])
    drawn = trains.collect(0)
    drawn.advantages[:], drawn.mask[:] = 0.0, True
    with torch.no_grad():
        for one in trains.generator.parameters():
            one.add_(0.05)
    loss, metrics = trains.loss(drawn, 0, 0, 4.0, first=False)
    path = drawn.drawn[0]
    text = trains.session.embeddings(drawn.prompts[:4])
    velocities = [
        trains.generator.predict(path.trajectory[0], path.timesteps[0].expand(4), text, name=name)
        for name in ("policy", "reference")
    ]
    s, s_next = path.levels[0].item(), path.levels[1].item()
    g = 0.7 * (s / (1 - s_next)) ** 0.5  # sigma is 1, where sigmas[1] stands in
    factor = (1 + g**2 * (1 - s) / (2 * s)) * (s_next - s)  # of the velocity in the mean
    shift = factor * (velocities[0] - velocities[1])
    expected = (shift.square().flatten(1).mean(1) / (2 * g**2 * (s - s_next))).mean()
    assert metrics["kl"] == pytest.approx(expected.item(), rel=1e-4)
    assert loss.item() == pytest.approx(2 * expected.item(), rel=1e-4)
    loss.backward()
    assert max(one.grad.abs().max() for one in trains.generator.parameters() if one.grad is not None) > 0


def test_an_epsilon_model_is_refused(generator_recipe, epsilon_folder):
    with pytest.raises(ModelError, match="flow_grpo trains flow models; StableDiffusionPipeline predicts noise"):
        flow_grpo.start(load(generator_recipe("flow_grpo"), [f"model.id={epsilon_folder}"]))
