"""Plans for many machines: every number from its formula, and one clear line for what no cluster can be."""

import argparse
import json
import math

import pytest

from rlkit import plan_nodes
from rlkit.cli import main
from rlkit.errors import PlanError
from rlkit.plan_nodes import Cluster, Measured
from rlkit.recipe import Data, PlugIn, Recipe, Train
from rlkit.recipe.sections_data import PairMaking

GIB = 2**30
TOOK = Measured(
    captions=200,
    take_in_s=1e-4,
    make_s=3e-3,
    finish_s=1e-3,
    scan_s=5e-5,
    shard_bytes=500.0,
    work_bytes=400.0,
    held_bytes=2e4,
    process_bytes=0.25 * GIB,
)


def given(**changed):
    return argparse.Namespace(**{"nodes": 2, "cores": 4, "node_days": 264.0, **changed})


def pairs(rows_per_shard=5000):
    return Recipe(algorithm="pairs", negatives=[PlugIn("order_swap")], pairs=PairMaking(rows_per_shard=rows_per_shard))


def test_a_cluster_dies_more_often_than_a_machine():
    assert Cluster(128, 64, 264).mean_time_between_deaths == pytest.approx(264 * 24 * 3600 / 128)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"nodes": 0}, "--nodes is 0; expected at least 1."),
        ({"cores": -1}, "--cores is -1; expected at least 1."),
        ({"node_days": 0.0}, "--node-days is 0; expected"),
        ({"node_days": math.nan}, "--node-days is nan; expected"),
    ],
)
def test_no_cluster_is_like_that(changed, said):
    with pytest.raises(PlanError) as caught:
        plan_nodes.cluster_of(given(**changed))
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert plan_nodes.cluster_of(given(nodes=None)) is None


def test_rows_may_be_written_as_1e9():
    assert [plan_nodes.rows_of(text) for text in ("1e9", "1_000", "1,000", None)] == [10**9, 1000, 1000, None]
    for text in ("0", "1.5", "-3", "many", "nan", "inf"):
        with pytest.raises(PlanError, match="expected a whole number of at least 1"):
            plan_nodes.rows_of(text)


def test_the_best_interval_is_dalys_and_near_youngs_where_deaths_are_rare():
    d, m = 60.0, 24 * 3600.0
    x = d / (2 * m)
    daly = math.sqrt(2 * d * m) * (1 + math.sqrt(x) / 3 + x / 9) - d
    assert plan_nodes.best_interval(d, m) == pytest.approx(daly)
    assert plan_nodes.best_interval(1e-3, 1e9) == pytest.approx(math.sqrt(2 * 1e-3 * 1e9), rel=1e-4)
    assert plan_nodes.best_interval(100, 50) == 50  # a checkpoint takes longer than machines live: Daly's other branch


def test_no_other_interval_loses_less_than_the_best_by_much():
    d, m = 30.0, 5e5
    lost = {t: plan_nodes.lost_share(t, d, m, restart_s=0) for t in range(100, 60_000, 10)}
    assert plan_nodes.lost_share(plan_nodes.best_interval(d, m), d, m, 0) <= min(lost.values()) * 1.001
    assert lost[1000] == pytest.approx(d / 1000 + 500 / m)
    assert plan_nodes.lost_share(1000, d, m, restart_s=600) == pytest.approx(lost[1000] + 600 / m)


def test_deaths_of_a_training():
    cluster, recipe = Cluster(128, 1, 264), Recipe(algorithm="dpo", train=Train(save_steps=500))
    between = 264 * 86400 / 128
    found = plan_nodes.training_faults(recipe, cluster, checkpoint_bytes=30 * GIB, seconds=1e6, steps=50_000)
    assert found["deaths"] == pytest.approx(1e6 / between, rel=1e-3)
    assert (found["checkpoint_s"], found["step_s"]) == (30, 20)
    assert found["lost_share"] == pytest.approx(30 / 10_000 + (5_000 + 600) / between, abs=1e-5)
    assert found["best_save_steps"] == round(plan_nodes.best_interval(30, between) / 20)
    assert found["best_lost_share"] < found["lost_share"]
    unsaved = Recipe(algorithm="dpo", train=Train(save_steps=0))
    assert plan_nodes.training_faults(unsaved, cluster, 30 * GIB, 1e6, 50_000)["lost_share"] is None


