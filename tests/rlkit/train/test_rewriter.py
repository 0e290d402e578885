"""The prompt rewriter end to end on a tiny language model and a tiny generator: stages, resume, judging, results."""

import json
import math
from types import SimpleNamespace

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("trl")

from rlkit.errors import DataError, GateError, RecipeError
from rlkit.generators import rewrite_stages
from rlkit.generators.rewrites import Judged, open_judge
from rlkit.recipe.file import load
from rlkit.run import run as launch
from rlkit.train import rewriter
from tests.rlkit.conftest import REDNESS

RECIPE = """\
algorithm: rewriter
rewriter:
  generator: {model}
  instruction: "{{prompt}}"
  steps: {{sft: 3, dpo: 2, grpo: 2}}
  num_prompts: 20
  num_rewrites: 2
  num_pictures: 1
  max_completion_length: 5
  min_margin: 0.0
  width: 32
  layers: 1
data: {{num_clips: 40}}
rewards: [./redness.py]
sampling: {{gate: off}}
generation: {{resolution: 16, num_inference_steps: 1, eval_inference_steps: 1, eval_samples: 2}}
train: {{per_device_train_batch_size: 4, logging_steps: 1, save_steps: 1}}
evaluate:
  num_clips: 3
  held_out_rewards: [{{world_picture: {{measure: saturation}}}}]
"""


