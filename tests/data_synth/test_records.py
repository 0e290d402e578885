"""Records: what is written is what is read, ids depend on content alone, bad rows are kept aside with the reason."""

import hashlib
import json
from pathlib import Path

import datasets
import pytest

from data_synth import records
from data_synth.errors import DataError
from data_synth.records import (
    FEATURES,
    Rejected,
    content_hash,
    content_id,
    make_record,
    pair_id,
    pieces,
    read_records,
    text_of,
    write_records,
)


def row(i: int = 0, **columns) -> dict:
    return make_record(
        "Describe the clip.",
        f"A dog barks {i} times. Then it runs.",
        [("order_swap", f"A dog runs. Then it barks {i} times."), ("verbose", f"A dog barks {i} times. Nice.")],
        videos=[f"clips/{i}.mp4"],
        **columns,
    )


def quarantine(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "rejected_rows.jsonl").read_text().splitlines()]


def test_rows_come_back_as_written(tmp_path):
    rows = [row(i, seed=i, source_id=f"s{i}", scores={"r": [0.5, 1]}, edit=[{"spans": [[0, 2]]}, {}]) for i in range(7)]
    written = write_records(rows, tmp_path, rows_per_shard=3)
    assert (written.kept, written.quarantined, len(written.shards)) == (7, 0, 3)
    back = read_records(tmp_path)
    assert len(back) == 7
    for found, given in zip(back, rows, strict=True):
        assert {name: found[name] for name in given} == given
    assert back.features == FEATURES


def test_load_dataset_reads_them_without_us(tmp_path):
    write_records([row(i) for i in range(4)], tmp_path / "pairs")
    dataset = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "pairs" / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    # messages have different keys in different parts: typed as structs they would come back with None keys
    assert dataset[0]["prompt"] == row(0)["prompt"]
    assert dataset[3]["rejected"] == row(3)["rejected"]


def test_a_number_as_caption_stays_text(tmp_path):
    # datasets' Json feature reads the string "123" back as a number; parts keep it a string
    write_records([make_record("How many?", "123", [("count_change", "124")])], tmp_path)
    assert text_of(read_records(tmp_path)[0]["chosen"]) == "123"


def test_same_rows_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_records((row(i) for i in range(600)), tmp_path / name)
    names = ["pairs-00000.parquet"]
    assert [(tmp_path / "a" / n).read_bytes() for n in names] == [(tmp_path / "b" / n).read_bytes() for n in names]


def test_content_id_is_sha256_of_stable_json():
    expected = hashlib.sha256(b'[{"a":1,"b":"\\u72d7"},[2]]').hexdigest()[:32]
    assert content_id({"b": "狗", "a": 1}, [2]) == expected
    assert content_id({"a": 1, "b": "狗"}, [2]) == expected


def test_pair_id_depends_on_content_alone():
    assert pair_id(row(1, seed=1, source_id="x")) == pair_id(row(1, seed=2, tier="gold"))
    assert pair_id(row(1)) != pair_id(row(2))
    swapped = row(1)
    swapped["chosen"], swapped["rejected"][0] = swapped["rejected"][0], swapped["chosen"]
    assert pair_id(swapped) != row(1)["pair_id"]


def test_piece_of_a_video_travels_in_its_part():
    record = make_record("Describe.", "A dog barks.", [("x", "A cat.")], videos=["a.mp4"], start=1.5, end=3.0)
    assert pieces(record) == [("a.mp4", 1.5, 3.0)]
    assert pieces(row()) == [("clips/0.mp4", None, None)]


def test_bad_rows_are_kept_aside_and_the_rest_goes_on(tmp_path):
    nan = row(1)
    nan["rejected_weight"] = [float("nan"), 1.0]
    empty = row(2)
    empty["chosen"][0]["content"][0]["text"] = ""
    rows = [
        row(0),
        nan,
        empty,
        row(3),
        "no record",
        row(0),
        row(4, sead=1),
        Rejected("x.jsonl:7", ["video: gone."], {"a": 1}),
    ]
    written = write_records(rows, tmp_path)
    assert (written.kept, written.quarantined) == (2, 6)
    assert [text_of(r["chosen"]) for r in read_records(tmp_path)] == [text_of(row(i)["chosen"]) for i in (0, 3)]
    lines = quarantine(tmp_path)
    assert [line["where"] for line in lines] == ["row 1", "row 2", "row 4", "row 5", "row 6", "x.jsonl:7"]
    assert lines[0]["row"]["rejected_weight"] == ["nan", 1.0]
    assert "repeats an earlier one" in lines[3]["reasons"][0]
    assert "did you mean 'seed'" in lines[4]["reasons"][0]
    assert lines[5] == {"where": "x.jsonl:7", "reasons": ["video: gone."], "row": {"a": 1}}
    assert written.reasons == {"rejected_weight": 1, "chosen": 1, "record": 1, "pair_id": 1, "sead": 1, "video": 1}


