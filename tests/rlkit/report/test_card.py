"""Model cards: metadata the Hub accepts, the numbers of results.json, code that runs, limits that are said."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file

from data_synth.video import read_clip, write_mp4
from data_synth.world.render import render
from data_synth.world.script import draw_script
from rlkit import models
from rlkit.caption import rows
from rlkit.report import card

write_fake_run = runpy.run_path(str(Path(__file__).with_name("fake_run.py")))["write_fake_run"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_fake_run(tmp_path_factory.mktemp("runs") / "dpo_caption", clips=20, strips=2)
    (folder / "final").mkdir()
    card.write_cards(folder)
    return folder


def change(folder, target, **sections):
    """A copy of a run folder with sections of its recipe replaced."""
    shutil.copytree(folder, target)
    recipe = yaml.safe_load((target / "recipe.yaml").read_text()) | sections
    (target / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    card.write_cards(target)
    return target


@pytest.mark.parametrize("name", ["README.md", "final/README.md"])
def test_metadata_is_read_back_by_huggingface_hub(run, name):
    data = ModelCard.load(run / name).data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "video-text-to-text")
    assert data.tags == ["rlkit", "dpo"]
    systems = json.loads((run / "results.json").read_text())["systems"]
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results["order_exact"] == systems["dpo"]["order_exact"]["value"]


def test_base_model_is_a_hub_id_and_never_a_local_path(run, tmp_path):
    assert ModelCard.load(run / "README.md").data.base_model is None
    hub = change(run, tmp_path / "hub", model={"id": "Qwen/Qwen2.5-VL-3B-Instruct"})
    base = ModelCard.load(hub / "README.md").data.base_model
    validate_repo_id(base)
    assert base == "Qwen/Qwen2.5-VL-3B-Instruct"


def test_base_model_is_followed_through_the_runs_before(run, tmp_path):
    sft = change(run, tmp_path / "sft", model={"id": "Qwen/Qwen2.5-VL-3B-Instruct"})
    dpo = change(run, tmp_path / "dpo", model={"id": str(sft / "final")})
    assert ModelCard.load(dpo / "README.md").data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"


def test_a_model_from_nothing_says_so(run, tmp_path):
    folder = change(run, tmp_path / "base", model={"id": None, "init": "qwen2_5_vl"})
    assert "from nothing: a tiny qwen2_5_vl" in (folder / "README.md").read_text()
    assert ModelCard.load(folder / "README.md").data.base_model is None


def test_datasets_are_hub_ids_only(run, tmp_path):
    local = change(run, tmp_path / "local", data={"source": "folder", "folder": "clips/"})
    assert ModelCard.load(local / "README.md").data.datasets is None
    hub = change(run, tmp_path / "hub", data={"source": "pairs", "pairs": "someone/video-pairs"})
    assert ModelCard.load(hub / "README.md").data.datasets == ["someone/video-pairs"]


def test_an_adapter_is_pefts(run, tmp_path):
    folder = change(run, tmp_path / "lora")
    (folder / "final/adapter_config.json").write_text("{}")
    card.write_cards(folder)
    data = ModelCard.load(folder / "final/README.md").data
    assert data.library_name == "peft" and "lora" in data.tags


def test_results_are_those_of_the_run(run):
    systems = json.loads((run / "results.json").read_text())["systems"]
    text = (run / "README.md").read_text()
    for metrics in systems.values():
        value = metrics["order_exact"]
        assert f"{100 * value['value']:.1f}" in text and f"{100 * value['low']:.1f}–" in text


def test_what_got_worse_and_alarms_are_limits(run, tmp_path):
    folder = tmp_path / "worse"
    shutil.copytree(run, folder)
    results = json.loads((folder / "results.json").read_text())
    results["differences"]["dpo"]["base"]["skill_probe"] = {"value": -0.05, "low": -0.08, "high": -0.02, "n": 20}
    (folder / "results.json").write_text(json.dumps(results))
    card.write_cards(folder)
    limits = (folder / "README.md").read_text().split("## Limits")[1]
    assert "Worse than the start: skill probe" in limits and "−8.0 to −2.0" in limits
    assert 'The guard "displacement" gave an alarm at step 70' in limits
    assert "rendered clips of a few shapes" in limits


def test_an_empty_folder_gives_a_card_that_claims_nothing(tmp_path):
    card.write_cards(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "Nothing was measured" in text and "## Results" not in text
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "transformers"


def test_texts_of_the_run_cannot_become_html_or_end_the_code_block(run, tmp_path):
    folder = tmp_path / "hostile"
    shutil.copytree(run, folder)
    rows = [json.loads(line) for line in (folder / "samples/eval.jsonl").read_text().splitlines()]
    rows[0]["truth"] = "<script>alert(1)</script> | cell\n# heading"
    (folder / "samples/eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text("algorithm: dpo\nnote: '```<b>'\n")
    card.write_cards(folder)
    text = (folder / "README.md").read_text()
    assert "<script>" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; \\| cell # heading |" in text
    assert text.count("```") == 4


def test_pictures_of_the_card_are_there(run):
    addresses = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (run / "README.md").read_text())
    assert addresses and all((run / address).is_file() for address in addresses)
    assert "![" not in (run / "final/README.md").read_text()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_usage_code_runs_and_feeds_the_clip_as_training_does(run, tmp_path, tiny_model, family):
    folder = change(run, tmp_path / "run", data={"source": "world", "num_frames": 6, "frame_size": 56})
    model, processor = tiny_model(family)
    model.save_pretrained(folder / "final")
    processor.save_pretrained(folder / "final")
    card.write_cards(folder)
    write_mp4(tmp_path / "clip.mp4", render(draw_script(0, 0)), 8)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    code += "\nimport safetensors.torch\nsafetensors.torch.save_file(dict(inputs), 'inputs.safetensors')\n"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    clip = read_clip(tmp_path / "clip.mp4", num_frames=6, height=56, width=56)
    message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Describe the video."}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A red circle spins."}]}
    example = rows.encode(models.prepare(model, processor), {"prompt": [message], "chosen": [answer]}, clip)
    inputs = load_file(tmp_path / "inputs.safetensors")
    assert inputs["input_ids"].tolist() == example.prompt["input_ids"].tolist()
    difference = (inputs["pixel_values_videos"] - example.prompt["pixel_values_videos"]).abs().mean()
    assert difference < 0.02