@pytest.fixture
def recipe_file(flow_folder, tmp_path, monkeypatch):
    """recipe.yaml in a working directory of its own, with redness.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "redness.py").write_text(REDNESS)
    path = tmp_path / "tiny_rewriter.yaml"
    path.write_text(RECIPE.format(model=flow_folder))
    return path


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time")} for line in lines]


def test_stopped_it_ends_with_the_same_bytes_and_measures_every_stage(recipe_file, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    whole = launch(recipe_file, ["out=whole"])[-1]
    results = whole.results()
    assert list(results["systems"]) == ["short", "sft", "dpo", "grpo"] and results["headline"] == ["short", "grpo"]
    for system in results["systems"].values():
        assert {"reward", "held_out", "kept", "diversity", "length_words"} <= set(system)
    assert results["systems"]["short"]["kept"]["value"] == 1.0
    assert len(metrics(whole.path / "grpo")) >= 2 and math.isfinite(metrics(whole.path / "grpo")[0]["loss"])
    judged = [line for path in sorted((whole.path / "dpo").glob("judged-*.jsonl")) for line in path.open()]
    assert len(judged) == 20
    kept = {path.name for path in (whole.path / "grpo/checkpoints").glob("checkpoint-*/*")}
    assert {"moments.safetensors", "schedule.json", "rng-0.safetensors"} <= kept
    assert not {path for path in whole.path.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")}
    card = (whole.path / "final" / "README.md").read_text()
    assert "AutoModelForCausalLM" in card and "SFT, DPO, GRPO" in card and (whole.path / "report.html").is_file()
    tokenizer, model = (one.from_pretrained(whole.final) for one in (AutoTokenizer, AutoModelForCausalLM))
    assert tokenizer.chat_template and model.config.model_type == "qwen2"

    (tmp_path / "stop_at").write_text("2")  # the second chunk of rewrites
    with pytest.raises(RuntimeError, match="power cut"):
        launch(recipe_file, ["out=stopped"])
    stopped = tmp_path / "stopped"
    assert (stopped / "dpo/judged-0000.jsonl").is_file() and not (stopped / "dpo/judged-0001.jsonl").exists()
    sft = (stopped / "sft/final/model.safetensors").stat().st_mtime_ns
    first = (stopped / "dpo/judged-0000.jsonl").stat().st_mtime_ns
    (tmp_path / "stop_at").write_text("3")  # the second step of grpo: the other chunk and the first step come before it
    with pytest.raises(RuntimeError, match="power cut"):
        launch(recipe_file, ["out=stopped"])
    assert [path.name for path in (stopped / "grpo/checkpoints").glob("checkpoint-*")] == ["checkpoint-1"]
    resumed = launch(recipe_file, ["out=stopped"])[-1]
    assert (stopped / "sft/final/model.safetensors").stat().st_mtime_ns == sft
    assert (stopped / "dpo/judged-0000.jsonl").stat().st_mtime_ns == first
    for name in ("sft/final/model.safetensors", "dpo/final/model.safetensors", "final/model.safetensors"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert resumed.results()["systems"] == results["systems"]
    passes = resumed.results()["cost"]["forward_passes"]
    assert passes == results["cost"]["forward_passes"]
    different = sum(len(set(json.loads(line)["rewrites"])) for line in judged)
    assert different < passes <= different + 2 * 4  # and those of two steps of grpo, of one pass each


def test_rewrites_are_judged_by_the_short_prompt_from_the_same_seeds(recipe_file):
    judge = open_judge(load(recipe_file, ["rewards=[world_picture]", "rewriter.num_pictures=2"]))
    asked = []
    judge.rewards.scores = [lambda *, prompts, completions: asked.append(prompts) or ([0.25, 0.75] * 2)[: len(prompts)]]
    short = "two red balls"
    once, again, other = judge([short] * 3, ["A blue bar.", "A blue bar.", "Two red bars."])
    assert once is again and once.reward == 0.5 and once.kept == 0 and other.kept == pytest.approx(2 / 3)
    assert asked == [[short] * 4] and judge.drawn == 4 and once.held_out is None
    texts = [(short, "A blue bar."), (short, "A blue bar."), ("a red ball", "A blue bar.")]
    first, second, third = (one.pictures[0].tobytes() for one in judge.look(texts, 1, 1))
    assert first == second != third


def test_a_missing_score_makes_no_total():
    assert Judged(0.5, 0.25).total(2.0) == 1.0 and Judged(0.5, None).total(0.0) == 0.5
    assert Judged(None, 1.0).total(1.0) is None and Judged(0.5, None).total(1.0) is None


def test_pairs_are_best_against_worst_beyond_the_margin(recipe_file):
    recipe = load(recipe_file, ["rewriter.min_margin=0.5"])
    stage = SimpleNamespace(recipe=recipe, tokenizer=SimpleNamespace(chat_template=None))
    row = {"short": "a red ball", "rewrites": ["a", "b", "c", "d"], "totals": [0.5, None, 1.25, 0.0]}
    assert rewrite_stages._pair(stage, row) == {"prompt": "a red ball\n", "chosen": "c", "rejected": "d"}
    assert rewrite_stages._pair(stage, row | {"totals": [0.5, None, 1.0, 0.75]}) is None
    assert rewrite_stages._pair(stage, row | {"totals": [None] * 4}) is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rewriter.generator=null", "no generator draws"),
        ("rewards=[]", "no reward judges"),
        ("evaluate.num_clips=0", "no short prompts to measure"),
        ("rewriter.instruction=Rewrite it", "{prompt}"),
        ("rewriter.steps={dpo: 2, sft: 2}", "sft comes first"),
        ("rewriter.steps={grpo: 2}", "fresh language model writes noise"),
        ("rewriter.learning_rates={sft: 1e-3}", "no rate for dpo"),
        ("rewriter.num_rewrites=3", "no whole groups of 3"),
        ("model.init=qwen2_5_vl", "is a language model"),
        ("loss.types={softmax: 1.0}", "pairs have two"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(recipe_file, override, said):
    with pytest.raises(RecipeError, match=said):
        load(recipe_file, [override])


def test_own_prompts_and_examples(recipe_file, tmp_path):
    (tmp_path / "short.txt").write_text("\n".join(f"prompt {at}" for at in range(10)))
    own = ["generation.prompts=short.txt"]
    with pytest.raises(RecipeError, match="needs full ones"):
        load(recipe_file, own)
    lines = [{"prompt": f"prompt {at}", "completion": f"A long prompt {at}."} for at in range(4)]
    (tmp_path / "full.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = rewriter.read(load(recipe_file, [*own, "rewriter.examples=full.jsonl"]))
    assert found.held_out == ["prompt 0", "prompt 5"] and "prompt 0" not in found.train
    assert [one.prompt for one in found.examples] == ["prompt 1", "prompt 2", "prompt 3"]  # none that is measured
    (tmp_path / "full.jsonl").write_text('{"prompt": "a", "text": "b"}\n')
    with pytest.raises(DataError, match=r"full.jsonl:1: expected the texts"):
        rewriter.read(load(recipe_file, [*own, "rewriter.examples=full.jsonl"]))


def test_with_lora_every_stage_ends_as_a_whole_model(recipe_file):
    changes = ["model.lora={r: 2}", "rewriter.steps={sft: 1, dpo: 1}", "rewriter.num_prompts=4", "evaluate.num_clips=1"]
    folder = launch(recipe_file, [*changes, "out=lora"])[-1].path
    finals = [folder / part / "model.safetensors" for part in ("start", "sft/final", "dpo/final", "final")]
    start, sft, dpo, final = (path.read_bytes() for path in finals)
    assert len(start) == len(sft) == len(dpo) and start != sft != dpo == final
    assert not list(folder.rglob("final/adapter_config.json"))


def test_rewards_that_a_held_out_judge_does_not_share_stop_it_after_sft(recipe_file, tmp_path):
    (tmp_path / "pale.py").write_text(REDNESS.replace("float(np", "-float(np"))
    keep = ["sampling.gate=stop", "evaluate.held_out_rewards=[./pale.py]", "rewriter.keep_weight=0"]
    keep += ["rewriter.num_rewrites=4", "rewriter.steps={sft: 3, dpo: 2}"]
    with pytest.raises(GateError, match="the best of 4 rewrites of 64 short prompts against the greedy one"):
        launch(recipe_file, keep)
    folder = tmp_path / "runs/tiny_rewriter"
    assert (folder / "sft/final").is_dir() and not (folder / "dpo").exists()
    warned = launch(recipe_file, [*keep, "sampling.gate=warn", "out=warned"])[-1]
    assert not json.loads((warned.path / "gate.json").read_text())["open"] and warned.final.is_dir()
