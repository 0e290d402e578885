"""`rlkit pick` on a captioner: the longest captions are kept by a reward of length; pairs are TRL's."""

import json
import random
from pathlib import Path

import pytest

from data_synth.records import read_records, text_of
from data_synth.video import write_mp4
from rlkit import cli

LENGTH = """\
def load(device="cpu"):
    def score(*, prompts, completions, videos, **_):
        assert all(one.shape[0] == 4 for one in videos)
        return [float(len(one)) for one in completions]
    return score
"""


@pytest.fixture
def pick(tiny_captioner, make_clip, tmp_path, monkeypatch):
    """(options) -> exit code in a directory with a captioner, two clips and length.py."""
    monkeypatch.chdir(tmp_path)
    captioner = tiny_captioner("qwen2_5_vl")
    captioner.model.save_pretrained("captioner")
    captioner.processor.save_pretrained("captioner")
    Path("length.py").write_text(LENGTH)
    for seed in (0, 1):
        Path("clips").mkdir(exist_ok=True)
        write_mp4(Path(f"clips/{seed}.mp4"), make_clip(seed=seed).frames, 4)

    def run(clips="clips", *options):
        argv = ["pick", "captioner", clips, "--make", "5", "--keep", "2", "--rewards", "./length.py", "--out", "picks"]
        return cli.dispatch([*argv, "--num-frames", "4", "--max-new-tokens", "12", "--batch-size", "3", *options])

    return run


def test_the_best_captions_are_kept_and_make_trls_pairs(pick, monkeypatch):
    """What random weights write cannot stand in a record, so the texts are replaced, seed by seed."""
    from rlkit.caption import generate

    asked = []

    def written(captioner, examples, *, num_return_sequences, seed, **_):
        asked.append(num_return_sequences)
        rng = random.Random(seed)
        return [[" ".join(rng.choices(["red", "circle", "moves", "left"], k=9)) for _ in range(num_return_sequences)]]

    monkeypatch.setattr(generate, "captions", written)
    assert pick("clips", "--pairs") == 0
    rows = [json.loads(path.read_text()) for path in Path("picks/drawn").glob("????????????.json")]
    made = {one["videos"][0]: one for one in read_records("picks/pairs")}
    assert made.keys() == {row["prompt"] for row in rows} == {"0.mp4", "1.mp4"}
    for row in rows:
        texts = [one["text"] for one in row["samples"]]
        assert row["values"] == [float(len(text)) for text in texts] and len(set(texts)) > 1
        assert [len(texts[at]) for at in row["kept"]] == sorted(map(len, texts), reverse=True)[:2]
        pair = made[row["prompt"]]
        assert text_of(pair["chosen"]) == texts[row["kept"][0]]
        assert len(text_of(pair["rejected"][0])) == min(map(len, texts))
    assert asked == [3, 2, 3, 2]  # batches
    before = Path("picks/picks.jsonl").read_text()
    next(Path("picks/drawn").glob(f"{rows[0]['id']}.json")).unlink()
    assert pick("clips", "--pairs") == 0  # made again alone, the same
    assert Path("picks/picks.jsonl").read_text() == before


def test_lines_of_a_file_name_the_clips(pick, capsys):
    Path("clips/some.jsonl").write_text('{"video": "1.mp4", "id": "b"}\n')
    assert pick("clips/some.jsonl") == 0
    assert json.loads(Path("picks/results.json").read_text())["counts"]["prompts"] == 1
    Path("clips/bad.jsonl").write_text('{"clip": "1.mp4"}\n')
    with pytest.raises(SystemExit):
        cli.main(["pick", "captioner", "clips/bad.jsonl", "--rewards", "./length.py", "--out", "other"])
    assert "bad.jsonl:1: has no `video`" in capsys.readouterr().err
