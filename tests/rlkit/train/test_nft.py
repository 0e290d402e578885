"""NFT end to end on a tiny flow pipeline: files, resume, missing rewards, and a start where policy and old are one."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from rlkit.errors import RecipeError
from rlkit.generators.session import open_session
from rlkit.models import generator as generators
from rlkit.models import sampling
from rlkit.recipe.file import load
from rlkit.run import run as launch
from rlkit.train import nft

RECIPE = """\
algorithm: nft
model:
  id: {model}
  lora: {{r: 4, lora_alpha: 8.0}}
rewards: {rewards}
generation: {{resolution: 16, num_inference_steps: 2, num_generations: 4, eval_inference_steps: 2, eval_samples: 2}}
online: {{num_iterations: 2}}
nft: {{kl_weight: 0.01}}
guard: {{every: 0}}
train:
  learning_rate: 1.0e-2
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 2
  max_steps: 3
  logging_steps: 1
  save_steps: {save}
evaluate:
  num_clips: 3
  held_out_rewards: [{{world_picture: {{measure: saturation}}}}]
"""
# Redness, so that any picture differs from any other; stops the run at the call that the file names.
OWN = """\
from pathlib import Path
import numpy as np
calls = 0
def load(device="cpu", *, missing: bool = False):
    def score(*, prompts, completions, **_):
        global calls
        calls += 1
        stop = Path("stop_at")
        if stop.is_file() and int(stop.read_text()) == calls:
            stop.unlink()
            raise RuntimeError("power cut")
        found = [float(np.asarray(one, np.float64)[..., 0].mean()) for one in completions]
        return [None if missing and at % 4 == 0 else float("nan") if missing and at % 4 == 1 else value
                for at, value in enumerate(found)]
    return score
"""


@pytest.fixture
def recipe_file(flow_folder, tmp_path, monkeypatch):
    """(rewards, save_steps) -> recipe.yaml in a working directory of its own."""
    monkeypatch.chdir(tmp_path)

    def write(rewards="[world_picture]", save=0):
        (tmp_path / "own.py").write_text(OWN)
        path = tmp_path / "tiny_nft.yaml"
        path.write_text(RECIPE.format(model=flow_folder, rewards=rewards, save=save))
        return path

    return write


def numbers(folder):
    """metrics.jsonl without the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time")} for line in lines]


def test_a_run_leaves_results_galleries_and_an_adapter_that_stock_diffusers_loads(recipe_file, flow_folder):
    from diffusers import DiffusionPipeline

    folder = launch(recipe_file())[-1]
    results = folder.results()
    assert set(results["systems"]) == {"base", "nft"} and results["complete"]
    for system in results["systems"].values():
        assert {"reward", "held_out", "diversity", "velocity_ratio", "forward_passes"} <= set(system)
        assert all(np.isfinite(one["value"]) for one in system.values())
    assert results["systems"]["base"]["velocity_ratio"]["value"] == 1.0
    # Two rollouts of 8 pictures in 2 steps; 3 steps of 8 pictures, each policy (backward too), old and reference.
    assert results["systems"]["nft"]["forward_passes"]["value"] == 2 * 8 * 2 + 3 * 8 * 4
    for name in ("samples/base.png", "samples/nft.png"):
        assert (folder.path / name).read_bytes().startswith(b"\x89PNG")
    assert "report" in (folder.path / "report.html").read_text()

    ours = generators.load(str(flow_folder), adapter=str(folder.final))
    text = ours.family.encode_prompts(ours.pipe, ["A red ball on a grey background, close-up."])
    rolled = sampling.rollout(ours, text, [5], height=16, width=16, num_inference_steps=3)
    pictures = {}
    for adapted in (False, True):
        pipe = DiffusionPipeline.from_pretrained(flow_folder)
        pipe.set_progress_bar_config(disable=True)
        if adapted:
            pipe.load_lora_weights(str(folder.final))
        pictures[adapted] = pipe(
            prompt="A red ball on a grey background, close-up.", height=16, width=16, num_inference_steps=3,
            guidance_scale=1.0, generator=torch.Generator().manual_seed(5), output_type="latent",
            max_sequence_length=pipe.tokenizer_3.model_max_length,
        )[0]  # fmt: skip
    assert (pictures[True] - rolled.latents).abs().max() < 1e-5
    assert (pictures[True] - pictures[False]).abs().max() > 1e-4


