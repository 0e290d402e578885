"""Rows of other tools, as their documentation shows them, become records; rows that fit none are named."""

import json

import datasets
import PIL.Image
import pytest

from data_synth.check import check
from data_synth.errors import DataError
from data_synth.formats import read_rows, which_format
from data_synth.records import Rejected, text_of, write_records

CHOSEN, REJECTED = "A dog barks. Then it runs.", "A dog runs. Then it barks."

SWIFT = {
    "messages": [
        {"role": "user", "content": "<video>Describe the clip."},
        {"role": "assistant", "content": CHOSEN},
    ],
    "rejected_response": REJECTED,
    "videos": ["a.mp4"],
}
SWIFT_MESSAGES = {
    "messages": SWIFT["messages"],
    "rejected_messages": [SWIFT["messages"][0], {"role": "assistant", "content": REJECTED}],
    "videos": ["a.mp4"],
    "rejected_videos": ["a.mp4"],
}
LLAMAFACTORY = {
    "conversations": [{"from": "human", "value": "<video>Describe the clip."}],
    "chosen": {"from": "gpt", "value": CHOSEN},
    "rejected": {"from": "gpt", "value": REJECTED},
    "videos": ["a.mp4"],
}
LLAMAFACTORY_ROLES = {
    "messages": [{"role": "user", "content": "<video>Describe the clip."}],
    "chosen": {"role": "assistant", "content": CHOSEN},
    "rejected": {"role": "assistant", "content": REJECTED},
    "videos": ["a.mp4"],
}
TWO_U1 = {"video": "a.mp4", "prompt": "<video>\nDescribe the clip.", "chosen": CHOSEN, "rejected": REJECTED}
TRL = {
    "prompt": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Describe the clip."}]}],
    "chosen": [{"role": "assistant", "content": [{"type": "text", "text": CHOSEN}]}],
    "rejected": [{"role": "assistant", "content": [{"type": "text", "text": REJECTED}]}],
    "videos": ["a.mp4"],
}
TRL_STRINGS = {
    "prompt": [{"role": "user", "content": "Describe the clip."}],
    "chosen": [{"role": "assistant", "content": CHOSEN}],
    "rejected": [{"role": "assistant", "content": REJECTED}],
    "videos": ["a.mp4"],
}
TRL_IMPLICIT = {
    "chosen": [*TRL_STRINGS["prompt"], *TRL_STRINGS["chosen"]],
    "rejected": [*TRL_STRINGS["prompt"], *TRL_STRINGS["rejected"]],
    "videos": ["a.mp4"],
}
ALL = {
    "ms-swift": SWIFT,
    "ms-swift messages": SWIFT_MESSAGES,
    "llamafactory": LLAMAFACTORY,
    "llamafactory roles": LLAMAFACTORY_ROLES,
    "2u1": TWO_U1,
    "trl": TRL,
    "trl strings": TRL_STRINGS,
    "trl implicit prompt": TRL_IMPLICIT,
}


def read(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_rows(path))


@pytest.mark.parametrize("name", ALL)
def test_the_same_pair_in_every_spelling(tmp_path, name):
    assert which_format(ALL[name]) == name.split()[0]
    (record,) = read(tmp_path, ALL[name])
    assert check(record) == []
    assert record["prompt"] == TRL["prompt"]
    assert record["videos"] == ["a.mp4"]
    assert text_of(record["chosen"]) == CHOSEN
    assert [text_of(messages) for messages in record["rejected"]] == [REJECTED]
    assert record["operator"] == f"import_{name.split()[0]}"


def test_pictures_and_text_around_tags(tmp_path):
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Compare <image> with <image>."},
            {"role": "assistant", "content": CHOSEN},
        ],
        "images": ["a.png", "b.png"],
        "rejected_response": REJECTED,
    }
    (record,) = read(tmp_path, row)
    assert record["prompt"][0]["role"] == "system"
    assert [part["type"] for part in record["prompt"][1]["content"]] == ["text", "image", "text", "image", "text"]
    assert check(record) == []


def test_pairs_of_one_prompt_become_one_record(tmp_path):
    other = {**SWIFT, "rejected_response": "A cat."}
    later = {**SWIFT, "videos": ["b.mp4"]}
    records = read(tmp_path, SWIFT, other, later)
    assert [len(record["rejected"]) for record in records] == [2, 1]


def test_own_fields_are_kept(tmp_path):
    (record,) = read(tmp_path, {**SWIFT, "id": 7, "chat_template_kwargs": {"fps": 2}, "licence": "MIT"})
    assert (record["source_id"], record["licence"]) == ("7", "MIT")
    assert record["options"] == {"fields": {"chat_template_kwargs": {"fps": 2}}}


