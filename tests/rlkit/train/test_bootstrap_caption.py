"""Self-bootstrapping captions end to end on a tiny captioner: results, ledger, cuts, LoRA, folders, gate, refusals."""

import collections
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from rlkit.caption import own_samples, trainer
from rlkit.caption.bootstrap.start import Jury
from rlkit.caption.pairs import readable
from rlkit.errors import DataError, GateError, RecipeError
from rlkit.plugins import ROOT
from rlkit.recipe.file import load
from rlkit.run import run

RECIPE = """\
algorithm: bootstrap_caption
model: {{id: {model}, vision: frozen}}
data: {{num_clips: 9, num_labelled: 3, num_frames: 4, frame_size: 56}}
rewards: [./own.py, {{./last.py: {{weight: 0.5}}}}]
sampling: {{num_samples: 3, max_completion_length: 4, gate: off, gate_clips: 3}}
bootstrap_caption: {{rounds: 2, keep_share: 0.5, patience: 9, max_diversity_drop: 1.0, near_duplicate: 0.9}}
train: {{learning_rate: 1.0e-3, per_device_train_batch_size: 4, max_steps: 2, logging_steps: 1, save_steps: 1}}
evaluate: {{num_clips: 2, max_new_tokens: 4, probe_clips: 1, controls: [blind], control_clips: 1}}
"""
# The number of letters. Counts its calls, and ends the process at call `stop_at`.
OWN = """\
import os, signal
from pathlib import Path
def load(device="cpu"):
    def score(*, prompts, completions, **_):
        calls = Path("calls")
        with calls.open("a") as file:
            file.write("called\\n")
        stop = Path("stop_at")
        if stop.is_file() and len(calls.read_text().splitlines()) == int(stop.read_text()):
            stop.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return [float(len(one)) for one in completions]
    return score
"""
# The last letter's place; no score for captions of an odd number of letters.
LAST = """\
def load(device="cpu"):
    return lambda *, prompts, completions, **_: [None if len(one) % 2 else float(ord(one[-1])) for one in completions]
"""
CHUNK = 4  # clips a file, so that six make two


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_model):
    """The folder of a tiny captioner with fresh weights."""
    folder = tmp_path_factory.mktemp("start")
    for part in tiny_model("qwen2_5_vl"):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory, start):
    """A working directory with a recipe and its rewards; clips are rendered there once."""
    place = tmp_path_factory.mktemp("captions")
    (place / "own.py").write_text(OWN)
    (place / "last.py").write_text(LAST)
    (place / "tiny.yaml").write_text(RECIPE.format(model=start))
    return place


@pytest.fixture(scope="module")
def finished(place):
    """The folder of an uninterrupted run."""
    before = Path.cwd()
    os.chdir(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_samples, "CHUNK", CHUNK)
        try:
            return run("tiny.yaml", ["out=whole"])[-1]
        finally:
            os.chdir(before)


