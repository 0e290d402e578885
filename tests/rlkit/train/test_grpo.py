"""Caption GRPO end to end on a tiny captioner: files, kill and resume, the guards of hacking, the gate, refusals."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from rlkit import losses
from rlkit.errors import GateError, GuardError, RecipeError
from rlkit.recipe.file import load
from rlkit.run import run

RECIPE = """\
algorithm: grpo
model: {{id: {model}, vision: frozen{lora}}}
data: {{num_clips: 6, num_frames: 4, frame_size: 56}}
rewards: {rewards}
sampling: {{max_completion_length: 6, gate: {gate}, gate_clips: 4}}
grpo: {{num_generations: 3, num_iterations: {times}, beta: 0.05, epsilon_high: 0.28{more}}}
train:
  learning_rate: 1.0e-3
  per_device_train_batch_size: 1
  gradient_accumulation_steps: 2
  max_steps: 5
  logging_steps: 1
  save_steps: 1
guards: {{every: 4, num_clips: 2}}
evaluate: {{num_clips: 3, max_new_tokens: 6, probe_clips: 1, controls: [blind], control_clips: 2}}
"""
# The number of letters, so that captions differ.
OWN = """\
def load(device="cpu"):
    return lambda *, prompts, completions, **_: [float(len(one)) for one in completions]
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_model):
    """The folder of a tiny captioner with fresh weights."""
    folder = tmp_path_factory.mktemp("start")
    for part in tiny_model("qwen2_5_vl"):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(start, tmp_path, monkeypatch):
    """Changes of RECIPE -> path of the recipe, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)

    def write(name="tiny_grpo", *, rewards="[./own.py, event_order]", gate="off", lora="", more="", times=2):
        path = tmp_path / f"{name}.yaml"
        path.write_text(RECIPE.format(model=start, rewards=rewards, gate=gate, lora=lora, more=more, times=times))
        return path

    return write


def numbers(folder):
    """metrics.jsonl without the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time")} for line in lines]


def cut_at(monkeypatch, call):
    """The loss raises at its `call`-th call, each micro-batch one, of the next run."""
    right, calls = losses.grpo_loss, iter(range(1, 1000))

    def loss(*given, **named):
        if next(calls) == call:
            raise RuntimeError("power cut")
        return right(*given, **named)

    monkeypatch.setattr(losses, "grpo_loss", loss)
    return lambda: monkeypatch.setattr(losses, "grpo_loss", right)


@pytest.mark.parametrize(("lora", "times"), [("", 2), (", lora: {r: 4, lora_alpha: 8.0}", 1)])
def test_power_cuts_change_nothing(recipe, monkeypatch, lora, times):
    """As a round is drawn from a checkpoint; then between the two steps of a round, whose captions were kept."""
    path = recipe(lora=lora, times=times)
    whole = run(path, ["out=whole"])[-1].path
    lines = numbers(whole)
    named = {name for line in lines for name in line}
    assert {"kl", "entropy", "clip_ratio/low_mean", "frac_reward_zero_std", "reward", "rewards/own/mean"} <= named
    assert {"completions/mean_length", "held_out/truth", "order_accuracy"} <= named
    assert max(line["kl"] for line in lines if "kl" in line) > 0
    for call in (5, 3):  # step 3, the first of round 2; from checkpoint-2 on, step 4, its second
        mend = cut_at(monkeypatch, call)
        with pytest.raises(RuntimeError, match="power cut"):
            run(path, ["out=cut"])
        mend()
    assert (path.parent / "cut/checkpoints/checkpoint-3/round-00000.safetensors").is_file() == (times == 2)
    cut = run(path, ["out=cut"])[-1].path
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert (whole / "final" / name).read_bytes() == (cut / "final" / name).read_bytes()
    assert numbers(cut) == lines
    assert (whole / "evaluation.jsonl").read_bytes() == (cut / "evaluation.jsonl").read_bytes()
    assert not list(cut.rglob("*.bin")) and not list(cut.rglob("*.pkl"))


