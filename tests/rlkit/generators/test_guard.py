"""The guard: limits by their formulas, each alarm once, stop, rollback to the best weights, resume to the byte."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from rlkit.errors import GuardError, RecipeError
from rlkit.generators import guard
from rlkit.generators.guard import Guard, alarms, compare
from rlkit.recipe import HackingGuard, Recipe, Train
from rlkit.recipe.file import load
from rlkit.run import run as launch
from rlkit.running.folder import RunFolder

SETTINGS = HackingGuard(every=2)
START = {
    "reward": [0.2, 0.4],
    "held_out": [0.5, 0.7],
    "velocity_ratio": [1.0, 1.0],
    "diversity": [0.1, 0.3],
    "saturation": [0.3, 0.3],
    "grid": [0.4],
}


def after(**changes):
    return compare(START, START | changes)


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_nothing_alarms_at_the_start():
    assert alarms(SETTINGS, after()) == {}


@pytest.mark.parametrize(
    ("kind", "harmless", "harmful", "value"),
    [
        # Means of START: reward 0.3, held_out 0.6, diversity 0.2, saturation 0.3, grid 0.4.
        ("gap", {"reward": [0.22, 0.42]}, {"reward": [0.3, 0.5]}, 0.1 / 0.3),
        ("held_out", {"held_out": [0.48, 0.69]}, {"held_out": [0.45, 0.67]}, 0.04 / 0.6),
        ("velocity", {"velocity_ratio": [1.1, 1.1]}, {"velocity_ratio": [1.3, 1.2]}, 1.25),
        ("diversity", {"diversity": [0.1, 0.2]}, {"diversity": [0.05, 0.15]}, 0.5),
        ("saturation", {"saturation": [0.3, 0.4]}, {"saturation": [0.5, 0.5]}, 0.2),
        ("grid", {"grid": [0.8]}, {"grid": [1.0]}, 0.6),
    ],
)
def test_each_limit_alarms_beyond_it_and_only_it(kind, harmless, harmful, value):
    assert alarms(SETTINGS, after(**harmless)) == {}
    assert alarms(SETTINGS, after(**harmful)) == {kind: pytest.approx(value)}
    key = {"velocity": "max_velocity_ratio", "gap": "max_gap"}.get(kind) or next(
        field.name for field in dataclasses.fields(SETTINGS) if field.name.startswith(f"max_{kind}_")
    )
    assert alarms(dataclasses.replace(SETTINGS, **{key: None}), after(**harmful)) == {}


def test_a_reward_may_gain_more_than_a_judge_that_gains_too():
    found = after(reward=[0.5, 0.7], held_out=[0.55, 0.75])
    assert found["now"]["gap"] == pytest.approx(0.3 / 0.3 - 0.05 / 0.6) and alarms(SETTINGS, found) == {}


def test_judges_around_0_are_compared_by_their_spread():
    start = {"held_out": [-1.0, 1.0]}  # mean 0, standard deviation 1
    assert compare(start, {"held_out": [-1.5, 0.9]})["gained"]["held_out"] == pytest.approx(-0.3)


def test_a_fall_that_prompts_do_not_agree_on_is_noise():
    found = after(held_out=[0.2, 0.9])  # changes of -0.3 and 0.2: mean -0.05, standard error 0.25
    assert found["noise"]["held_out"] == pytest.approx(0.25 / 0.6)
    assert -found["gained"]["held_out"] > SETTINGS.max_held_out_drop and alarms(SETTINGS, found) == {}


def test_a_fall_of_both_is_no_gap():
    found = after(reward=[0.19, 0.39], held_out=[0.3, 0.5])
    assert found["now"]["gap"] > SETTINGS.max_gap and set(alarms(SETTINGS, found)) == {"held_out"}


def test_a_prompt_without_a_score_is_left_out_on_both_sides():
    found = compare({"held_out": [0.2, 1.0]}, {"held_out": [0.2, None]})
    assert found["gained"]["held_out"] == 0.0 and found["now"]["held_out"] == 0.2
    assert compare({"held_out": [None]}, {"held_out": [0.5]})["gained"] == {}


# ---- the loop, around a measure that says what it is told -----------------------------------------------------------


class Told:
    """As much of a Measure as the guard asks; `values` is what the next look finds."""

    def __init__(self, settings, judged=True):
        self.recipe = Recipe(algorithm="nft", guard=settings, train=Train(max_steps=7))
        self.prompts, self.held_out = ["a", "b"], ["judge"] if judged else []
        self.values = {"reward": 0.5, "held_out": 0.5, "velocity_ratio": 1.0, "diversity": 0.2}

    def of_prompt(self, generator, name, number, *, ratio):
        return dict(self.values), [np.full((32, 32, 3), 90, np.uint8)] * 2


class Weights:
    """As much of a Generator as the guard touches."""

    def __init__(self):
        self.value = torch.zeros(2)

    def weights(self, name):
        return {"one": self.value}

    def load_weights(self, weights, name):
        self.value.copy_(weights["one"])


@pytest.fixture
def made(tmp_path):
    """settings -> (guard, what it is told, weights, notes)."""

    def make(judged=True, **settings):
        told, weights, notes = Told(dataclasses.replace(SETTINGS, **settings), judged), Weights(), []
        folder = RunFolder(tmp_path)
        watched = Guard(told, weights, "policy", folder, folder, SimpleNamespace(note=notes.append))
        return watched, told, weights, notes

    return make


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_measures_before_the_first_step_every_n_and_after_the_last(made, tmp_path):
    watched, *_ = made()
    for step in range(8):
        watched.watch(step)
    assert [line["step"] for line in logged(tmp_path)] == [0, 2, 4, 6, 7]
    first = logged(tmp_path)[0]
    names = {"reward", "held_out", "gap", "velocity_ratio", "diversity", "saturation", "grid"}
    assert {name for name in first if name.startswith("guard/")} == {f"guard/{name}" for name in names}
    assert watched.results() == {
        "action": "warn", "measured": 5, "alarms": {}, "best": {"step": 0, "held_out": 0.5},
    }  # fmt: skip


def test_an_alarm_is_told_once_and_training_goes_on(made, tmp_path):
    watched, told, _, notes = made()
    watched.watch(0)
    told.values["held_out"] = 0.4
    watched.watch(2)
    watched.watch(4)
    assert [(line["step"], line["alarm/held_out"]) for line in logged(tmp_path) if "alarm/held_out" in line] == [
        (2, pytest.approx(0.2))
    ]
    assert len(notes) == 1 and "lost 20.0% of its start" in notes[0] and not watched.ended


def test_stop_raises_and_says_what_was_seen(made):
    watched, told, *_ = made(action="stop")
    watched.watch(0)
    told.values["velocity_ratio"] = 1.5
    with pytest.raises(GuardError, match=r"at step 2 velocities are 1\.500 times"):
        watched.watch(2)


def test_rollback_ends_training_with_the_weights_that_the_judge_liked_best(made):
    watched, told, weights, notes = made(action="rollback")
    for step, (value, judged) in enumerate([(0.0, 0.5), (1.0, 0.6), (2.0, 0.55), (3.0, 0.4)]):
        weights.value.fill_(value)
        told.values["held_out"] = judged
        watched.watch(2 * step)
    assert watched.ended and "the weights of step 2 are kept" in notes[-1]
    watched.settle()
    assert weights.value.tolist() == [1.0, 1.0]
    assert watched.results()["rolled_back_from"] == 6


def test_without_an_alarm_the_last_weights_stay(made):
    watched, told, weights, _ = made(action="rollback")
    watched.watch(0)
    weights.value.fill_(5.0)
    told.values["held_out"] = 0.49
    watched.watch(2)
    watched.settle()
    assert weights.value.tolist() == [5.0, 5.0] and not watched.ended


def test_weights_of_another_step_are_not_taken_for_the_best(made, tmp_path):
    watched, told, *_ = made(action="rollback")
    watched.watch(0)
    told.values["held_out"] = 0.1
    watched.watch(2)
    path = guard.best_file(RunFolder(tmp_path))
    save_file(load_file(path), path, metadata={"step": "9"})
    with pytest.raises(GuardError, match="of step 9, expected those of step 0"):
        watched.settle()
    path.unlink()
    with pytest.raises(GuardError, match="are gone"):
        watched.settle()


def test_without_a_judge_it_says_so_and_watches_the_rest(made):
    watched, told, _, notes = made(judged=False)
    del told.values["held_out"]
    watched.watch(0)
    told.values["diversity"] = 0.05
    watched.watch(2)
    assert "no evaluate.held_out_rewards" in notes[0] and list(watched.state.alarms) == ["diversity"]


def test_its_state_goes_through_json(made):
    watched, told, *_ = made()
    watched.watch(0)
    told.values["held_out"] = 0.3
    watched.watch(2)
    other, told, _, notes = made()
    other.load_state_dict(json.loads(json.dumps(watched.state_dict())))
    told.values["held_out"] = 0.2
    other.watch(4)
    assert other.state.start == watched.state.start and not notes  # told already


# ---- end to end -----------------------------------------------------------------------------------------------------

RECIPE = """\
algorithm: nft
model:
  id: {model}
  lora: {{r: 4, lora_alpha: 8.0}}