def test_a_wrong_id_is_noticed(tmp_path):
    record = row()
    record["pair_id"] = "0" * 32
    assert write_records([record], tmp_path).quarantined == 1
    assert "but the content gives" in quarantine(tmp_path)[0]["reasons"][0]


def test_missing_media_files_are_noticed_with_a_root(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "0.mp4").touch()
    written = write_records([row(0), row(1)], tmp_path / "pairs", root=tmp_path)
    assert (written.kept, written.quarantined) == (1, 1)


def test_no_rows_give_an_empty_table(tmp_path):
    assert write_records([], tmp_path).kept == 0
    assert len(read_records(tmp_path)) == 0


def test_pairs_are_not_overwritten_unless_asked(tmp_path):
    write_records([row(i) for i in range(5)], tmp_path, rows_per_shard=2)
    with pytest.raises(DataError, match="already holds 3 shards"):
        write_records([row(9)], tmp_path)
    assert len(read_records(tmp_path)) == 5
    write_records([row(9)], tmp_path, overwrite=True)
    assert len(read_records(tmp_path)) == 1
    assert sorted(p.name for p in tmp_path.glob("*")) == [".arrow", "pairs-00000.parquet"]


def test_an_interrupted_write_leaves_nothing_and_keeps_the_old(tmp_path):
    def broken():
        yield row(0)
        raise KeyboardInterrupt

    write_records([row(1)], tmp_path)
    before = (tmp_path / "pairs-00000.parquet").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_records(broken(), tmp_path, overwrite=True)
    assert (tmp_path / "pairs-00000.parquet").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".arrow", "pairs-00000.parquet"]


def test_a_changed_shard_is_read_anew(tmp_path):
    write_records([row(1)], tmp_path)
    assert len(read_records(tmp_path)) == 1
    write_records([row(1), row(2)], tmp_path, overwrite=True)
    assert len(read_records(tmp_path)) == 2
    assert len(list((tmp_path / ".arrow").iterdir())) == 1


def test_reading_is_memory_mapped(tmp_path):
    write_records([row(1)], tmp_path)
    assert read_records(tmp_path).cache_files  # datasets lists the mapped files here


def test_damaged_or_missing_parquet(tmp_path):
    with pytest.raises(DataError, match="no parquet files"):
        read_records(tmp_path)
    (tmp_path / "pairs-00000.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="damaged"):
        read_records(tmp_path)


def test_every_column_of_the_design_is_there():
    wanted = (
        "prompt videos images chosen rejected rejected_kind rejected_weight pair_id source_id operator edit scores tier"
    )
    assert set(f"{wanted} licence seed rlkit_version".split()) <= set(records.FEATURES)


def test_the_content_hash_is_of_every_byte_and_is_computed_once(tmp_path):
    write_records([row(i) for i in range(5)], tmp_path, rows_per_shard=2)
    first = content_hash(tmp_path)
    shards = sorted(tmp_path.glob("*.parquet"))
    own = [hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards]
    assert first == hashlib.sha256("".join(own).encode()).hexdigest()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".arrow").glob("*.sha256")}
    assert len(kept) == len(shards) == 3
    assert content_hash(tmp_path) == first
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / ".arrow").glob("*.sha256")}
    write_records([row(i, tier="gold") for i in range(5)], tmp_path, rows_per_shard=2, overwrite=True)
    assert content_hash(tmp_path) != first
    assert len(list((tmp_path / ".arrow").glob("*.sha256"))) == 3  # those of the old shards are gone


def test_a_kill_between_two_shards_leaves_no_folder_that_counts_as_whole(tmp_path, monkeypatch):
    rows = [row(n) for n in range(5)]
    real, moved = Path.replace, []

    def killed(self, target):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(Path(target).name)
        return real(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        write_records(rows, tmp_path, rows_per_shard=2)
    assert moved == ["pairs-00002.parquet", "pairs-00001.parquet"]  # the first, which tells that all are there, is not
    written = write_records(rows, tmp_path, rows_per_shard=2)
    assert written.kept == 5 == len(read_records(tmp_path))
    with pytest.raises(DataError, match="already holds 3 shards"):
        write_records(rows, tmp_path, rows_per_shard=2)
