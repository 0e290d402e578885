"""Algorithms for generators side by side: rows of the same prompts, what each took, passes to a target."""

import json

import pytest

from rlkit.errors import RecipeError
from rlkit.run import run

ONE = """\
algorithm: {algorithm}
model:
  id: {model}
  lora: {{r: 4, lora_alpha: 8.0}}
rewards: [./redness.py]
generation: {{resolution: 16, num_inference_steps: 2, num_generations: 4, eval_inference_steps: 2, eval_samples: 2}}
guard: {{every: 1, num_prompts: 2, num_samples: 2}}
train:
  learning_rate: 1.0e-2
  per_device_train_batch_size: 4
  max_steps: 2
  logging_steps: 1
evaluate:
  num_clips: 3
  held_out_rewards: [{{world_picture: {{measure: saturation}}}}]
"""
BOTH = """\
algorithm: compare
evaluate: {{num_clips: 3, controls: []}}
compare:
  seeds: [0, 1]
  target: {target}
  systems:
    base: {{recipe: nft.yaml, seeds: [0], set: {{train.max_steps: 0}}}}
    flow_grpo: {{recipe: flow_grpo.yaml}}
    nft: {{recipe: nft.yaml}}
"""


@pytest.fixture
def comparison(workplace, flow_folder):
    for algorithm in ("nft", "flow_grpo"):
        workplace(algorithm, ONE.format(algorithm=algorithm, model=flow_folder))
    return lambda target="flow_grpo": workplace("both", BOTH.format(target=target))


def test_systems_are_pooled_with_what_they_took(comparison, tmp_path):
    run(str(comparison()))
    results = json.loads((tmp_path / "runs/both/results.json").read_text())
    systems = results["systems"]
    assert set(systems) == {"base", "flow_grpo", "nft"}
    assert [systems[name]["reward"]["n"] for name in systems] == [3, 6, 6]  # prompts x seeds
    assert systems["base"]["forward_passes"]["value"] == 0
    # a round: 4 pictures x 2 steps; NFT trains one level of each (4 passes), GRPO the first step (2, and the reference)
    assert systems["nft"]["forward_passes"]["value"] == 2 * (4 * 2 + 4 * 4)
    assert systems["flow_grpo"]["forward_passes"]["value"] == 2 * (4 * 2 + 3 * 4)
    curve = results["curves"]["nft"][0]
    assert [passes for passes, _ in curve] == [0, 24, 48]
    for name, by_seed in results["curves"].items():
        for points in by_seed:
            assert points[0][1] == curve[0][1], name  # all begin at one model, on the same prompts and seeds
    reached = systems["flow_grpo"]["passes_to_target"]
    assert reached["n"] == 2 and reached["high"] <= 40
    assert "held_out" in results["differences"]["nft"]["base"]
    assert "passes" in (tmp_path / "runs/both/table.md").read_text()


def test_a_target_that_is_no_system_is_refused(comparison):
    with pytest.raises(RecipeError, match=r"'compare\.target' is 'grpo', which is no system; the systems are base"):
        run(str(comparison("grpo")))
