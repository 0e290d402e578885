"""Real H.264 clips of a folder: trained on, with the unusable ones set aside and counted."""

import json
import shutil
from pathlib import Path

import pytest

from data_synth.records import read_records
from rlkit.errors import DataError, RlkitError
from rlkit.run import run

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECIPE = """\
algorithm: dpo
model: {id: runs/base_caption/final}
data: {source: folder, folder: clips, num_frames: 4, frame_size: 56}
negatives: [order_swap, verbose]
num_negatives: 2
train: {max_steps: 2, per_device_train_batch_size: 2, logging_steps: 1}
evaluate: {num_clips: 2, max_new_tokens: 4}
"""


@pytest.fixture
def folder(chain, tmp_path, monkeypatch):
    """A working folder with the chain's base model and six captioned copies of a real clip."""
    shutil.copytree(chain / "runs/base_caption", tmp_path / "runs/base_caption")
    clips = tmp_path / "clips"
    clips.mkdir()
    captions = [
        f"A rabbit {first}. Then it {second}."
        for first, second in [("wakes up", "yawns"), ("stands up", "walks away"), ("eats an apple", "jumps over a log"),
                              ("opens its eyes", "scratches its head"), ("runs home", "closes the door"),
                              ("picks a flower", "smells it")]
    ]  # fmt: skip
    lines = []
    for number, caption in enumerate(captions):
        shutil.copy(FIXTURES / "bigbuckbunny.mp4", clips / f"{number}.mp4")
        lines.append(json.dumps({"id": f"clip-{number}", "video": f"{number}.mp4", "caption": caption}))
    (clips / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_of_real_clips_is_trained_on(folder):
    run("mine.yaml")
    results = json.loads((folder / "runs/mine/results.json").read_text())
    assert results["cost"]["quarantined"] == 0
    assert results["systems"]["dpo"]["length_words"]["n"] == 1  # one clip in five is held out
    records = read_records(folder / "runs/mine/pairs")
    assert {record["source_id"] for record in records} <= {f"clip-{n}" for n in range(6)}
    assert (folder / "runs/mine/report.html").exists()


def test_unusable_clips_are_set_aside_with_their_reason_and_the_run_goes_on(folder):
    clips = folder / "clips"
    (clips / "5.mp4").write_bytes((clips / "5.mp4").read_bytes()[:9000])
    (clips / "empty.mp4").write_bytes(b"")
    with (clips / "captions.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "e", "video": "empty.mp4", "caption": "A rabbit sleeps. Then it wakes."}\n{"broken\n')
    shutil.copy(FIXTURES / "bigbuckbunny.mp4", clips / "no_caption.mp4")
    run("mine.yaml")
    assert json.loads((folder / "runs/mine/results.json").read_text())["cost"]["quarantined"] == 4
    lines = (folder / "runs/mine/rejected_rows.jsonl").read_text(encoding="utf-8").splitlines()
    reasons = " ".join(reason for line in lines for reason in json.loads(line)["reasons"])
    assert "no line in captions.jsonl" in reasons
    assert "5.mp4" in reasons
    assert "empty.mp4" in reasons


def test_a_folder_without_a_usable_clip_says_so(folder):
    for path in (folder / "clips").glob("*.mp4"):
        path.write_bytes(b"not a video")
    with pytest.raises((DataError, RlkitError), match="no usable clip is left"):
        run("mine.yaml")
    for number in range(6):  # mended, and launched again
        shutil.copy(FIXTURES / "bigbuckbunny.mp4", folder / f"clips/{number}.mp4")
    run("mine.yaml")
    assert json.loads((folder / "runs/mine/results.json").read_text())["cost"]["quarantined"] == 0


def test_a_run_that_goes_on_keeps_the_clips_it_began_with(folder):
    run("mine.yaml")
    (folder / "runs/mine/results.json").unlink()
    (folder / "runs/mine/evaluation.jsonl").unlink()
    before = (folder / "runs/mine/clips.jsonl").read_bytes()
    shutil.copy(FIXTURES / "bigbuckbunny.mp4", folder / "clips/late.mp4")
    with (folder / "clips/captions.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "late", "video": "late.mp4", "caption": "A rabbit hops. Then it rests."}) + "\n")
    run("mine.yaml")
    assert (folder / "runs/mine/clips.jsonl").read_bytes() == before


def test_a_finished_preference_set_is_trained_on_with_the_videos_of_a_folder(folder):
    run("mine.yaml")
    pairs = "source: pairs, pairs: runs/mine/pairs, folder: clips, num_frames: 4, frame_size: 56"
    recipe = RECIPE.replace("source: folder, folder: clips, num_frames: 4, frame_size: 56", pairs)
    (folder / "again.yaml").write_text(recipe, encoding="utf-8")
    run("again.yaml")
    assert "clips" not in json.loads((folder / "runs/again/results.json").read_text())["cost"]
    for name in ("final/model.safetensors", "metrics.jsonl"):
        one, other = ((folder / f"runs/{run}/{name}") for run in ("mine", "again"))
        if name.endswith("jsonl"):
            one, other = ([without_clock(json.loads(line)) for line in path.open()] for path in (one, other))
            assert one == other
        else:
            assert one.read_bytes() == other.read_bytes()


def without_clock(line):
    return {key: value for key, value in line.items() if not key.startswith("time")}