rewards: [saturation]
generation: {{resolution: 16, num_inference_steps: 2, num_generations: 4, eval_inference_steps: 2, eval_samples: 2}}
nft: {{kl_weight: 0}}
online: {{ema_decay: 0.0}}
guard: {{every: 2, num_prompts: 2, num_samples: 2, max_saturation_rise: 0.0, max_velocity_ratio: 1.0}}
train: {{learning_rate: 2.0e-2, per_device_train_batch_size: 8, max_steps: 6, logging_steps: 2, save_steps: 1}}
evaluate: {{num_clips: 2, held_out_rewards: [world_picture]}}
"""


@pytest.fixture
def recipe_file(tmp_path, monkeypatch):
    from data_synth.world import pictures
    from rlkit.models import tiny_pipelines

    monkeypatch.chdir(tmp_path)
    texts = [pictures.prompt(one) for one in pictures.descriptions()[::9]]
    tiny_pipelines.flow_default(texts, size=16, patch_size=8, width=32, layers=1).save_pretrained(tmp_path / "flow")
    (tmp_path / "tiny.yaml").write_text(RECIPE.format(model=tmp_path / "flow"))
    return tmp_path / "tiny.yaml"


def numbers(folder):
    return [{k: v for k, v in line.items() if not k.startswith("time")} for line in logged(folder)]


def test_stopped_and_resumed_under_guard_it_ends_with_the_same_bytes(recipe_file, monkeypatch):
    changes = ["guard.action=rollback", "guard.max_gap=null", "guard.max_held_out_drop=null"]
    whole = launch(recipe_file, [*changes, "out=whole"])[-1]
    told = whole.results()["guard"]
    assert told["alarms"] and told["rolled_back_from"] >= 2  # a random model is easily changed
    watch = Guard.watch

    def stopped(self, step):
        if step == told["rolled_back_from"]:
            raise RuntimeError("power cut")
        watch(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Guard, "watch", stopped)
        with pytest.raises(RuntimeError, match="power cut"):
            launch(recipe_file, [*changes, "out=stopped"])
    resumed = launch(recipe_file, [*changes, "out=stopped"])[-1]
    name = "final/pytorch_lora_weights.safetensors"
    assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert numbers(resumed.path) == numbers(whole.path)
    assert resumed.results()["guard"] == told


def test_what_it_watches_neither_trains_nor_measures(recipe_file):
    from rlkit.generators.prompts import read_prompts

    found = read_prompts(load(recipe_file))
    assert len(found.guard) == 2 and not set(found.guard) & {*found.train, *found.held_out}


def test_a_rollback_without_a_judge_is_refused(recipe_file):
    with pytest.raises(RecipeError, match="held_out_rewards"):
        load(recipe_file, ["guard.action=rollback", "evaluate.held_out_rewards=[]"])
