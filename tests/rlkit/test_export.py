"""Pairs go to TRL, ms-swift, LLaMA-Factory and back without losing a word, and TRL can use what it gets."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from data_synth.formats import read_rows
from data_synth.records import Rejected, make_record, read_records, text_of, write_records
from data_synth.video import read_clip, write_mp4
from rlkit.data import main
from rlkit.errors import DataError
from rlkit.export import export

FIXTURE = Path(__file__).parents[1] / "fixtures" / "bigbuckbunny.mp4"
MEANING = (
    "prompt",
    "videos",
    "images",
    "chosen",
    "rejected",
    "rejected_kind",
    "rejected_weight",
    "source_id",
    "licence",
)


def video_record(i: int = 0, **columns) -> dict:
    return make_record(
        "Describe the clip.",
        f"A rabbit stands up {i} times. 然后它跑了。",
        [("order_swap", f"它跑了。A rabbit {i}."), ("verbose", f"A rabbit stands up {i} times. It is nice.")],
        videos=[f"clips/{i}.mp4"],
        source_id=f"s{i}",
        licence="CC0-1.0",
        **columns,
    )


def image_record(path: str = "a.png", i: int = 0) -> dict:
    return make_record("What is it?", f"A red square {i}.", [("attribute_swap", f"A blue square {i}.")], images=[path])


def pairs(folder: Path, *records: dict) -> Path:
    written = write_records(records, folder / "pairs")
    assert written.quarantined == 0
    return folder / "pairs"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load_trl(folder: Path, tmp_path: Path) -> datasets.Dataset:
    files = str(folder / "*.parquet")
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("to", ["trl", "ms-swift", "llamafactory", "jsonl"])
def test_round_trip(tmp_path, to):
    given = [video_record(0), video_record(1), video_record(2)]
    rows, left_out = export(pairs(tmp_path, *given), to, tmp_path / "out")
    assert (rows, left_out) == (3 if to == "jsonl" else 6, 0)
    back = list(read_rows(tmp_path / "out"))
    assert len(back) == 3
    for found, wanted in zip(back, given, strict=True):
        assert {name: found[name] for name in MEANING if name in wanted} == {
            name: wanted[name] for name in MEANING if name in wanted
        }
    written = write_records(back, tmp_path / "again")
    assert (written.kept, written.quarantined) == (3, 0)
    assert read_records(tmp_path / "again")["pair_id"][:] == [record["pair_id"] for record in given]


def test_swift_rows(tmp_path):
    export(pairs(tmp_path, video_record(0)), "ms-swift", tmp_path / "out", media_root="/data")
    first = lines(tmp_path / "out" / "pairs.jsonl")[0]
    # Custom-dataset.md of ms-swift: messages end in the chosen answer, media are tags in the text
    assert first["messages"] == [
        {"role": "user", "content": "<video>Describe the clip."},
        {"role": "assistant", "content": "A rabbit stands up 0 times. 然后它跑了。"},
    ]
    assert first["rejected_response"] == "它跑了。A rabbit 0."
    assert first["videos"] == ["/data/clips/0.mp4"]


def test_llamafactory_rows_and_dataset_info(tmp_path):
    export(pairs(tmp_path, video_record(0)), "llamafactory", tmp_path / "out")
    first = lines(tmp_path / "out" / "pairs.jsonl")[0]
    about = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["rlkit_pairs"]
    assert (about["ranking"], about["formatting"], about["file_name"]) == (True, "sharegpt", "pairs.jsonl")
    assert first[about["columns"]["messages"]] == [{"role": "user", "content": "<video>Describe the clip."}]
    assert first[about["columns"]["chosen"]]["content"] == "A rabbit stands up 0 times. 然后它跑了。"
    assert first[about["columns"]["rejected"]][about["tags"]["content_tag"]] == "它跑了。A rabbit 0."
    assert set(about["columns"].values()) <= set(first)  # a column that is named must be there


def test_trl_columns_of_a_picture_row(tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    export(pairs(tmp_path, image_record()), "trl", tmp_path / "out", media_root=tmp_path)
    row = load_trl(tmp_path / "out", tmp_path)[0]
    assert row["images"][0].size == (8, 6)
    assert "videos" not in row
    assert [m["role"] for m in row["rejected"]] == ["assistant"]
    assert row["prompt"][0]["content"] == [{"type": "image"}, {"type": "text", "text": "What is it?"}]


def test_text_pairs_have_no_images_column(tmp_path):
    # TRL takes the presence of `images` for a vision data set
    record = make_record("What is it?", "A square.", [("x", "A circle.")])
    export(pairs(tmp_path, record), "trl", tmp_path / "out")
    assert not {"images", "videos"} & set(load_trl(tmp_path / "out", tmp_path).column_names)


def test_trl_frames_of_a_video(tmp_path):
    record = make_record("Describe.", "A rabbit.", [("x", "A fox.")], videos=[FIXTURE.name], start=1.0, end=3.0)
    export(pairs(tmp_path, record), "trl", tmp_path / "out", media_root=FIXTURE.parent, frames=3)
    row = load_trl(tmp_path / "out", tmp_path)[0]
    assert [image.size for image in row["images"]] == [(160, 90)] * 3
    assert [part["type"] for part in row["prompt"][0]["content"]] == ["image"] * 3 + ["text"]


def test_trl_collator_takes_the_rows(tmp_path, tiny_model):
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    for i in range(2):
        Image.new("RGB", (56, 56), (100 * i, 0, 0)).save(tmp_path / f"{i}.png")
    records = [image_record(f"{i}.png", i) for i in range(2)]
    export(pairs(tmp_path, *records), "trl", tmp_path / "out", media_root=tmp_path)
    _, processor = tiny_model("qwen2_5_vl")
    rows = load_trl(tmp_path / "out", tmp_path).select_columns(["prompt", "chosen", "rejected", "images"])
    batch = DataCollatorForVisionPreference(processor)([rows[0], rows[1]])
    assert batch["input_ids"].shape[0] == 4  # two chosen, then two rejected
    assert len(batch["image_grid_thw"]) == 4
    answer = processor.tokenizer.decode(batch["input_ids"][3][batch["completion_mask"][3].bool()])
    assert "A blue square 1." in answer


def test_what_a_format_cannot_say_is_left_out_with_the_reason(tmp_path):
    piece = make_record("Describe.", "A rabbit.", [("x", "A fox.")], videos=["a.mp4"], start=1.0, end=2.0)
    tag = make_record("Describe.", "A tag <video> here.", [("x", "A fox.")], videos=["a.mp4"])
    folder = pairs(tmp_path, piece, video_record(1), tag)
    assert export(folder, "ms-swift", tmp_path / "out") == (2, 2)
    reasons = [line["reason"] for line in lines(tmp_path / "out" / "left_out.jsonl")]
    assert "only 1.0-2.0 s of a.mp4" in reasons[0]
    assert "<video>" in reasons[1]


@pytest.mark.parametrize("to", ["ms-swift", "llamafactory"])
def test_pieces_are_cut_on_request(tmp_path, to):
    rejected = [("x", "A fox."), ("y", "A cat.")]
    record = make_record("Describe.", "A rabbit.", rejected, videos=[FIXTURE.name], start=1.0, end=2.0)
    folder = pairs(tmp_path, record)
    assert export(folder, to, tmp_path / "out", media_root=FIXTURE.parent, cut=True) == (2, 0)
    (path,) = lines(tmp_path / "out" / "pairs.jsonl")[0]["videos"]
    clip, piece = read_clip(path), read_clip(FIXTURE, start=1.0, end=2.0)
    assert len(list((tmp_path / "out" / "videos").iterdir())) == 1
    assert np.allclose(clip.timestamps, piece.timestamps - 1.0)
    assert np.abs(clip.frames.astype(int) - piece.frames).mean() < 4
    (back,) = read_rows(tmp_path / "out")
    assert back["videos"] == [path]


def test_a_missing_picture_is_left_out(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    folder = pairs(tmp_path, image_record("a.png"), image_record("gone.png"))
    assert export(folder, "trl", tmp_path / "out", media_root=tmp_path) == (1, 1)


def test_a_clip_that_does_not_decode_is_left_out(tmp_path):
    write_mp4(tmp_path / "a.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=2)
    (tmp_path / "b.mp4").write_text("no video")
    records = [make_record("Describe.", "Black.", [("x", "White.")], videos=[f"{name}.mp4"]) for name in "ab"]
    assert export(pairs(tmp_path, *records), "trl", tmp_path / "out", media_root=tmp_path, frames=2) == (1, 1)


def test_nothing_is_overwritten(tmp_path):
    folder = pairs(tmp_path, video_record(0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        export(folder, "jsonl", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_command_line(tmp_path, capsys):
    folder = pairs(tmp_path, video_record(0))
    assert main(["export", str(folder), "--to", "ms-swift", "--out", str(tmp_path / "out")]) == 0
    assert "2 rows, 0 left out" in capsys.readouterr().out
    assert main(["import", str(tmp_path / "out" / "pairs.jsonl"), "--out", str(tmp_path / "back")]) == 0
    assert "1 pairs, 0 rows" in capsys.readouterr().out
    assert (tmp_path / "back" / "README.md").exists()
    assert main(["card", str(folder)]) == 0
    assert "1 preference pairs with 2 rejected answers" in (folder / "README.md").read_text()
    with pytest.raises(SystemExit) as stop:
        main(["export", str(folder), "--to", "axolotl", "--out", str(tmp_path / "x")])
    assert stop.value.code == 2


def test_embedded_pictures_are_saved_on_import(tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    export(pairs(tmp_path, image_record()), "trl", tmp_path / "out", media_root=tmp_path)
    (record,) = read_rows(tmp_path / "out", media_folder=tmp_path / "media")
    assert Image.open(record["images"][0]).size == (8, 6)
    (rejected,) = read_rows(tmp_path / "out")
    assert isinstance(rejected, Rejected) and "embedded" in rejected.reasons[0]
    assert text_of(record["chosen"]) == "A red square 0."
