"""The recipe makes pairs that audit, review, votes, rebuild and training's reader take."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_synth.records import read_records
from rlkit.errors import RecipeError
from rlkit.recipe import file as recipe_file

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "recipes" / "pairs_caption.yaml"


def caption(n: int) -> str:
    return f"A man with badge {n} opens a red box. Then he turns to the left. Finally he throws {n} into the sea."


def write(path: Path, numbers) -> Path:
    path.write_text("".join(json.dumps({"id": f"c{n}", "caption": caption(n)}) + "\n" for n in numbers))
    return path


def rlkit(folder: Path, *words: str, code: int = 0) -> str:
    command = [sys.executable, "-c", "import sys; from rlkit.cli import main; main(sys.argv[1:])", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write(folder / "captions.jsonl", range(40))
    command = [
        sys.executable,
        "-m",
        "rlkit",
        str(RECIPE),
        "data.captions=captions.jsonl",
        "out=pairs",
        "pairs.rows_per_shard=10",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_run_folder_is_a_data_set_with_audit_and_card(made):
    folder, told = made
    results = json.loads((folder / "pairs" / "results.json").read_text())
    counts = results["counts"]
    assert results["complete"] and counts["rows"] == 40 == counts["made"]
    assert counts["pairs"] + counts["quarantined"] + counts["without_negative"] == 40
    assert len(read_records(folder / "pairs")) == counts["pairs"] > 20
    assert f"{counts['pairs']} pairs from 40 captions" in told
    assert {"README.md", "audit.json", "recipe.yaml"} <= {path.name for path in (folder / "pairs").iterdir()}


def test_audit_reads_the_pairs_alone(made):
    folder, _ = made
    answers = sum(len(row["rejected"]) for row in read_records(folder / "pairs"))
    from data_synth.pair_files import read_pairs

    assert len(read_pairs(folder / "pairs")) == answers


def test_votes_of_the_review_page_come_back_as_tiers(made):
    folder, _ = made
    pytest.importorskip("crowdkit", reason="the optional package crowd-kit is not installed")
    pytest.importorskip("krippendorff", reason="the optional package krippendorff is not installed")
    from rlkit.report import review

    rlkit(folder, "review", "pairs", "--limit", "6", "--seed", "3")
    page = (folder / "pairs" / "review.html").read_text(encoding="utf-8")
    start = page.index(">", page.index('id="data"')) + 1
    data = json.loads(page[start : page.index("</script>", start)])
    assert len(data["items"]) == 6
    for voter in ("anna", "ben"):
        cast = [{"id": item["id"], "vote": review.chosen_side(item["id"], 3), "seconds": 2} for item in data["items"]]
        cast[0]["vote"] = "both_bad"
        path = folder / f"{voter}.json"
        path.write_text(json.dumps({"name": data["name"], "seed": 3, "votes": cast}))
    told = json.loads(rlkit(folder, "data", "votes", "anna.json", "ben.json"))
    assert told["alpha"]["nominal"] == 1.0 and told["labels"] == {"chosen": 5, "rejected": 0, "tie": 0, "both_bad": 1}
    assert told["tiers"] == {"gold": 5, "None": 1}
    weight = {
        f"{row['pair_id']}:{k}": w
        for row in read_records(folder / "pairs")
        for k, w in enumerate(row["rejected_weight"])
    }
    assert [weight[item["id"]] for item in data["items"]] == [0.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_rebuild_makes_only_what_changed(made):
    folder, _ = made
    write(folder / "captions.jsonl", [*range(5), *range(6, 40), 50])
    told = json.loads(rlkit(folder, "data", "rebuild", "pairs"))
    assert (told["rows"], told["made"]) == (40, 1)
    rlkit(folder, "data", "remove", "pairs", "c3")
    assert "c3" not in {row["source_id"] for row in read_records(folder / "pairs")}
    assert rlkit(folder, "data", "croissant", "pairs").strip().endswith("croissant.json")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.captions=gone.jsonl", "no such file or folder"),
        ("negatives=[own_samples]", "needs a model"),
        ("negatives=[]", "no pair could be made"),
        ("pairs.splits={train: 0.9}", "must add up to 1"),
        ("pairs.balance=some", "pairs.balance"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_when_it_is_read(tmp_path, override, said):
    captions = write(tmp_path / "captions.jsonl", range(2))
    with pytest.raises(RecipeError, match=said):
        recipe_file.load(RECIPE, [f"data.captions={captions}", override])


def test_a_hub_id_is_not_looked_up():
    assert recipe_file.load(RECIPE, ["data.captions=org/captions"]).data.captions == "org/captions"