def test_the_headline_is_grpos_own_beside_other_runs(recipe, tmp_path):
    """Steps of 0 leave the start as it is; dpo would be shown by default."""
    path = recipe()
    still = ["train.max_steps=0", "guards.every=0"]
    run(path, ["out=other", *still])
    run(path, ["out=mine", *still, "evaluate.compare_with={base: other, dpo: other}"])
    results = json.loads((tmp_path / "mine/results.json").read_text())
    assert results["headline"] == ["base", "grpo"] and "headline" not in json.loads(
        (tmp_path / "other/results.json").read_text()
    )
    assert results["differences"]["grpo"]["dpo"]["order_exact"]["value"] == 0


def test_a_reward_of_length_alone_is_noticed(recipe, start, tmp_path):
    """A captioner that ends every second time learns not to; the guard stops the run, and names what happened."""
    model = AutoModelForImageTextToText.from_pretrained(start)
    seen = []
    model.lm_head.register_forward_hook(lambda _module, given, _output: seen.append(given[0].flatten(0, 1)))
    with torch.no_grad():
        model(input_ids=torch.arange(40)[None] + 20)
        mean = seen[0].mean(0)
        model.lm_head.weight[model.config.get_text_config().eos_token_id] = 8.0 * mean / mean.norm() ** 2
    model.save_pretrained(tmp_path / "short")
    path = recipe(rewards="[{length: {low: 1000}}]", more=", alarm: stop, max_length_rise: 0.5")
    longer = ["sampling.max_completion_length=24", "train.learning_rate=1e-2", "train.max_steps=40"]
    longer += ["train.per_device_train_batch_size=6", "train.save_steps=0", "guards.every=0", "grpo.beta=0"]
    for name in start.iterdir():
        if not (tmp_path / "short" / name.name).exists():
            (tmp_path / "short" / name.name).write_bytes(name.read_bytes())
    with pytest.raises(GuardError, match=r"drawn captions grew from .* tokens: the rewards are being hacked"):
        run(path, [f"model.id={tmp_path / 'short'}", "out=long", *longer])
    alarms = [line for line in numbers(tmp_path / "long") if "alarm/length" in line]
    assert len(alarms) == 1 and alarms[0]["alarm/length"] > 0.5


def test_rewards_that_are_not_the_truth_pass_the_gate_first(recipe):
    path = recipe(gate="stop")
    with pytest.raises(GateError, match=r"own \+ event_order|own.py \+ event_order"):
        run(path, ["out=gated"])
    assert not (path.parent / "gated/checkpoints").exists() or not list((path.parent / "gated/checkpoints").iterdir())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("rewards=[]", "nothing would be learnt"),
        ("sampling.temperature=0", "greedy captions of a clip are all alike"),
        ("sampling.top_p=0.9", "drawn from all of them"),
        ("data.source=pairs", "draws its own captions"),
        ("model.init=qwen2_5_vl", "starts from a trained captioner"),
        ("grpo.num_generations=1", "grpo.num_generations"),
        ("rewards=[{event_order: {parse: x}}]", "parse"),
    ],
)
def test_what_cannot_be_is_said_before_the_run(recipe, change, problem):
    with pytest.raises(RecipeError, match=problem):
        load(recipe(), [change])


def test_a_towers_adapter_is_not_for_vllm(recipe):
    with pytest.raises(RecipeError, match="handed adapters of the language model alone"):
        load(recipe(), ["grpo.use_vllm=true", "model.lora={}", "model.vision=lora"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_give_the_weights_of_one_with_twice_the_batch(recipe, start, tmp_path):
    """The same captions, since each clip has a seed of its own; rewards compared and tokens counted over both."""
    recipe()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, command, size in (("one", [sys.executable], 2), ("two", two, 1)):
        command = [*command, "-m", "rlkit", "tiny_grpo.yaml", f"out={name}", "evaluate.num_clips=0", "guards.every=0"]
        command += [f"train.per_device_train_batch_size={size}", "train.gradient_accumulation_steps=1"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    before = load_file(start / "model.safetensors")
    one, both = (load_file(tmp_path / name / "final/model.safetensors") for name in ("one", "two"))
    moved = sum(float((one[name] - before[name]).square().sum()) for name in before) ** 0.5
    apart = sum(float((one[name] - both[name]).square().sum()) for name in before) ** 0.5
    assert moved > 0.01 and apart < 1e-3 * moved
    rewards = [[line["reward"] for line in numbers(tmp_path / name) if "reward" in line] for name in ("one", "two")]
    assert rewards[0] == pytest.approx(rewards[1], rel=1e-5)