BAD = {
    "fits no format": ({"text": "A dog."}, "row: found text"),
    "no keys": ({}, "row: found no keys"),
    "no answer in messages": ({**SWIFT, "messages": SWIFT["messages"][:1]}, "messages: expected a question and, last"),
    "messages is text": ({**SWIFT, "messages": 3}, "messages: found int"),
    "a message is text": ({**SWIFT, "messages": ["hello"]}, "messages[0]: found str"),
    "unknown role": ({**LLAMAFACTORY, "chosen": {"from": "bot", "value": "A"}}, "chosen[0].role: found 'bot'"),
    "no content": ({**LLAMAFACTORY, "chosen": {"from": "gpt"}}, "chosen[0].content: found NoneType"),
    "frames for a video": ({**SWIFT, "videos": [["1.png", "2.png"]]}, "videos[0]: a video given as a list of frames"),
    "media of its own": ({**SWIFT_MESSAGES, "rejected_videos": ["b.mp4"]}, "rejected_videos: the rejected answer has"),
    "another prompt": (
        {**SWIFT_MESSAGES, "rejected_messages": [{"role": "user", "content": "Why?"}, SWIFT["messages"][1]]},
        "rejected_messages: the prompt differs",
    ),
    "no ranking": ({"conversations": LLAMAFACTORY["conversations"]}, "conversations: no chosen and rejected"),
    "path is a number": ({**TWO_U1, "video": 3}, "video[0]: found int"),
    "image without content": ({**TRL, "images": [{}]}, "images[0]: found dict"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_and_the_rest_goes_on(tmp_path, name):
    row, reason = BAD[name]
    found = read(tmp_path, TWO_U1, row, {**TWO_U1, "video": "b.mp4"})
    assert [isinstance(item, Rejected) for item in found] in ([False, True, False], [True, False, False])
    (bad,) = [item for item in found if isinstance(item, Rejected)]
    assert bad.reasons[0].startswith(reason)
    assert bad.where.endswith("rows.jsonl:2")


def test_problems_of_content_name_the_line(tmp_path):
    wrong = [{**TWO_U1, "chosen": ""}, {**TWO_U1, "rejected": CHOSEN}, {**TWO_U1, "video": "../a.mp4"}]
    bad = [item for item in read(tmp_path, TWO_U1, *wrong) if isinstance(item, Rejected)]
    assert [item.where.rsplit(":", 1)[1] for item in bad] == ["2", "3", "4"]
    assert [item.fields() for item in bad] == [{"chosen"}, {"rejected"}, {"videos"}]
    assert bad[0].row == wrong[0]


def test_a_repeated_pair_does_not_spoil_the_others(tmp_path):
    found = read(tmp_path, TWO_U1, {**TWO_U1, "rejected": "A cat."}, TWO_U1)
    (record,) = [item for item in found if not isinstance(item, Rejected)]
    (bad,) = [item for item in found if isinstance(item, Rejected)]
    assert len(record["rejected"]) == 2
    assert "repeats an earlier one" in bad.reasons[0] and bad.where.endswith(":3")


def test_llamafactory_without_a_tag_is_found(tmp_path):
    row = {**LLAMAFACTORY, "conversations": [{"from": "human", "value": "Describe the clip."}]}
    assert write_records(iter(read(tmp_path, row)), tmp_path / "pairs").reasons == {"videos": 1}


@pytest.mark.parametrize("suffix", ["json", "parquet", "saved"])
def test_other_files(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    rows = [TRL_STRINGS, {**TRL_STRINGS, "videos": ["b.mp4"]}]
    if suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        dataset = datasets.Dataset.from_list(rows)
        dataset.to_parquet(str(path)) if suffix == "parquet" else dataset.save_to_disk(str(path))
    records = list(read_rows(path))
    assert [text_of(record["chosen"]) for record in records] == [CHOSEN, CHOSEN]
    assert [record["videos"] for record in records] == [["a.mp4"], ["b.mp4"]]


def test_saved_data_set_with_pictures(tmp_path):
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            "prompt": datasets.List(datasets.Json()),
            "chosen": datasets.List(datasets.Json()),
            "rejected": datasets.List(datasets.Json()),
        }
    )
    row = {name: TRL_STRINGS[name] for name in ("prompt", "chosen", "rejected")}
    rows = [{**row, "images": [PIL.Image.new("RGB", (6, 4), "red")]}]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    (record,) = read_rows(tmp_path / "saved", media_folder=tmp_path / "media")
    assert PIL.Image.open(record["images"][0]).size == (6, 4)
    assert check(record, root=tmp_path / "media") == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.csv", b"a,b", "expected a .jsonl"),
        ("rows.json", b'{"a": 1}', "expected a list of rows"),
        ("rows.json", b"[", "not JSON"),
        ("rows.parquet", b"PAR1", "not a parquet file"),
        ("missing.jsonl", None, "no such file"),
        ("missing.json", None, "no such file"),
        ("missing.parquet", None, "not a parquet file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        list(read_rows(tmp_path / name))