@pytest.fixture
def here(place, monkeypatch):
    """In that directory, with files of few clips."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(own_samples, "CHUNK", CHUNK)
    return place


def ledger(folder):
    return pq.read_table(folder / "ledger.parquet").to_pylist()


def test_results_hold_the_systems_and_what_they_were_in_every_round(finished):
    folder = finished
    results = folder.results()
    assert list(results["systems"]) == ["few", "naive", "ours"] and results["complete"]
    assert results["headline"] == ["few", "ours"]
    for system in results["systems"].values():
        assert {"order_exact", "event_f1", "length_words", "skill_probe", "blind_order_exact"} <= set(system)
    for name in ("naive", "ours"):
        told = results["rounds"][name]["0"]
        assert [one["round"] for one in told] == [1, 2]
        assert told[0]["guard_held_out"] == results["rounds"]["ours"]["0"][0]["guard_held_out"]  # a shared first round
    assert results["kept_round"]["naive"] == [2]
    seen = [one["guard_held_out"] for one in results["rounds"]["ours"]["0"]]
    assert results["kept_round"]["ours"] == [2 if seen[1] > seen[0] else 1]
    assert "ours-seed0" in (folder.path / "report.html").read_text()


def test_the_ledger_says_of_every_caption_where_it_came_from_and_why_it_was_kept(finished):
    folder = finished
    rows = ledger(folder.path)
    assert len(rows) == 2 * 2 * 6 * 3 == len({row["sample_id"] for row in rows})
    weights = {(row["system"], row["round"]): row["weights"] for row in rows}
    assert len(set(weights.values())) == 3 and weights["ours", 1] == weights["naive", 1]
    labelled = {f"train-{at:07d}" for at in range(3)}
    assert {row["nearest_original"] for row in rows} <= labelled and not {row["clip"] for row in rows} & labelled
    for row in rows:
        heard = readable(row["text"])  # a model of random weights says what no judge is asked about
        assert row["reward_names"] == ["own", "last"] and row["scores"][0] == (len(row["text"]) if heard else None)
        assert row["number"] // 3 == int(row["clip"].removeprefix("train-")) - 3  # samples of a clip, clips in order
        assert row["kept"] == (row["reason"] == "kept")
        assert (row["reward"] is None) == (not heard or len(row["text"]) % 2 == 1)  # one judge had no score
        if row["reward"] is None:
            assert not row["accepted"] and not row["kept"]
    drawn = {name: [(row["clip"], row["seed"]) for row in rows if row["system"] == name] for name in ("ours", "naive")}
    assert drawn["ours"] == drawn["naive"]  # the same clips and seeds
    assert {row["seed"] for row in rows if row["round"] == 1} & {
        row["seed"] for row in rows if row["round"] == 2
    } == set()
    ours = [row for row in rows if row["system"] == "ours" and row["kept"]]
    assert ours and max(collections.Counter((row["round"], row["clip"]) for row in ours).values()) == 1
    naive = [row for row in rows if row["system"] == "naive" and row["round"] == 1]
    scored = sorted((row for row in naive if row["reward"] is not None), key=lambda row: -row["reward"])
    assert sum(row["kept"] for row in naive) == min(len(scored), 3)  # half of the clips
    assert {row["sample_id"] for row in naive if row["kept"]} == {row["sample_id"] for row in scored[:3]}


def test_the_saved_captioner_is_that_of_the_kept_round_and_loads_in_transformers(finished):
    from transformers import AutoModelForImageTextToText

    folder = finished
    number = folder.results()["kept_round"]["ours"][0]
    part = folder.path / ("few-seed0/round-1" if number == 1 else f"ours-seed0/round-{number}")
    ours, saved = (load_file(one / "final/model.safetensors") for one in (part, folder.path))
    assert all((ours[key] == saved[key]).all() for key in ours)
    AutoModelForImageTextToText.from_pretrained(folder.final)


def same(folder, whole, weights="final/model.safetensors"):
    for name in (weights, "ledger.parquet", "evaluation.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    results = [json.loads((one / "results.json").read_text()) for one in (folder, whole)]
    for key in ("systems", "rounds", "differences", "kept_round", "stopped"):
        assert results[0][key] == results[1][key]


def test_cut_off_in_every_round_it_ends_with_the_same_bytes_and_redoes_nothing_finished(finished, here, monkeypatch):
    """In the second step of round 1, which the first left a checkpoint of; in judging naive's first file; in the second
    step of ours' second round."""
    done = {"steps": 0, "judged": 0}
    monkeypatch.setattr(trainer, "nll", counted(trainer.nll, done, "steps"))
    monkeypatch.setattr(Jury, "__call__", counted(Jury.__call__, done, "judged"))
    drawn = {}
    for target, name, call in ((trainer, "nll", 2), (Jury, "__call__", 3), (trainer, "nll", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, cut_at(vars(target)[name], call))
            with pytest.raises(RuntimeError, match="power cut"):
                run("tiny.yaml", ["out=cut"])
        now = {path: path.stat().st_mtime_ns for path in Path("cut").rglob("drawn/*.jsonl")}
        assert drawn == {path: now[path] for path in drawn}  # not drawn again
        drawn = now
    assert any("naive" in str(path) for path in drawn)
    folder = run("tiny.yaml", ["out=cut"])[-1]
    same(folder.path, finished.path)
    assert done == {"steps": 3 * 2, "judged": 3 * 2}


def counted(function, done, name):
    """Counts the calls that return."""

    def call(*given):
        found = function(*given)
        done[name] += 1
        return found

    return call


def cut_at(function, number):
    """Fails at its `number`-th call."""
    calls = iter(range(1, 1000))

    def call(*given):
        if next(calls) == number:
            raise RuntimeError("power cut")
        return function(*given)

    return call


@pytest.mark.slow
def test_kill_9_ends_with_the_same_bytes(place, monkeypatch):
    """While the second round of ours is judged; files hold all clips, so that each process draws in one piece."""
    monkeypatch.chdir(place)
    Path("calls").unlink(missing_ok=True)
    whole = run("tiny.yaml", ["out=undisturbed"])[-1]
    total = len(Path("calls").read_text().splitlines())
    Path("calls").unlink()
    Path("stop_at").write_text(str(total - 2))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "rlkit", "tiny.yaml", "out=killed"], env=env, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    same(run("tiny.yaml", ["out=killed"])[-1].path, whole.path)


