"""Lineage: only what changed is made again, a removed source takes its descendants, duplicates stay together."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from data_synth.errors import DataError
from data_synth.lineage import near_duplicates, rebuild, remove_sources, shingles, split_of
from data_synth.records import Rejected, content_id, make_record, read_records, text_of, write_records


@dataclass(frozen=True)
class Caption:
    id: str
    text: str

    @property
    def content_id(self) -> str:
        return content_id(self.text)


class Maker:
    """Two pairs per caption, and a note of which captions it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, caption: Caption):
        self.asked.append(caption.id)
        for kind in ("order_swap", "verbose"):
            yield make_record("Describe.", caption.text, [(kind, f"{kind} of {caption.text}")])


SOURCES = [Caption(f"s{i}", f"A dog barks {i} times.") for i in range(6)]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("pairs-*.parquet"))}


def build(folder: Path, sources=SOURCES, maker=None, **settings):
    return rebuild(folder, sources, maker or Maker(), settings=settings, rows_per_shard=5)


def test_only_changed_sources_are_made_again(tmp_path):
    first = build(tmp_path / "a")
    assert (first.made, first.kept, first.written.kept) == (6, 0, 12)
    changed = [*SOURCES[:2], replace(SOURCES[2], text="A cat naps."), *SOURCES[4:], Caption("new", "A bird sings.")]
    maker = Maker()
    second = build(tmp_path / "a", changed, maker)
    assert maker.asked == ["s2", "new"]
    assert (second.made, second.kept, second.gone) == (2, 4, 1)  # s3 is gone


def test_a_rebuild_equals_making_all_anew(tmp_path):
    build(tmp_path / "a")
    changed = [SOURCES[5], SOURCES[0], replace(SOURCES[2], text="A cat naps.")]
    build(tmp_path / "a", changed)
    build(tmp_path / "b", changed)
    assert shards(tmp_path / "a") == shards(tmp_path / "b")


def test_nothing_changed_nothing_made(tmp_path):
    build(tmp_path / "a")
    before, maker = shards(tmp_path / "a"), Maker()
    build(tmp_path / "a", maker=maker)
    assert maker.asked == []
    assert shards(tmp_path / "a") == before


def test_other_settings_make_all_again(tmp_path):
    build(tmp_path / "a", seed=0)
    maker = Maker()
    build(tmp_path / "a", maker=maker, seed=1)
    assert len(maker.asked) == 6


def test_rejected_sources_are_passed_on(tmp_path):
    done = build(tmp_path / "a", [SOURCES[0], Rejected("x:2", ["caption: empty."])])
    assert (done.written.kept, done.written.quarantined) == (2, 1)


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


def test_removing_a_source_keeps_the_quarantine_of_the_others(tmp_path):
    bad = [Rejected(f"x:{i}", ["caption: empty."], {"id": name}) for i, name in enumerate(["s0", "s9"])]
    build(tmp_path, [*SOURCES, *bad])
    remove_sources(tmp_path, ["s0"])
    lines = [json.loads(line) for line in (tmp_path / "rejected_rows.jsonl").read_text().splitlines()]
    assert [line["where"] for line in lines] == ["x:1"]


def test_removing_an_unknown_source_is_an_error(tmp_path):
    build(tmp_path)
    before = shards(tmp_path)
    with pytest.raises(DataError, match="'s77'"):
        remove_sources(tmp_path, ["s0", "s77"])
    assert shards(tmp_path) == before


def test_near_duplicates_share_a_group():
    pytest.importorskip("datasketch")
    long = "a man in a red coat walks along the beach with his dog and throws a yellow ball far into the water"
    texts = [
        ("a", long),
        ("b", "two children build a tower of blocks on the kitchen floor and then knock it over laughing loudly"),
        ("c", long.upper() + "!"),
        ("d", long + " again"),
        ("e", "一只灰色的大兔子先从洞里爬出来，然后站起身，最后向上伸展双臂。"),
        ("f", "一只灰色的大兔子先从洞里爬出来，然后站起身，最后向上伸展双臂"),
    ]
    groups = near_duplicates(texts)
    assert groups == {"a": "a", "b": "b", "c": "a", "d": "a", "e": "e", "f": "e"}


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
