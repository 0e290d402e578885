"""What every online algorithm must do: resume to the byte, mask what has no score, count what has nothing to teach."""

import json

import numpy as np
import pytest

pytest.importorskip("diffusers")

from rlkit import plan
from rlkit.errors import RecipeError
from rlkit.recipe.file import load, load_chain
from rlkit.run import run as launch

ONLINE = ("flow_grpo", "ddpo", "online_dpo")
FINAL = "final/pytorch_lora_weights.safetensors"


def numbers(folder):
    """metrics.jsonl without the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time")} for line in lines]


@pytest.mark.parametrize("algorithm", ONLINE)
def test_resumed_in_the_middle_of_a_round_it_ends_with_the_same_bytes(generator_recipe, tmp_path, algorithm):
    """ddpo remembers prompts' pasts: two prompts, whose 8 rewards a round make them count from the second on."""
    path, changes = generator_recipe(algorithm), ["train.max_steps=5", "train.save_steps=3", "data.num_clips=2"]
    changes += ["ddpo.min_count=5"]
    whole = launch(path, ["out=whole", *changes])[-1]
    (tmp_path / "stop_at").write_text("3")  # the third round, at step 4; the second is drawn again from checkpoint 3
    with pytest.raises(RuntimeError, match="power cut"):
        launch(path, ["out=stopped", *changes])
    resumed = launch(path, ["out=stopped", *changes])[-1]
    assert (resumed.path / FINAL).read_bytes() == (whole.path / FINAL).read_bytes()
    assert numbers(resumed.path) == numbers(whole.path) and len(numbers(whole.path)) == 5
    assert resumed.results()["systems"] == whole.results()["systems"]


@pytest.mark.parametrize("algorithm", ONLINE)
def test_missing_scores_are_masked_and_counted(generator_recipe, algorithm):
    folder = launch(generator_recipe(algorithm), ["rewards=[{./redness.py: {missing: true}}]"])[-1]
    assert folder.results()["cost"]["missing_rewards"] == 2 * 4  # two rounds, half of 8 pictures each
    told = numbers(folder.path)
    assert [line["rewards/missing"] for line in told if "rewards/missing" in line] == [4.0, 4.0]
    assert all(line["skipped_steps"] == 0 and np.isfinite(line["loss"]) for line in told)


@pytest.mark.parametrize("algorithm", ONLINE)
def test_groups_without_a_difference_are_counted_and_move_nothing(generator_recipe, algorithm):
    changes = ["rewards=[{./redness.py: {flat: true}}]", "flow_grpo.kl_weight=0", "evaluate.num_clips=1"]
    folder = launch(generator_recipe(algorithm), changes)[-1]
    results = folder.results()
    assert results["cost"]["zero_variance_groups"] == 2 * 2  # two rounds of two groups
    assert [line["loss"] for line in numbers(folder.path)] == [0.0] * 3
    assert results["systems"][algorithm]["velocity_ratio"]["value"] == 1.0  # the reference itself


@pytest.mark.parametrize("algorithm", ONLINE)
def test_rounds_are_whole_groups(generator_recipe, algorithm):
    with pytest.raises(RecipeError, match=r"6 pictures per device.*groups of 4.*4 or 8"):
        load(generator_recipe(algorithm), ["train.per_device_train_batch_size=3"])


@pytest.mark.parametrize(
    ("algorithm", "override", "said"),
    [
        ("nft", "generation.rollout_guidance_scale=4", "without guidance, so pictures must be drawn without it"),
        ("flow_grpo", "generation.rollout_guidance_scale=4", "one optimiser step a round"),
        ("ddpo", "generation.rollout_guidance_scale=4", "one optimiser step a round"),
        ("flow_grpo", "generation.num_inference_steps=1", "every step but the last"),
        ("flow_grpo", "flow_grpo.window=3", "does not fit into the 2 that can be random.*widest that does: 2"),
        ("ddpo", "ddpo.min_count=17", "never remembered"),
        ("online_dpo", "online_dpo.types={}", "no loss"),
        ("reward_backprop", "reward_backprop.grad_steps=4", "takes 3"),
        ("reward_backprop", "rewards=[]", "nothing would be learnt"),
        ("online_dpo", "model.init=stable_diffusion", "starts from a trained generator"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(generator_recipe, algorithm, override, said):
    with pytest.raises(RecipeError, match=said):
        load(generator_recipe(algorithm), [override])


def test_plan_does_not_ask_for_a_prompt_per_picture(generator_recipe):
    chain = load_chain(generator_recipe("flow_grpo"), ["data.num_clips=2"])
    assert plan.plan(chain[-1], chain, 1, None, None)["rows_per_step"] == 8
