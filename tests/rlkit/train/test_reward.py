"""A reward run from end to end, and what its numbers are made of."""

import json
import shutil

import pytest
from transformers import AutoModelForImageTextToText

from rlkit.run import run
from rlkit.train import reward
from tests.rlkit.conftest import FOOTER, HEADER

RECIPE = """\
algorithm: reward
model: {id: runs/base_caption/final, vision: frozen}
data: {num_clips: 12, num_frames: 6, frame_size: 56}
negatives: [order_swap, event_replace]
num_negatives: 3
train: {learning_rate: 1.0e-3, per_device_train_batch_size: 4, max_steps: 4, logging_steps: 1, save_steps: 2}
evaluate: {num_clips: 4, per_device_eval_batch_size: 3, unseen_negatives: [attribute_swap]}
"""


def test_a_run_names_the_shares_with_intervals_and_leaves_an_ordinary_model(chain, tmp_path, monkeypatch):
    shutil.copytree(chain / "runs/base_caption", tmp_path / "runs/base_caption")
    (tmp_path / "reward_consistency.yaml").write_text(HEADER + RECIPE + FOOTER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    run("reward_consistency.yaml")
    folder = tmp_path / "runs/reward_consistency"
    results = json.loads((folder / "results.json").read_text())
    system = results["systems"]["reward"]
    assert set(results["systems"]) == {"likelihood", "untrained", "reward"}
    for metric in ("pairwise_seen", "pairwise_unseen_kind", "pairwise_blind", "calibration_error"):
        assert set(system[metric]) >= {"value", "low", "high", "n"}
    assert results["complete"] and system["pairwise_seen"]["n"] == 4
    model = AutoModelForImageTextToText.from_pretrained(folder / "final")
    assert model.config.model_type == "qwen2_5_vl"
    assert json.loads((folder / "final/judge.json").read_text())["question"]
    assert system["pairwise_blind"]["value"] == 0.5  # hidden clips add nothing to any caption
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"rewards/margins", "rewards/accuracies"} <= set(logged[0])


def test_shares_are_of_clips_and_a_tie_counts_half():
    rows = [
        {"clip": "a", "kind": "order_swap", "seen": True, "margin": 1.0, "blind": 0.0},
        {"clip": "a", "kind": "attribute_swap", "seen": False, "margin": -2.0, "blind": 1.0},
        {"clip": "b", "kind": "order_swap", "seen": True, "margin": 0.0, "blind": -1.0},
    ]
    found = reward.summary(rows)
    assert found["pairwise_seen"]["value"] == pytest.approx((1 + 0.5) / 2)
    assert found["pairwise_unseen_kind"]["value"] == 0.0
    assert found["pairwise_blind"]["value"] == pytest.approx(((0.5 + 1) / 2 + 0) / 2)
    assert found["calibration_error"]["n"] == 2


def test_without_its_prior_a_margin_is_what_the_clip_adds():
    (row,) = reward.without_prior([{"clip": "a", "kind": "x", "seen": True, "margin": 3.0, "blind": 4.5}])
    assert (row["margin"], row["blind"]) == (-1.5, 0.0)  # a likely sentence is no true one
