"""A generator's report and card: pictures by rule, quality by steps, the guard; no word of clips or captions."""

import json
import re

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from rlkit.report import card, page
from rlkit.report.data import read_run
from rlkit.report.pictures import by_steps, groups, guard_sentence


def interval(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 12, "excluded": 0}


@pytest.fixture
def run(tmp_path):
    """A finished run of NFT whose guard rolled back."""
    folder = tmp_path / "hack"
    (folder / "samples/pictures").mkdir(parents=True)
    (folder / "final").mkdir()
    (folder / "final/pytorch_lora_weights.safetensors").write_bytes(b"")
    rows = []
    for number, kind in enumerate(("improved", "worst", "first")):
        row = {"kind": kind, "number": number, "prompt": f"Prompt <{number}>.", "pictures": {}, "reward": {}}
        for name, level in (("base", 90), ("nft", 200)):
            path = f"samples/pictures/{number:04}-{name}.png"
            Image.fromarray(np.full((8, 32, 3), level, np.uint8)).save(folder / path)
            row["pictures"][name], row["reward"][name] = path, 0.25 if name == "base" else None
        rows.append(row)
    for name in ("base", "nft"):
        Image.new("RGB", (8, 8)).save(folder / f"samples/{name}.png")
    (folder / "samples/pictures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    systems = {"base": {"reward": interval(0.3)}, "nft": {"reward": interval(0.5)}}
    steps = {name: {str(at): {"reward": interval(at / 40)} for at in (4, 10, 40)} for name in systems}
    alarms = {"gap": {"step": 10, "value": 0.3}}
    results = {
        "complete": True, "systems": systems, "headline": ["base", "nft"], "measured_on": "held-out prompts",
        "by_steps": steps, "cost": {"train_seconds": {"nft": 10.0}},
        "guard": {"action": "rollback", "measured": 3, "alarms": alarms, "best": {"step": 5, "held_out": 0.5},
                  "rolled_back_from": 10},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"algorithm": "nft", "model": {"id": "some/pipeline"}}))
    lines = [{"step": 5 * at, "guard/reward": 0.3 + 0.1 * at, "guard/held_out": 0.5} for at in range(3)]
    lines.append({"step": 10, "alarm/gap": 0.3})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_groups_come_in_order_with_their_pictures_and_scores(run):
    found = groups(read_run(run))
    assert [group["title"] for group in found] == ["Most improved", "Worst", "As they come"]
    sides = found[0]["rows"][0]["sides"]
    assert [side["scores"] for side in sides] == ["reward 0.250", ""]  # what has no score is not printed as 0
    assert all(side["picture"].startswith("data:image/png") for side in sides)


def test_a_picture_that_is_gone_is_left_out(run):
    (run / "samples/pictures/0000-base.png").unlink()
    assert [side["title"] for side in groups(read_run(run))[0]["rows"][0]["sides"]] == ["NFT"]
    assert groups(read_run(run.parent)) == []


def test_quality_by_steps_has_a_column_for_each_number_in_order(run):
    (chart,) = by_steps(read_run(run).results)
    assert [head for head, _ in chart["table"]["heads"]] == ["4 steps", "10 steps", "40 steps"]
    assert [cell.value for cell in chart["table"]["rows"][1][1]] == ["0.100", "0.250", "1.000"]
    assert by_steps({}) == []


def test_the_guard_is_told_in_a_sentence(run):
    results = read_run(run).results
    assert "training ended at step 10" in guard_sentence(results) and "of step 5" in guard_sentence(results)
    assert guard_sentence({"guard": {"measured": 4, "alarms": {}}}).endswith("gave no alarm.")
    assert guard_sentence({}) == ""


def test_the_page_speaks_of_prompts_and_pictures(run):
    html = page.write_report(run).read_text()
    assert "What it draws now" in html and "Quality by steps" in html and "Prompt &lt;0&gt;." in html
    assert html.count("data:image/png") == 6
    assert "guard: trained reward and held-out judge" in html and "has gained 0.3 of its start more" in html
    text = re.sub(r"<[^>]*>", " ", html[html.index("<body>") :])
    assert not re.search(r"\bclips?\b|\bcaptions?\b|\bvideo\b", text)


def test_the_card_is_a_generator_s(run):
    card.write_cards(run)
    text = (run / "README.md").read_text()
    assert not re.search(r"\bclips?\b|\bcaption", text)
    data = ModelCard.load(run / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("diffusers", "text-to-image")
    assert data.tags == ["rlkit", "nft", "lora"] and data.base_model == "some/pipeline"
    for address in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (run / address).is_file()
    assert 'load_lora_weights("' in text and 'The guard "gap" gave an alarm at step 10' in text
    assert "training ended at step 10" in text and "0.500 (0.450–0.550)" in text
    compile(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], "card", "exec")
