"""Drawn captions: the same by any order of asking, one chunk of them in memory."""

import json
from types import SimpleNamespace

import pytest

from rlkit.caption.own_samples import Drawn, files_hash


@pytest.fixture
def drawn(tmp_path):
    for chunk in range(3):
        lines = [{"id": f"clip-{chunk * 2 + at}", "samples": [f"One {chunk}.", f"Two {at}."]} for at in range(2)]
        (tmp_path / f"{chunk}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Drawn(sorted(tmp_path.glob("*.jsonl")))


@pytest.mark.parametrize("order", [range(6), reversed(range(6)), (5, 0, 3, 3, 1)])
def test_every_clip_has_its_own(drawn, order):
    for number in order:
        assert drawn.get(f"clip-{number}") == [f"One {number // 2}.", f"Two {number % 2}."]


def test_a_clip_that_was_not_sampled_has_none(drawn):
    assert drawn.get("another") == []
    assert drawn.get("clip-4") == ["One 2.", "Two 0."]
    assert Drawn([]).get("clip-4") == []


def test_asking_in_order_reads_each_chunk_once(drawn, monkeypatch):
    read = []
    original = type(drawn.chunks[0]).read_text
    monkeypatch.setattr(
        type(drawn.chunks[0]), "read_text", lambda path, **named: read.append(path.name) or original(path, **named)
    )
    for number in range(6):
        drawn.get(f"clip-{number}")
    assert read == ["0.jsonl", "1.jsonl", "2.jsonl"]


def test_the_hash_of_the_clips_follows_their_files(tmp_path):
    found = SimpleNamespace(train=[{"id": "a", "video": "a.mp4"}], reader=SimpleNamespace(root=tmp_path))
    (tmp_path / "a.mp4").write_bytes(b"one")
    first = files_hash(found)
    assert files_hash(found) == first
    (tmp_path / "a.mp4").write_bytes(b"another")
    assert files_hash(found) != first
    found.train[0]["start"] = 1.0
    (tmp_path / "a.mp4").write_bytes(b"one")
    assert files_hash(found) != first
