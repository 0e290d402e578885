"""DRaFT-K and ReFL on a tiny flow pipeline: which steps carry the gradient, and that the reward rises."""

import json

import pytest
import torch

pytest.importorskip("diffusers")

from rlkit import sde
from rlkit.errors import ModelError
from rlkit.generators.session import open_session
from rlkit.recipe.file import load
from rlkit.run import run as launch
from rlkit.train import reward_backprop


def made(path, overrides=()):
    recipe = load(path, overrides)
    return reward_backprop.RewardBackprop(open_session(recipe, reward_backprop.start(recipe)))


@pytest.mark.parametrize("form", ["draft", "refl"])
def test_it_raises_the_trained_reward_on_held_out_prompts(generator_recipe, form):
    changes = ["train.max_steps=12", "train.learning_rate=3.0e-3", "model.lora=null", "evaluate.num_clips=6"]
    changes += [f"reward_backprop.form={form}", "reward_backprop.grad_steps=2", "train.gradient_accumulation_steps=1"]
    results = launch(generator_recipe("reward_backprop"), changes)[-1].results()
    assert results["differences"]["reward_backprop"]["base"]["reward"]["low"] > 3
    # 12 steps of 4 pictures, each 3 passes and the backward ones: of two steps, or of one step that is also taken twice
    assert results["systems"]["reward_backprop"]["forward_passes"]["value"] == 12 * 4 * 5


@pytest.mark.parametrize("grad_steps", [1, 2])
def test_the_gradient_is_that_of_the_last_steps_alone(generator_recipe, grad_steps):
    """Against the same path walked by hand, its first steps under no_grad."""
    trains = made(generator_recipe("reward_backprop"), [f"reward_backprop.grad_steps={grad_steps}"])
    text, seeds = trains.session.embeddings(["A red ball on a grey background, close-up."] * 2), [1, 2]
    latents, _ = trains.draft(text, seeds)
    latents[:, 0].sum().backward()
    parameters = trains.generator.parameters()
    found = [None if one.grad is None else one.grad.clone() for one in parameters]
    rolled = trains.rollout(text, seeds, trains.move, keep_trajectory=True)
    sample = rolled.trajectory[3 - grad_steps]
    for at in range(3 - grad_steps, 3):
        velocity = trains.generator.predict(sample, rolled.timesteps[at].expand(2), text)
        sample = sample + velocity * (rolled.levels[at + 1] - rolled.levels[at])
    expected = torch.autograd.grad(sample[:, 0].sum(), parameters, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert latents.requires_grad and any(one is not None and one.abs().max() > 0 for one in found)


@pytest.mark.parametrize("form", ["draft", "refl"])
def test_mixed_precision_keeps_the_gradient_of_weights_that_the_first_steps_have_cast(generator_recipe, form):
    """autocast keeps what it has cast under no_grad, without a graph."""
    path, changes = generator_recipe("reward_backprop"), [f"reward_backprop.form={form}", "model.lora=null"]
    without = {}
    for mixed in (False, True):
        trains = made(path, changes)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss, _ = trains.loss(0, 0)
            loss.backward()
        named = trains.generator.denoiser.named_parameters()
        without[mixed] = [name for name, one in named if one.requires_grad and one.grad is None]
    assert without[True] == without[False]


def test_refl_judges_the_clean_picture_that_one_late_step_predicts(generator_recipe):
    trains = made(generator_recipe("reward_backprop"), ["reward_backprop.form=refl"])
    text, seeds = trains.session.embeddings(["A red ball on a grey background, close-up."] * 2), [1, 2]
    latents, _ = trains.refl(text, seeds)
    rolled = trains.rollout(text, seeds, trains.move, keep_trajectory=True)
    velocity = trains.generator.predict(rolled.trajectory[2], rolled.timesteps[2].expand(2), text)
    assert torch.equal(latents, sde.flow_x0(velocity, rolled.trajectory[2], rolled.levels[2]))


def test_above_the_ceiling_nothing_is_learnt_and_the_reference_pulls(generator_recipe):
    trains = made(generator_recipe("reward_backprop"), ["reward_backprop.ceiling=0.0", "reward_backprop.kl_weight=1.0"])
    loss, metrics = trains.loss(0, 0)
    assert loss.item() == 0.0 and metrics["reward"] > 0 and metrics["velocity_mse"] == 0.0
    with torch.no_grad():
        for one in trains.generator.parameters():
            one.add_(0.05)
    loss, metrics = trains.loss(0, 0)
    assert loss.item() == pytest.approx(metrics["velocity_mse"]) and loss.item() > 0


def test_a_reward_without_a_gradient_is_refused(generator_recipe):
    with pytest.raises(ModelError, match=r"world_picture has no differentiable path \(score_tensors\)"):
        made(generator_recipe("reward_backprop"), ["rewards=[world_picture]"])


def test_stopped_and_resumed_it_ends_with_the_same_bytes(generator_recipe, tmp_path):
    path, changes = generator_recipe("reward_backprop"), ["train.save_steps=2", "train.max_steps=4"]
    whole = launch(path, ["out=whole", *changes])[-1]
    launch(path, ["out=stopped", *changes])
    stopped = tmp_path / "stopped"
    for name in ("results.json", "final/pytorch_lora_weights.safetensors"):
        (stopped / name).unlink()
    resumed = launch(path, ["out=stopped", *changes])[-1]
    name = "final/pytorch_lora_weights.safetensors"
    assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    rows = [json.loads(line) for line in (resumed.path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and all(row["skipped_steps"] == 0 for row in rows)
