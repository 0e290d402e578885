"""The card counts what is there, and its metadata is what the hub reads."""

import datasets
import pytest
from huggingface_hub import DatasetCard

from data_synth.card import count, write_card
from data_synth.records import Rejected, make_record, write_records


@pytest.fixture
def folder(tmp_path):
    rows = [
        make_record(
            "Describe.",
            f"A dog barks {i}.",
            [("order_swap", f"{i} dog."), ("verbose", f"A dog barks {i}. Nice.")],
            videos=[f"{i}.mp4"],
            source_id=f"s{i // 2}",
            licence="CC0-1.0",
            operator="mixture",
        )
        for i in range(4)
    ]
    rows.append(make_record("描述。", "狗叫。", [("verbose", "狗叫，很好。")], source_id="z", licence="CC-BY-3.0"))
    rows.append(Rejected("captions.jsonl:9", ["caption: the text is empty."]))
    write_records(rows, tmp_path / "pairs")
    return tmp_path / "pairs"


def test_counts(folder):
    counts = count(folder)
    assert (counts.pairs, counts.answers, counts.sources, counts.quarantined_rows) == (5, 9, 3, 1)
    assert counts.kinds == {"order_swap": 4, "verbose": 5}
    assert counts.media == {"video": 4, "text": 1}
    assert counts.languages == {"en": 4, "zh": 1}
    assert counts.licences == {"CC0-1.0": 4, "CC-BY-3.0": 1}
    assert counts.quarantined == {"caption": 1}
    assert counts.chosen_characters == 4 * len("A dog barks 0.") + len("狗叫。")


def test_the_hub_reads_the_metadata(folder):
    write_card(folder, name="pairs: a test")
    data = DatasetCard.load(folder / "README.md").data.to_dict()
    assert data["pretty_name"] == "pairs: a test"
    assert data["license"] == ["cc-by-3.0", "cc0-1.0"]
    assert data["size_categories"] == ["n<1K"]
    assert data["task_categories"] == ["video-text-to-text"]
    assert data["language"] == ["en", "zh"]


def test_load_dataset_finds_the_pairs_beside_the_other_files(folder, tmp_path):
    # without the card's `configs`, rejected_rows.jsonl would be mixed in
    write_card(folder)
    dataset = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(dataset) == 5


def test_audit_and_quarantine_are_shown(folder):
    audit = {"n": 5, "operators": {"verbose": {"n": 5, "length": 0.99}}, "overall": {"n": 5, "length": 0.71}}
    text = write_card(folder, audit=audit).read_text()
    assert "| verbose | 0.99 |" in text and "| overall | 0.71 |" in text
    assert "1 rows stand in rejected_rows.jsonl (caption 1)" in text


def test_no_licence_is_claimed_where_one_is_missing(tmp_path):
    rows = [make_record("Q", "A", [("x", "B")], licence="MIT"), make_record("Q", "C", [("x", "D")])]
    write_records(rows, tmp_path)
    assert "license" not in DatasetCard.load(write_card(tmp_path)).data.to_dict()