def test_pairs_are_shards_in_rounds_and_one_process_takes_in():
    plan = plan_nodes.pairs_plan(pairs(), 10**9, Cluster(128, 64, 264), TOOK)
    assert (plan["shards"], plan["rounds"]) == (200_000, math.ceil(200_000 / (128 * 64)))
    assert plan["shard_s"] == 5000 * 4e-3 and plan["captions_per_core_s"] == 250
    assert plan["seconds"] == {"take_in": 1e5, "make": 25 * 15, "finish": 25 * 5, "report": 5e4}
    assert plan["minutes"] == pytest.approx((1e5 + 500 + 5e4) / 60, rel=1e-4)
    assert plan["minutes_in_files"] == pytest.approx((1.5e5 / 128 + 500) / 60, rel=1e-3)
    assert plan["disk_gib"]["pairs"] == pytest.approx(5e11 / GIB, rel=1e-4)
    assert plan["memory_gib"] == pytest.approx(0.25 + 5000 * 2e4 / GIB, abs=1e-3)
    assert plan["shard_mib"] == pytest.approx(5000 * 500 / 2**20, abs=0.01)
    between = 264 * 86400 / 128
    assert plan["faults"]["deaths"] == pytest.approx(150_500 / between, rel=1e-3)
    assert plan["faults"]["lost_share"] == pytest.approx((10 + 600) / between, abs=1e-5)


def test_few_captions_are_one_shard():
    plan = plan_nodes.pairs_plan(pairs(), 100, Cluster(1, 8, 264), TOOK)
    assert (plan["shards"], plan["rounds"], plan["seconds"]["make"]) == (1, 1, pytest.approx(0.3))


def test_more_rows_are_more_clips():
    assert plan_nodes.with_rows(Recipe(algorithm="dpo", data=Data(num_clips=5)), 10**9).data.num_clips == 10**9
    assert plan_nodes.with_rows(Recipe(algorithm="bootstrap"), 77).bootstrap.num_samples == 77


def run(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main(["plan", *argv])
    return caught.value.code, capsys.readouterr()


def test_the_plan_of_pairs_is_measured_on_their_own_captions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = ({"id": f"c{n}", "caption": f"A man lifts {n} red hats. Then he turns to the left."} for n in range(30))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "p.yaml").write_text("algorithm: pairs\ndata: {captions: c.jsonl}\nnegatives: [order_swap]\n")
    code, said = run(capsys, "p.yaml", "--json", "--nodes", "3", "--cores", "2", "--rows", "1e6")
    (plan,) = json.loads(said.out)
    assert code == 0 and (plan["rows"], plan["shards"], plan["measured"]["captions"]) == (10**6, 200, 30)
    took = plan["measured"]
    assert all(took[name] > 0 for name in ("make_s", "shard_bytes", "work_bytes", "held_bytes", "process_bytes"))
    assert plan["rounds"] == 34 and plan["seconds"]["make"] == pytest.approx(34 * 5000 * took["make_s"], abs=0.1)
    assert not (tmp_path / "runs").exists()
    code, said = run(capsys, "p.yaml", "--nodes", "0")
    assert code == 2 and said.err.strip() == "--nodes is 0; expected at least 1."


def test_captions_that_cannot_be_used_end_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.jsonl").write_text('{"id": "a", "caption": ""}\n')
    (tmp_path / "p.yaml").write_text("algorithm: pairs\ndata: {captions: c.jsonl}\nnegatives: [order_swap]\n")
    code, said = run(capsys, "p.yaml")
    assert (code, said.err.strip()) == (2, "c.jsonl: has no caption to measure with.")


def test_a_training_on_nodes_has_a_global_batch_of_all_devices(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "algo.py").write_text("def run(recipe, folder): ...\n")
    text = "algorithm: ./algo.py\nmodel: {init: qwen2_5_vl, vision: full}\ndata: {frame_size: 56}\n"
    (tmp_path / "base.yaml").write_text(text + "train: {save_steps: 10}\n")
    asked = ("base.yaml", "--nodes", "4", "--devices", "8", "--rows", "1e9")
    code, said = run(capsys, *asked, "--json")
    (plan,) = json.loads(said.out)
    batch = plan["rows_per_step"]
    assert code == 0 and (plan["devices"], batch % 32, plan["rows"]) == (32, 0, 10**9)
    assert plan["steps"] == math.ceil(10**9 / batch) * plan["epochs"]
    assert plan["device_hours"] == pytest.approx(32 * plan["minutes"] / 60, rel=1e-3)
    code, said = run(capsys, *asked)
    assert all(word in said.out for word in ("device hours", "of 4 machines", "save_steps", "Young, Daly"))
    code, said = run(capsys, *asked, "--rows-per-step", "100")
    assert code == 2 and "Nearest that can" in said.err
