"""Passes until a reward: the first measurement that reaches it, seed by seed, and a count of those that never do."""

import json

from rlkit.evaluate import passes

GRPO = [[(0.0, 0.1), (100.0, 0.3), (200.0, 0.4)], [(0.0, 0.1), (100.0, 0.2), (200.0, 0.6)]]


def test_a_curve_is_what_the_guard_saw_in_order(tmp_path):
    lines = [
        {"step": 0, "guard/reward": 0.1, "forward_passes": 0.0},
        {"step": 1, "loss": 0.5, "reward": 0.9},
        {"step": 2, "guard/reward": 0.2, "forward_passes": 64.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert passes.curve(tmp_path) == [(0.0, 0.1), (64.0, 0.2)]
    assert passes.curve(tmp_path / "absent") == []


def test_the_target_is_what_its_system_ended_with():
    nft = [[(0.0, 0.1), (25.0, 0.4), (50.0, 0.3)], [(0.0, 0.1), (25.0, 0.5), (50.0, 0.7)]]
    found = passes.to_target({"flow_grpo": GRPO, "nft": nft}, "flow_grpo")
    assert found["flow_grpo"] == {"value": 200.0, "low": 200.0, "high": 200.0, "n": 2, "excluded": 0}
    assert found["nft"] == {"value": 37.5, "low": 25.0, "high": 50.0, "n": 2, "excluded": 0}


def test_what_is_never_reached_is_counted_and_not_averaged():
    slow = [[(0.0, 0.1), (50.0, 0.45)], [(0.0, 0.1), (50.0, 0.59)]]
    found = passes.to_target({"flow_grpo": GRPO, "slow": slow}, "flow_grpo")["slow"]
    assert found == {"value": 50.0, "low": 50.0, "high": 50.0, "n": 1, "excluded": 1}
    none = passes.to_target({"flow_grpo": GRPO, "none": [[(0.0, 0.1)], []]}, "flow_grpo")["none"]
    assert none == {"value": None, "low": None, "high": None, "n": 0, "excluded": 2}


def test_one_target_serves_every_seed():
    found = passes.to_target({"flow_grpo": GRPO[:1], "nft": GRPO}, "flow_grpo")["nft"]
    assert found["excluded"] == 0 and found["low"] == found["high"] == 200.0