def test_an_adapter_goes_on_from_the_round_before_seeds_are_pooled_and_what_was_known_is_asked(here):
    more = [
        "model.lora={r: 4}",
        "bootstrap_caption.naive=false",
        "bootstrap_caption.seeds=[0, 1]",
        "train.max_steps=1",
        "retain={replay_weight: 0.5}",
    ]
    folder = run("tiny.yaml", ["out=lora", *more, "train.warmup_steps=0", "evaluate.controls=[]"])[-1]
    results = folder.results()
    assert list(results["systems"]) == ["few", "ours"] and list(results["rounds"]["ours"]) == ["0", "1"]
    assert results["systems"]["few"]["length_words"]["n"] == 2 * 2
    assert list(results["retained"]) == ["few", "ours"]
    kept = "few-seed0/round-1" if results["kept_round"]["ours"][0] == 1 else "ours-seed0/round-2"
    asked = [(folder.path / part / "retained_before.jsonl").read_text() for part in ("few-seed0/round-1", kept)]
    assert asked[0] == asked[1] != ""
    weights = [
        load_file(folder.path / f"{part}/final/adapter_model.safetensors")
        for part in ("few-seed0/round-1", "ours-seed0/round-2")
    ]
    up = [name for name in weights[0] if "lora_A" in name]
    moved = [(weights[1][name] - weights[0][name]).norm() / weights[0][name].norm() for name in up]
    assert 0 < max(moved) < 0.5  # the same adapter a step later, not a fresh one


def test_a_folder_whose_first_lines_are_corrected(here, tmp_path):
    """Every fifth clip is held out; of these every other one watches the loop."""
    clips = tmp_path / "clips"
    clips.mkdir()
    sources = sorted(Path("runs/world").rglob("*.mp4"))[:12]
    lines = []
    for at, source in enumerate(sources):
        shutil.copy(source, clips / f"{at}.mp4")
        lines.append(
            json.dumps({"id": f"clip-{at}", "video": f"{at}.mp4", "caption": f"A cat number {at} sits. Then it runs."})
        )
    (clips / "captions.jsonl").write_text("\n".join(lines))
    changes = [
        "data.source=folder",
        "data.num_clips=12",
        "evaluate.num_clips=3",
        f"data.folder={clips}",
        "bootstrap_caption.rounds=1",
        "bootstrap_caption.naive=false",
    ]
    folder = run("tiny.yaml", ["out=folder", *changes])[-1]
    rows = ledger(folder.path)
    assert {row["clip"] for row in rows} == {f"clip-{at}" for at in (3, 5, 6, 7, 8, 10, 11)}  # 4 and 9 are held out
    assert all(row["truth"] is None for row in rows)
    measured = [json.loads(line)["id"] for line in (folder.path / "evaluation.jsonl").read_text().splitlines()]
    assert measured == ["clip-9"]
    with pytest.raises(DataError, match="too few held-out clips"):
        run("tiny.yaml", ["out=folder_small", *changes, "data.num_clips=9", "data.num_labelled=2"])


def test_a_judge_that_is_no_better_than_the_policy_stops_the_run_every_time(here):
    for _ in range(2):
        with pytest.raises(GateError, match="judge gate closed"):
            run("tiny.yaml", ["out=gated", "sampling.gate=stop", "train.max_steps=1"])
    assert not json.loads(Path("gated/few-seed0/round-1/gate.json").read_text())["open"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.num_labelled=null", "a corrected caption"),
        ("data.num_labelled=9", "a corrected caption"),
        ("model.id=null", "starts from a captioner"),
        ("sampling.judge=world", "one of the two"),
        ("rewards=[]", "one of the two"),
        ("sampling.num_samples=0", "drawn to choose from"),
        ("train.max_steps=-1", "optimiser steps"),
        ("evaluate.num_clips=0", "nothing to measure"),
        ("bootstrap_caption.seeds=[1, 1]", "twice"),
        ("data.source=gallery", "world or folder"),
        ("retain={adapter_scales: [0.5]}", "scale what the one before"),
        ("variants={other: {seed: 1}}", "systems of its own"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run(here, override, said):
    with pytest.raises(RecipeError, match=said):
        load(here / "tiny.yaml", [override])
