"""Lineage: a removed source takes its descendants and nothing else; a split depends on its group alone."""

import json
from pathlib import Path

import pytest

from data_synth import lineage
from data_synth.errors import DataError
from data_synth.lineage import remove_sources, shingles, split_of
from data_synth.records import Rejected, make_record, read_records, text_of, write_records, write_shard


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("pairs-*.parquet"))}


def write(folder: Path, *bad: Rejected) -> None:
    texts = {f"s{i}": f"A dog barks {i} times." for i in range(6)}
    rows = [make_record("Describe.", text, [("x", f"Not {text}")], source_id=name) for name, text in texts.items()]
    write_records([*rows, *bad], folder, rows_per_shard=5)


def test_a_removed_source_takes_exactly_its_descendants(tmp_path):
    def pair(text, **lineage):
        return make_record("Describe.", text, [("x", f"Not {text}")], **lineage)

    first = pair("A dog.", source_id="a")
    refined = pair("A brown dog.", source_id="b", parent_id=first["pair_id"])
    again = pair("A big brown dog.", source_id=refined["pair_id"])
    others = [pair(f"Cat {i}.", source_id="c", parent_id="p") for i in range(4)]
    write_records([others[0], again, first, others[1], refined, *others[2:]], tmp_path)
    assert remove_sources(tmp_path, ["a"]) == 3
    assert [text_of(row["chosen"]) for row in read_records(tmp_path)] == ["Cat 0.", "Cat 1.", "Cat 2.", "Cat 3."]


def test_a_removal_that_was_killed_goes_on_though_the_source_itself_is_gone(tmp_path, monkeypatch):
    def pair(text, **lineage):
        return make_record("Describe.", text, [("x", f"Not {text}")], **lineage)

    first, also = pair("A dog.", source_id="a"), []
    refined = pair("A brown dog.", source_id="b", parent_id=first["pair_id"])
    again = pair("A big brown dog.", source_id=refined["pair_id"])
    write_records([first, refined, again, pair("A cat.", source_id="c")], tmp_path, rows_per_shard=1)
    written = []

    def killed(path, rows):
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        write_shard(path, rows)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lineage, "write_shard", killed)
        remove_sources(tmp_path, ["a"], lambda: also.append("early"))
    assert "A dog." not in [text_of(row["chosen"]) for row in read_records(tmp_path)] and not also
    remove_sources(tmp_path, ["a"], lambda: also.append("late"))
    assert [text_of(row["chosen"]) for row in read_records(tmp_path)] == ["A cat."] and also == ["late"]
    with pytest.raises(DataError, match="'a'"):
        remove_sources(tmp_path, ["a"])


def test_removing_a_source_keeps_the_quarantine_of_the_others(tmp_path):
    bad = [Rejected(f"x:{i}", ["caption: empty."], {"id": name}) for i, name in enumerate(["s0", "s9"])]
    write(tmp_path, *bad)
    remove_sources(tmp_path, ["s0"])
    lines = [json.loads(line) for line in (tmp_path / "rejected_rows.jsonl").read_text().splitlines()]
    assert [line["where"] for line in lines] == ["x:1"]


def test_removing_an_unknown_source_is_an_error(tmp_path):
    write(tmp_path)
    before = shards(tmp_path)
    with pytest.raises(DataError, match="'s77'"):
        remove_sources(tmp_path, ["s0", "s77"])
    assert shards(tmp_path) == before


def test_shingles_of_words_and_of_chinese():
    assert shingles("One two three four five.") == {"one two three four", "two three four five"}
    assert shingles("Short text") == {"short text"}
    assert shingles("狗先叫，再跑") == {"狗 先 叫 再", "先 叫 再 跑"}


def test_split_depends_on_the_group_alone():
    splits = [split_of(f"g{i}", {"train": 0.9, "test": 0.1}) for i in range(4000)]
    assert abs(splits.count("test") / 4000 - 0.1) < 0.02  # four standard deviations
    assert splits[:10] == [split_of(f"g{i}", {"train": 0.9, "test": 0.1}) for i in range(10)]
    with pytest.raises(DataError, match="expected 1"):
        split_of("g", {"train": 0.9})
