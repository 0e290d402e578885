"""Every kind of input gives the same typed rows."""

import json

import pytest
from datasets import Dataset, DatasetDict

from data_synth.sources import read_captions
from data_synth.video import write_mp4

CAPTION = "A dog barks. Then it runs."
ASKED = "What happens?"
USER = {"role": "user", "content": ASKED}
ANSWER = {"role": "assistant", "content": CAPTION}
WRONG = {"role": "assistant", "content": "A dog runs. Then it barks."}
PAIRS = {
    "trl": {"prompt": [USER], "chosen": [ANSWER], "rejected": [WRONG], "videos": ["a.mp4"]},
    "ms-swift": {"messages": [USER, ANSWER], "rejected_response": WRONG["content"], "videos": ["a.mp4"]},
    "llamafactory": {
        "conversations": [{"from": "human", "value": f"<video>{ASKED}"}],
        "chosen": {"from": "gpt", "value": CAPTION},
        "rejected": {"from": "gpt", "value": WRONG["content"]},
        "videos": ["a.mp4"],
    },
    "2u1": {"video": "a.mp4", "prompt": f"<video>\n{ASKED}", "chosen": CAPTION, "rejected": WRONG["content"]},
}
TUNING = {
    "trl": {"prompt": [USER], "completion": [ANSWER], "videos": ["a.mp4"]},
    "ms-swift": {"messages": [USER, ANSWER], "videos": ["a.mp4"]},
    "llamafactory": {"instruction": f"<video>{ASKED}", "input": "", "output": CAPTION, "videos": ["a.mp4"]},
    "2u1": {
        "id": "clip",
        "video": "a.mp4",
        "conversations": [{"from": "human", "value": f"<video>\n{ASKED}"}, {"from": "gpt", "value": CAPTION}],
    },
}


def lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def question(row) -> str:
    return "".join(part.get("text", "") for part in row.prompt[-1]["content"])


@pytest.mark.parametrize("tool", PAIRS)
def test_a_pair_gives_its_chosen_answer_and_brings_its_rejected_one(tool, tmp_path):
    (row,) = read_captions(lines(tmp_path / "rows.jsonl", [PAIRS[tool]]))
    assert (row.caption, row.videos, question(row)) == (CAPTION, ["a.mp4"], ASKED)
    assert row.imported == [["imported", WRONG["content"], 1.0]]
    assert [part["type"] for part in row.prompt[-1]["content"]] == ["video", "text"]


@pytest.mark.parametrize("tool", TUNING)
def test_a_row_to_fine_tune_on_gives_its_last_answer(tool, tmp_path):
    (row,) = read_captions(lines(tmp_path / "rows.jsonl", [TUNING[tool]]))
    assert (row.caption, row.videos, question(row), row.imported) == (CAPTION, ["a.mp4"], ASKED, [])
    assert [part["type"] for part in row.prompt[-1]["content"]] == ["video", "text"]


ROWS = [{"id": str(k), "caption": f"Dog {k} barks. Then it runs.", "licence": "CC0-1.0"} for k in range(5)]


def test_files_folders_and_data_sets_give_the_same_rows(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    DatasetDict({"test": Dataset.from_list(ROWS[:1]), "train": Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "dict")
    (tmp_path / "hub" / "data").mkdir(parents=True)  # laid out as a repository of the hub
    Dataset.from_list(ROWS).to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "folder").mkdir()
    Dataset.from_list(ROWS[:2]).to_parquet(tmp_path / "folder" / "a.parquet")
    lines(tmp_path / "folder" / "b.jsonl", ROWS[2:])
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    for source in (
        lines(tmp_path / "rows.jsonl", ROWS),
        *(tmp_path / n for n in ("rows.json", "saved", "dict", "hub", "folder")),
    ):
        found = list(read_captions(source))
        assert [(row.id, row.caption, row.licence) for row in found] == [tuple(row.values()) for row in ROWS], source


def test_a_folder_of_clips_names_files_that_are_missing_or_have_no_caption(tmp_path):
    import numpy as np

    for name in ("a", "b"):
        write_mp4(tmp_path / f"{name}.mp4", np.zeros((4, 16, 16, 3), np.uint8), 4)
    lines(
        tmp_path / "captions.jsonl", [{"video": "a.mp4", "caption": CAPTION}, {"video": "gone.mp4", "caption": CAPTION}]
    )
    good, missing, bare = read_captions(tmp_path)
    assert (good.videos, good.caption) == (["a.mp4"], CAPTION)
    assert missing.fields() == {"video"} and missing.where.endswith("captions.jsonl:2")
    assert bare.row == {"file": "b.mp4"}
    again = list(read_captions(tmp_path / "captions.jsonl", tmp_path))
    assert [type(one) for one in again] == [type(good), type(missing), type(bare)]


def test_a_hub_id_that_cannot_be_had_is_one_clear_error(monkeypatch, tmp_path):
    from data_synth.errors import DataError

    with pytest.raises(DataError, match=r"nobody/nothing-here: not readable as a data set"):
        list(read_captions("nobody/nothing-here"))


def test_ids_are_made_from_content_where_there_are_none(tmp_path):
    rows = [{"video": "a.mp4", "caption": CAPTION}, {"video": "a.mp4", "caption": CAPTION + " It stops."}]
    first, second = read_captions(lines(tmp_path / "rows.jsonl", rows))
    assert first.id != second.id and first.id.startswith("a.mp4#") and first.clip == second.clip == "a.mp4"
    (moved,) = read_captions(lines(tmp_path / "moved.jsonl", rows[:1]))
    assert moved.id == first.id  # wherever the row stands
