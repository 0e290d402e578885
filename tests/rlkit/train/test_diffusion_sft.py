"""Flow matching from nothing: it learns, its folder is an ordinary pipeline, and a stopped run goes on exactly."""

import json

import pytest
import torch

pytest.importorskip("diffusers")

from rlkit import plan, sde
from rlkit.errors import RecipeError
from rlkit.generators.session import open_session
from rlkit.recipe.file import load, load_chain
from rlkit.run import run as launch
from rlkit.running import interrupt
from rlkit.train import diffusion_sft

RECIPE = """\
algorithm: diffusion_sft
model: {init: stable_diffusion_3}
data: {num_clips: 12}
rewards: [world_picture]
generation: {resolution: 16, width: 64, layers: 1, patch_size: 4, eval_inference_steps: 2, eval_samples: 2}
train:
  optim: muon
  learning_rate: 1.0e-2
  per_device_train_batch_size: 8
  max_steps: 12
  logging_steps: 4
evaluate: {num_clips: 2}
"""


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "base_flow.yaml"
    path.write_text(RECIPE)
    return path


def numbers(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time")} for line in lines]


def test_it_learns_and_final_is_a_pipeline_of_diffusers(recipe_file):
    from diffusers import DiffusionPipeline

    folder = launch(recipe_file)[-1]
    losses = [line["loss"] for line in numbers(folder.path)]
    assert losses[-1] < 0.95 * losses[0]
    assert set(folder.results()["systems"]["base"]) == {"reward", "diversity", "forward_passes"}
    pipe = DiffusionPipeline.from_pretrained(folder.final)
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe("A red ball.", height=16, width=16, num_inference_steps=1, max_sequence_length=16).images[0]
    assert drawn.size == (16, 16)


def test_stopped_between_logs_and_resumed_it_ends_with_the_same_bytes(recipe_file, monkeypatch):
    whole = launch(recipe_file, ["out=whole"])[-1]
    asked = iter([False, False, False, False, False, True])  # after the sixth step; logs come every four
    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "requested", lambda: next(asked))
        patch.setattr(diffusion_sft.pipelines, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            launch(recipe_file, ["out=stopped"])
    resumed = launch(recipe_file, ["out=stopped"])[-1]
    name = "final/transformer/diffusion_pytorch_model.safetensors"
    assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert numbers(resumed.path) == numbers(whole.path)


def test_the_loss_is_the_squared_error_of_the_velocity_at_the_drawn_level(recipe_file, monkeypatch):
    recipe = load(recipe_file)
    data = diffusion_sft.Pictures(open_session(recipe, diffusion_sft.start(recipe)))
    seen = {}

    def predict(latents, times, text, **_):
        seen.update(latents=latents, times=times)
        return torch.zeros_like(latents)

    monkeypatch.setattr(data.generator, "predict", predict)
    kept = {}
    monkeypatch.setattr(sde, "flow_velocity", lambda x0, noise: kept.setdefault("target", noise - x0))
    ((loss, _),) = data.losses(3)
    assert loss.item() == pytest.approx(kept["target"].square().mean().item(), rel=1e-6)
    assert seen["latents"].shape == (8, 3, 16, 16) and 0 < seen["times"].min() <= seen["times"].max() < 1000
    ((again, _),) = data.losses(3)
    assert again.item() == loss.item()  # a step follows from its number


def test_an_epsilon_model_learns_the_noise_at_integer_timesteps(recipe_file, monkeypatch):
    changes = ["model.init=stable_diffusion", "generation.width=32"]
    recipe = load(recipe_file, changes)
    data = diffusion_sft.Pictures(open_session(recipe, diffusion_sft.start(recipe)))
    seen = {}

    def predict(latents, times, text, **_):
        seen.update(latents=latents, times=times)
        return torch.zeros_like(latents)

    with monkeypatch.context() as patch:
        patch.setattr(data.generator, "predict", predict)
        kept = {}
        made = sde.epsilon_sample
        patch.setattr(sde, "epsilon_sample", lambda x0, noise, a: made(*kept.setdefault("drawn", (x0, noise, a))))
        ((loss, _),) = data.losses(3)
    x0, noise, a = kept["drawn"]
    assert loss.item() == pytest.approx(noise.square().mean().item(), rel=1e-6)
    assert not seen["times"].is_floating_point() and 0 <= seen["times"].min() <= seen["times"].max() < 1000
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # scaled_linear
    alphas = (1 - betas).cumprod(0)[seen["times"]]
    torch.testing.assert_close(a.double(), alphas, rtol=1e-4, atol=1e-6)
    expected = alphas.sqrt().view(-1, 1, 1, 1) * x0 + (1 - alphas).sqrt().view(-1, 1, 1, 1) * noise
    torch.testing.assert_close(seen["latents"].double(), expected, rtol=1e-4, atol=1e-4)

    folder = launch(recipe_file, changes)[-1]
    losses = [line["loss"] for line in numbers(folder.path)]
    assert losses[-1] < 0.97 * losses[0] and (folder.final / "unet").is_dir()


def test_what_cannot_work_is_refused_before_the_run(recipe_file):
    with pytest.raises(RecipeError, match="makes no pictures"):
        load(recipe_file, ["model.init=qwen2_5_vl"])
    with pytest.raises(RecipeError, match=r"192 numbers, more than generation\.width 64"):
        load(recipe_file, ["generation.patch_size=8"])
    with pytest.raises(RecipeError, match="resolution by 4"):
        load(recipe_file, ["model.init=stable_diffusion", "generation.resolution=18"])
    with pytest.raises(RecipeError, match="diffusion_sft"):
        load(recipe_file, ["algorithm=sft"])


def test_plan_says_the_steps_and_what_it_cannot_estimate(recipe_file):
    chain = load_chain(recipe_file)
    told = plan.plan(chain[-1], chain, 1, None, None)
    assert told["steps"] == 12 and told["rows_per_step"] == 8 and "generator" in told["unknown"]
