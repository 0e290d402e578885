"""Rewards with heads trained in miniature: from labels and the gallery, frozen, LoRA and full, cut off and resumed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel

import reward_models
from rlkit.errors import RlkitError
from rlkit.models import tiny_encoder
from rlkit.run import run
from tests.rlkit.conftest import FOOTER, HEADER

LABELS = """\
algorithm: reward
model: {model}
data: {{source: folder, folder: shots, num_frames: 2}}
reward: {{attributes: [sharpness], vetoes: [anatomy], bins: 0, hidden: 8, crops: 1, features: statistics}}
train: {{learning_rate: 1.0e-3, per_device_train_batch_size: 2, max_steps: {steps}, logging_steps: 1, save_steps: 2}}
evaluate: {{num_clips: 2}}
"""
FULL = "{init: convnextv2, vision: full}"


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """(text, overrides) -> the run folder of that recipe, in a folder with ten labelled groups."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shots").mkdir()
    draw, lines = np.random.default_rng(0), []
    for number in range(10):
        items = []
        for place, step in enumerate((1, 2, 4)):  # coarser and coarser
            pixels = draw.integers(0, 256, (72 // step, 72 // step, 3), dtype=np.uint8).repeat(step, 0).repeat(step, 1)
            Image.fromarray(pixels).save(tmp_path / f"shots/{number}-{place}.png")
            items.append({"image": f"{number}-{place}.png", "ratings": {"sharpness": 1 / step}})
        items[0] |= {"kind": "portrait", "face": [0.1, 0.1, 0.6, 0.6], "veto": {"anatomy": False}}
        pairs = [{"better": 0, "worse": 1}, {"better": 1, "worse": 2, "attribute": "sharpness"}][: 1 + number % 2]
        lines.append(json.dumps({"items": items, "pairs": pairs, "rankings": [{"order": [0, 1, 2]}]}))
    (tmp_path / "shots/labels.jsonl").write_text("\n".join([*lines, "{broken"]), encoding="utf-8")

    def get(text, *overrides):
        (tmp_path / "judge.yaml").write_text(HEADER + text + FOOTER, encoding="utf-8")
        return run("judge.yaml", overrides)[-1].path

    return get


def test_a_reward_learns_from_labels_and_scores(launch):
    folder = launch(LABELS.format(model=FULL, steps=3))
    results = json.loads((folder / "results.json").read_text())
    assert set(results["systems"]) == {"untrained", "reward"}
    for metric, groups in (("pairwise_held_out", 2), ("pairwise_sharpness", 1), ("tau_sharpness", 2)):
        assert results["systems"]["reward"][metric]["n"] == groups
    (rejected,) = [json.loads(one) for one in (folder / "rejected_rows.jsonl").read_text().splitlines()]
    assert rejected["line"] == 11 and rejected["reason"]
    score = reward_models.load(folder / "final")
    told = score(prompts=[""], completions=[Image.open("shots/0-0.png")])
    assert np.isfinite(told[0])
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {"loss", "loss/pairs", "loss/ratings", "loss/rankings", "loss/veto", "loss/route", "rewards/accuracies"}
    assert names <= set(logged[0]) and "loss/distribution" not in logged[0]
    model = AutoModel.from_pretrained(folder / "final")
    assert model.config.model_type == "convnextv2"


def test_cut_off_in_the_second_epoch_and_launched_again_it_ends_the_same(launch):
    text = LABELS.format(model=FULL, steps=6)  # 8 groups, 4 steps an epoch
    folder = launch(text, "train.save_total_limit=4")
    whole = {name: load_file(folder / "final" / name) for name in ("model.safetensors", "heads.safetensors")}
    metrics = (folder / "metrics.jsonl").read_text()
    assert (folder / "checkpoints/checkpoint-4/complete").is_file()
    (folder / "results.json").unlink()
    for name in ("final", "checkpoints/checkpoint-6"):
        shutil.rmtree(folder / name)
    again = launch(text, "train.save_total_limit=4")
    for name, tensors in whole.items():
        found = load_file(again / "final" / name)
        assert all((found[key] == tensor).all() for key, tensor in tensors.items()), name
    clock = lambda text: [{k: v for k, v in json.loads(x).items() if "time" not in k} for x in text.splitlines()]  # noqa: E731
    assert clock((again / "metrics.jsonl").read_text()) == clock(metrics)


def test_frozen_trains_the_heads_alone_and_lora_an_adapter(launch, tmp_path):
    model, processor = tiny_encoder.build("dinov2", hidden_sizes=(32, 32), patch_size=8)
    model.save_pretrained(tmp_path / "hub")
    processor.save_pretrained(tmp_path / "hub")
    before = load_file(tmp_path / "hub/model.safetensors")
    folder = launch(LABELS.format(model="{id: hub, vision: frozen}", steps=2), "out=runs/frozen")
    after = load_file(folder / "final/model.safetensors")
    assert all((after[name] == tensor).all() for name, tensor in before.items())
    text = LABELS.format(model="{id: runs/frozen/final, vision: full}", steps=0)
    further = launch(text, "out=runs/further", "train.save_steps=0")  # from a trained reward: its heads are the start
    for name in ("model.safetensors", "heads.safetensors"):
        start, kept = (load_file(path / "final" / name) for path in (folder, further))
        assert all((kept[key] == tensor).all() for key, tensor in start.items())
    with pytest.raises(RlkitError, match="was trained with outputs"):
        launch(text, "out=runs/other", "reward.hidden=9")
    folder = launch(LABELS.format(model="{id: hub, vision: lora, lora: {r: 2}}", steps=2), "out=runs/lora")
    assert not (folder / "final/model.safetensors").exists()
    adapter = load_file(folder / "final/adapter_model.safetensors")
    assert any(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
    assert np.isfinite(reward_models.load(folder / "final").judge([Image.open("shots/0-0.png")])[0]["score"])


def test_the_gallery_is_rendered_learnt_and_measured(launch):
    text = """\
algorithm: reward
model: {init: convnextv2, vision: full}
data: {source: gallery, num_clips: 3, frame_size: 72}
reward: {vetoes: [anatomy, artefact], crops: 1, features: statistics}
train: {per_device_train_batch_size: 2, max_steps: 1, logging_steps: 1}
evaluate: {num_clips: 2, split: dev}
"""
    folder = launch(text)
    results = json.loads((folder / "results.json").read_text())
    assert list(results["systems"]) == ["laplacian", "untrained", "reward"]
    for system in results["systems"].values():
        assert {"pairwise_held_out", "monotone_held_out", "calibration_held_out"} <= set(system)
        assert "pairwise_real" not in system  # dev does not look at them
    rows = [json.loads(line) for line in (folder / "samples/scores.jsonl").read_text().splitlines()]
    assert {row["picture"] for row in rows} == {"1000000", "1000001"}
    assert (folder / "report.html").is_file()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("model.vision=lora", "needs model.lora"),
        ("model.init=qwen2_5_vl", "no vision encoder"),
        ("data.source=world", "gallery or folder"),
        ("reward.ratings=ordinal", "number of grades"),
        ("reward.attributes=[overall]", "distinct names"),
    ],
)
def test_what_does_not_go_together_is_told(launch, change, told):
    with pytest.raises(RlkitError, match=told):
        launch(LABELS.format(model=FULL, steps=1), change)


def test_accumulated_batches_learn_what_one_batch_learns(launch):
    text = LABELS.format(model=FULL, steps=1)
    for name, size, accumulation in (("one", 4, 1), ("many", 1, 4)):
        sizes = [f"train.per_device_train_batch_size={size}", f"train.gradient_accumulation_steps={accumulation}"]
        launch(text, f"out=runs/{name}", "evaluate.num_clips=0", *sizes)
    logged = [json.loads(Path(f"runs/{name}/metrics.jsonl").read_text().splitlines()[0]) for name in ("one", "many")]
    for name in ("loss", "grad_norm"):  # groups hold unequal numbers of labels: a plain mean of batches would differ
        assert logged[1][name] == pytest.approx(logged[0][name], rel=1e-3)
