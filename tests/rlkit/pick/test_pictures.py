"""`rlkit pick` on a generator: the best are kept, what is finished is not drawn again, pairs train, nothing is lost."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("diffusers")

from rlkit import cli
from rlkit.evaluate import best_of
from rlkit.generators import pair_table
from rlkit.models import generator as generators
from rlkit.recipe import Lora
from tests.rlkit.conftest import REDNESS

PROMPTS = ["A red ball on a grey background, close-up.", "Two blue bars on a teal background, wide shot."]
SIZES = ["--resolution", "16", "--num-inference-steps", "2", "--batch-size", "4"]


@pytest.fixture
def pick(flow_folder, tmp_path, monkeypatch):
    """(options) -> exit code of `rlkit pick` in a directory with prompts.txt and redness.py."""
    monkeypatch.chdir(tmp_path)
    Path("redness.py").write_text(REDNESS)
    Path("prompts.txt").write_text("\n".join([*PROMPTS, "", PROMPTS[0]]))

    def run(*options, rewards=("./redness.py",)):
        argv = ["pick", str(flow_folder), "prompts.txt", "--make", "6", "--keep", "2", "--out", "picks", *SIZES]
        with pytest.raises(SystemExit) as caught:
            cli.main([*argv, "--rewards", *rewards, *options])
        return caught.value.code

    return run


def redness(path):
    return np.asarray(Image.open(path), np.float64)[..., 0].mean()


def lines(path="picks/picks.jsonl"):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_the_best_are_kept_with_their_scores_and_the_curve_is_the_estimators(pick, capsys):
    assert pick("--held-out", "world_picture: {measure: saturation}") == 0
    rows = [json.loads(path.read_text()) for path in Path("picks/drawn").glob("*.json")]
    assert {row["prompt"] for row in rows} == set(PROMPTS)
    for row in rows:
        scores = np.array(row["scores"]["redness"])
        assert len(set(scores)) == 6 and row["kept"] == np.argsort(-scores)[:2].tolist()
        for at, file in zip(row["kept"], row["files"], strict=True):
            assert redness(Path("picks/pictures") / file) == pytest.approx(scores[at], rel=1e-5)
    kept = lines()
    assert [row["rank"] for row in kept] == [1, 2, 1, 2] and kept[0]["reward"] > kept[1]["reward"]
    results = json.loads(Path("picks/results.json").read_text())
    assert results["complete"] and [point["n"] for point in results["curve"]] == [1, 2, 4, 6]
    for point in results["curve"]:
        assert point["kl"] == best_of.kl(point["n"])
        for name in ("reward", "held_out"):
            by_hand = [best_of.expected(row["values"], row["scores"][name], point["n"]) for row in rows]
            assert point[name]["value"] == pytest.approx(np.mean(by_hand)) and point[name]["n"] == 2
    best, mean = (np.mean([f(row["values"]) for row in rows]) for f in (max, np.mean))
    assert results["systems"]["best_of_6"]["reward"]["value"] == pytest.approx(best)
    assert results["systems"]["base"]["reward"]["value"] == pytest.approx(mean)
    page = Path("picks/page.html").read_text()
    assert PROMPTS[0] in page and f'src="{kept[0]["file"]}"' in page and "curve.svg" in page
    assert "best of 6 against one" in capsys.readouterr().out
    assert cli.dispatch(["eval", "picks"]) == 0  # the table of systems, as of a run


def test_killed_it_goes_on_and_new_prompts_are_added(pick):
    Path("stop_at").write_text("2")  # the second prompt's scores
    with pytest.raises(RuntimeError, match="power cut"):
        pick()
    first = {path.name: path.stat().st_mtime_ns for path in Path("picks/drawn").glob("*.json")}
    assert len(first) == 1
    assert pick() == 0
    whole = Path("picks/picks.jsonl").read_text()
    again = {path.name: path.stat().st_mtime_ns for path in Path("picks/drawn").glob("*.json")}
    assert len(again) == 2 and first.items() <= again.items()
    Path("prompts.txt").write_text("\n".join(["A white ring on a pink background, medium shot.", *PROMPTS]))
    assert pick("--out", "another") == 0  # whole, and with another prompt before these
    assert Path("another/picks.jsonl").read_text().endswith(whole) and len(lines("another/picks.jsonl")) == 6


def test_pairs_are_the_best_against_the_worst_in_the_pair_tables_columns(pick):
    assert pick("--pairs") == 0
    assert pq.read_schema("picks/pairs/pairs-00000.parquet") == pair_table.COLUMNS
    table = pair_table.read_table("picks/pairs")
    assert len(table) == 2 and table.counts["ties"] == 0
    for path in Path("picks/drawn").glob("*.json"):
        row = json.loads(path.read_text())
        pair = next(one for one in pq.read_table("picks/pairs").to_pylist() if one["caption"] == row["prompt"])
        better = 0 if pair["label_0"] == 1 else 1
        values = row["scores"]["redness"]
        assert pair[f"rewards_{better}"] == pytest.approx([max(values)])
        assert pair[f"rewards_{1 - better}"] == pytest.approx([min(values)])
        assert pair["margin"] == pytest.approx(max(values) - min(values), rel=1e-5)
        assert pair[f"jpg_{better}"] == (Path("picks/pictures") / row["files"][0]).read_bytes()
    assert json.loads(Path("picks/results.json").read_text())["counts"]["pairs"] == 2


def test_samples_without_a_score_take_no_part_and_are_counted(pick):
    assert pick(rewards=["./redness.py: {missing: true}"]) == 0
    results = json.loads(Path("picks/results.json").read_text())
    assert results["counts"] == {"prompts": 2, "samples": 12, "missing_rewards": 8}  # of 6, no. 0, 1, 4 and 5
    by_n = {point["n"]: point for point in results["curve"]}
    assert by_n[2]["reward"]["n"] == 2 and by_n[4]["reward"]["n"] == 0 and by_n[4]["reward"]["value"] is None


def test_an_adapter_is_laid_over_the_pipeline_of_its_run(flow_folder, generator_recipe):
    adapted = generators.load(str(flow_folder), lora=Lora(r=4))
    for parameter in adapted.parameters():
        parameter.data.normal_()
    generators.save(adapted, Path("run/final"))
    text = generator_recipe("nft").read_text()
    Path("run/recipe.yaml").write_text(text.replace("./redness.py", "world_picture"))
    argv = ["pick", "run/final", "world", "--limit", "1", "--make", "2", "--rewards", "./redness.py", "--out", "picks"]
    assert cli.dispatch(argv) == 0
    job = json.loads(Path("picks/pick.json").read_text())
    assert job["base"] == str(flow_folder) and job["resolution"] == 16 and job["num_inference_steps"] == 2
    of_adapter = json.loads(next(Path("picks/drawn").glob("*.json")).read_text())
    assert cli.dispatch([*argv[:1], str(flow_folder), *argv[2:-1], "plain", *SIZES]) == 0
    of_base = json.loads(next(Path("plain/drawn").glob("*.json")).read_text())
    assert of_adapter["samples"] == of_base["samples"] and of_adapter["values"] != of_base["values"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep", "7"], "--keep 7 of --make 6"),
        (["--rewards", "world_pictur"], "Did you mean 'world_picture'"),
        (["--rewards", "world_picture: {part: [colour]}"], "part"),
        (["--make", "1", "--keep", "1", "--pairs"], "a better and a worse one"),
        (["--batch-size", "0"], "0 is less than 1"),
    ],
)
def test_what_cannot_work_is_one_sentence(pick, capsys, options, said):
    assert pick(*options) != 0
    assert said in capsys.readouterr().err and not Path("picks").exists()


def test_a_folder_of_something_else_is_left_alone(pick, capsys):
    Path("picks").mkdir()
    Path("picks/mine.txt").write_text("mine")
    assert pick() == 2 and "is not empty and holds no picks" in capsys.readouterr().err
    Path("picks/mine.txt").unlink()
    Path("picks/pick.json").write_text('{"seed": 0, "make": 6}')
    assert pick("--seed", "1") == 2
    assert "seed: 0 in the folder, 1 asked for" in capsys.readouterr().err