@pytest.mark.parametrize("form", ["nft", "awm"])
def test_it_raises_the_trained_reward_on_held_out_prompts(recipe_file, form):
    """Redness, a reward that any generator can raise, in units of 0 to 255; all weights trained, the start kept."""
    changes = ["train.max_steps=24", "train.learning_rate=3.0e-3", "model.lora=null", "evaluate.num_clips=6"]
    changes += ["online.num_iterations=1", "nft.kl_weight=0", f"nft.form={form}"]
    folder = launch(recipe_file("[./own.py]"), changes)[-1]
    change = folder.results()["differences"]["nft"]["base"]["reward"]
    assert change["low"] > 3
    assert (folder.final / "model_index.json").is_file()


def test_resumed_in_the_middle_of_a_rollout_it_ends_with_the_same_bytes(recipe_file, tmp_path):
    path = recipe_file("[./own.py]", save=1)
    whole = launch(path, ["out=whole", "train.max_steps=5"])[-1]
    (tmp_path / "stop_at").write_text("3")  # the third rollout, at step 4
    with pytest.raises(RuntimeError, match="power cut"):
        launch(path, ["out=stopped", "train.max_steps=5", "train.save_steps=3"])
    resumed = launch(path, ["out=stopped", "train.max_steps=5", "train.save_steps=3"])[-1]
    assert resumed.last_checkpoint().name == "checkpoint-5"
    name = "final/pytorch_lora_weights.safetensors"
    assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert numbers(resumed.path) == numbers(whole.path) and len(numbers(whole.path)) == 5
    assert resumed.results()["systems"] == whole.results()["systems"]


def test_missing_scores_are_masked_and_counted(recipe_file):
    folder = launch(recipe_file("[{./own.py: {missing: true}}]"))[-1]
    assert folder.results()["cost"]["missing_rewards"] == 2 * 4  # two rollouts, half of 8 pictures each
    assert [line["rewards/missing"] for line in numbers(folder.path) if "rewards/missing" in line] == [4.0, 4.0]
    assert all(line["skipped_steps"] == 0 and np.isfinite(line["loss"]) for line in numbers(folder.path))


def online(path, overrides=()):
    recipe = load(path, overrides)
    return nft.Nft(open_session(recipe, nft.start(recipe)))


def test_before_the_first_update_policy_old_and_reference_are_one(recipe_file):
    algorithm = online(recipe_file("[./own.py]"))
    losses = list(algorithm.losses(0))
    assert len(losses) == 2
    for loss, metrics in losses:
        assert metrics["nft/moved"] == 0.0 and metrics["velocity_mse"] == 0.0 and metrics["velocity_ratio"] == 1.0
        assert loss.requires_grad
    losses[0][0].backward()
    assert any(one.grad is not None and one.grad.abs().max() > 0 for one in algorithm.generator.parameters())


def test_a_masked_picture_moves_no_weight(recipe_file):
    algorithm = online(recipe_file("[./own.py]"), ["nft.kl_weight=0"])
    drawn = algorithm.collect(0)
    drawn.mask[:] = False
    loss, _ = algorithm.loss(drawn, 0, 0, 0)
    loss.backward()
    assert loss.item() == 0.0
    assert all(one.grad is None or one.grad.abs().max() == 0 for one in algorithm.generator.parameters())


def test_groups_are_whole_and_of_one_prompt(recipe_file):
    rolled = online(recipe_file("[./own.py]")).collect(0)
    assert len(rolled.prompts) == 8 and len(set(rolled.prompts[:4])) == len(set(rolled.prompts[4:])) == 1
    assert rolled.prompts[0] != rolled.prompts[4]
    for group in (slice(0, 4), slice(4, 8)):  # centred within each group
        assert abs(rolled.advantages[group].sum().item()) < 1e-4 and rolled.advantages[group].abs().max() > 0.5


