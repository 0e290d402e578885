"""The feedback recipe: planted truth found without a log; a user's log, its mistakes and its missing columns told."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_synth.feedback.simulate import World, simulate
from data_synth.records import read_records
from rlkit.errors import RecipeError, RlkitError
from rlkit.recipe import file as recipe_file
from rlkit.run import run

RECIPE = str(Path(__file__).resolve().parents[3] / "recipes" / "reward_feedback.yaml")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The run folder of the recipe as it is."""
    folder = tmp_path_factory.mktemp("simulated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(RECIPE)
    return folder / "runs" / "reward_feedback"


def test_without_a_log_planted_inversions_tell_naive_from_corrected(simulated):
    results = json.loads((simulated / "results.json").read_text())
    naive, ours = results["systems"]["naive"], results["systems"]["ours"]
    assert results["complete"] and naive["inversions_wrong"]["n"] == ours["inversions_wrong"]["n"] >= 15
    assert naive["inversions_wrong"]["value"] >= 0.3
    assert ours["inversions_wrong"]["value"] < 0.05
    assert ours["inversions_separated_right"]["value"] > 0.8 and ours["inversions_separated_wrong"]["value"] == 0
    assert ours["separated_wrong"]["value"] < 0.025 < naive["separated_wrong"]["value"]
    assert ours["coverage"]["low"] <= 0.95 <= ours["coverage"]["high"]
    for planted, told in zip((1.0, 0.55, 0.35, 0.2), results["examination"], strict=True):
        assert told["value"] == pytest.approx(planted, rel=0.1)


def test_every_comparison_and_item_is_accounted_for(simulated):
    results = json.loads((simulated / "results.json").read_text())
    counts, pairs = results["counts"], read_records(simulated / "pairs")
    assert len(pairs) == counts["pairs"] > 50
    assert (
        counts["pairs"] + sum(counts["pairs_refused"].values()) + counts["pairs_quarantined"]
        == counts["pairs_separated"]
    )
    rewards = pq.read_table(simulated / "rewards.parquet").to_pylist()
    assert len(rewards) == counts["items"] == 120
    assert sum(row["capped"] is not None for row in rewards) == counts["rewards_capped"] > 0
    reward = {row["item"]: row["uncapped"] for row in rewards}
    for row in pairs:
        (edit,) = row["edit"]
        assert reward[edit["chosen_item"]] > reward[edit["rejected_item"]]


def test_a_finished_run_is_not_done_again(simulated, monkeypatch, capsys):
    monkeypatch.chdir(simulated.parents[1])
    run(RECIPE)
    assert "already finished" in capsys.readouterr().out


def user_log(folder: Path) -> Path:
    """A small log as users have them: another name for the propensity, no sessions, some unusable lines."""
    made = simulate(World(prompts=2, items=4, sessions=600), seed=1)
    rows = made.table().drop_columns(["session", "reported"]).to_pylist()
    for number, row in enumerate(rows):
        row["propensity_score"] = row.pop("propensity")
        if number % 50 == 0:
            row["click"] = None
    path = folder / "clicks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "half a li\n", encoding="utf-8")
    return path


def test_a_log_of_ones_own(tmp_path, monkeypatch, capsys):
    log = user_log(tmp_path)
    lines = len(log.read_text().splitlines())
    monkeypatch.chdir(tmp_path)
    run(RECIPE, [f"data.log={log}", "out=plain"])
    told = capsys.readouterr().out
    assert "column 'propensity_score' was not read" in told and "no propensity" in told
    assert "no session" in told and "no guards" in told
    counts = json.loads((tmp_path / "plain/results.json").read_text())["counts"]
    bad = [json.loads(line) for line in (tmp_path / "plain/rejected_rows.jsonl").read_text().splitlines()]
    assert counts["rows"] == lines and counts["quarantined"] == len(bad) == counts["quarantined_for"]["click"] + 1
    run(RECIPE, [f"data.log={log}", "out=mended", "feedback.rename={propensity: propensity_score}"])
    told = capsys.readouterr().out
    assert "propensity" not in told and "mended: " in told
    systems = json.loads((tmp_path / "mended/results.json").read_text())["systems"]
    assert "inversions_wrong" not in systems["ours"]  # nobody knows the truth of a user's log


@pytest.mark.parametrize("metric", ["conversion", "conversion_per_click", "continuation"])
def test_other_metrics(tmp_path, monkeypatch, metric):
    made = simulate(World(prompts=2, items=4, sessions=4_000, conversion=(0.3, 0.6)), seed=2)
    pq.write_table(made.table(), tmp_path / "clicks.parquet")
    monkeypatch.chdir(tmp_path)
    run(
        RECIPE, ["data.log=clicks.parquet", "out=run", f"feedback.metric={metric}", "feedback.guards={reported: lower}"]
    )
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["counts"]["items"] == 8 and results["counts"]["items_refused"] < 8
    assert (results["examination"] is None) == (metric != "conversion")
    scores = [row["scores"] for row in read_records(tmp_path / "run/pairs")]
    assert all(one[metric][0] > one[metric][1] and len(one["reported"]) == 2 for one in scores)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.log=gone.parquet", "no such file"),
        ("feedback.metric=ctr", "feedback.metric"),
        ("feedback.guards={reported: less}", "feedback.guards"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_when_it_is_read(override, said):
    with pytest.raises(RecipeError, match=said):
        recipe_file.load(RECIPE, [override])


def test_metrics_per_click_take_snips_only():
    with pytest.raises(RecipeError, match="is measured per click, a ratio, which takes snips; not dr"):
        recipe_file.load(RECIPE, ["feedback.metric=continuation", "feedback.method=dr"])


def test_a_guard_that_the_log_lacks_stops_the_run(tmp_path, monkeypatch):
    log = user_log(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RlkitError, match="has no column 'reported'"):
        run(RECIPE, [f"data.log={log}", "out=run", "feedback.guards={reported: lower}"])