def test_a_batch_that_is_no_whole_groups_names_the_nearest_that_are(recipe_file):
    with pytest.raises(RecipeError, match=r"6 pictures per device.*groups of 4.*4 or 8"):
        load(recipe_file(), ["train.per_device_train_batch_size=3"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rewards=[]", "rewards"),
        ("train.max_steps=-1", "optimiser steps"),
        ("model.init=qwen3_vl", "makes no pictures"),
        ("data.source=gallery", "world"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(recipe_file, override, said):
    with pytest.raises(RecipeError, match=said):
        load(recipe_file(), [override])


def test_what_it_drew_for_other_prompts_is_drawn_again_and_an_adapter_can_be_scaled(recipe_file, tmp_path):
    from safetensors.torch import load_file

    path = recipe_file("[./own.py]")
    (tmp_path / "plain.txt").write_text("A green ring.\nA white pole shakes.\nA green ring.\n")
    keep = ["retain.probes=plain.txt"]
    folder = launch(path, ["out=half", *keep, "retain.adapter_scales=[0.5, 1.0]"])[-1]
    results = folder.results()
    assert set(results["systems"]) == {"base", "nft", "nft x1"} and set(results["retained"]) == {"nft", "nft x1"}
    for told in results["retained"].values():
        assert told["before"]["drift"]["value"] == 0 < told["after"]["drift"]["value"]
        assert told["before"]["reward"]["n"] == told["after"]["reward"]["n"] == 2
        assert told["change"]["reward"]["value"] == pytest.approx(
            told["after"]["reward"]["value"] - told["before"]["reward"]["value"]
        )
    assert results["headline"] == ["base", "nft"]
    whole = launch(path, ["out=whole", *keep])[-1]
    half, full = (load_file(one.final / "pytorch_lora_weights.safetensors") for one in (folder, whole))
    for name, one in full.items():
        torch.testing.assert_close(half[name], one * (0.5 if "lora_B" in name or "lora.up" in name else 1.0))
    shown = ("after", "reward")
    assert results["retained"]["nft x1"]["after"]["reward"]["value"] == pytest.approx(
        whole.results()["retained"]["nft"][shown[0]][shown[1]]["value"], abs=1e-3
    )


def test_generators_have_no_questions_of_their_own(recipe_file):
    with pytest.raises(RecipeError, match="a prompt on each line"):
        launch(recipe_file(), ["retain={}"])


def test_replay_and_norm_guard_are_part_of_the_loss_and_a_kill_changes_nothing(recipe_file, tmp_path):
    path, keep = recipe_file("[./own.py]", save=1), ["retain={probes: plain.txt, replay_weight: 0.5}"]
    (tmp_path / "plain.txt").write_text("A green ring.\n")
    keep += ["nft.norm_guard_weight=10.0", "train.max_steps=5"]
    whole = launch(path, ["out=whole", *keep])[-1]
    assert all(line["replay/loss"] > 0 for line in numbers(whole.path))
    # 4 pictures replayed beside each of the 2 micro-batches of 5 steps, and as many backward passes
    without = launch(path, ["out=without", "train.max_steps=5"])[-1]
    passes = [one.results()["systems"]["nft"]["forward_passes"]["value"] for one in (whole, without)]
    assert passes[0] == passes[1] + 5 * 2 * 4 * 2
    (tmp_path / "stop_at").write_text("3")
    with pytest.raises(RuntimeError, match="power cut"):
        launch(path, ["out=cut", *keep])
    cut = launch(path, ["out=cut", *keep])[-1]
    name = "final/pytorch_lora_weights.safetensors"
    assert (cut.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert (without.path / name).read_bytes() != (whole.path / name).read_bytes()
    assert cut.results()["systems"] == whole.results()["systems"]
