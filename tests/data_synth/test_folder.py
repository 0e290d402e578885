"""The folder source: good lines pass, everything else is accounted for with the reason, nothing is lost."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_synth.errors import DataError
from data_synth.folder import Captioned, read_folder, sift_folder
from data_synth.frames_cache import FramesCache
from data_synth.records import Rejected, make_record, read_records, write_records
from data_synth.video import write_mp4

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two good clips and a picture, without captions yet."""
    folder = tmp_path / "clips"
    (folder / "inner").mkdir(parents=True)
    frames = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    write_mp4(folder / "a.mp4", frames, fps=2)
    write_mp4(folder / "inner" / "b.mp4", frames[::-1], fps=2)
    Image.fromarray(frames[0]).save(folder / "c.png")
    return folder


def write_lines(folder: Path, *lines: dict | str | bytes) -> None:
    raw = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    (folder / "captions.jsonl").write_bytes(b"\n".join(raw) + b"\n")


def split(folder: Path, **options) -> tuple[list[Captioned], list[Rejected]]:
    items = list(read_folder(folder, **options))
    return [i for i in items if isinstance(i, Captioned)], [i for i in items if isinstance(i, Rejected)]


GOOD = (
    {"video": "a.mp4", "caption": "A dog barks."},
    {"file": "inner/b.mp4", "sentences": ["A cat naps.", "It wakes up."], "id": "b", "licence": "CC0-1.0", "tag": 7},
    {"image": "c.png", "caption": "Grey noise."},
)


def test_good_lines_become_items(folder):
    write_lines(folder, *GOOD)
    good, bad = split(folder)
    assert bad == []
    assert [item.kind for item in good] == ["video", "video", "image"]
    second = good[1]
    assert (second.id, second.media, second.licence, second.fields) == ("b", "inner/b.mp4", "CC0-1.0", {"tag": 7})
    assert second.path == folder / "inner" / "b.mp4"
    assert second.caption == "A cat naps. It wakes up."
    assert second.sentences == ["A cat naps.", "It wakes up."]
    assert second.where.endswith("captions.jsonl:2")


def test_the_real_clip_with_pieces_and_chinese():
    good, bad = split(FIXTURES)
    assert bad == []
    assert [(i.id, i.start, i.end) for i in good] == [
        ("rabbit", None, None),
        ("rabbit-end", 1.2, 3.0),
        ("rabbit-zh", None, None),
    ]


def test_ids_are_made_from_content(folder):
    lines = [{"video": "a.mp4", "caption": c} for c in ("A dog barks.", "A dog.", "A dog barks.")]
    write_lines(folder, *lines, *GOOD[1:])
    good, bad = split(folder)
    assert len({item.id for item in good}) == 4
    assert "is taken by" in bad[0].reasons[0]  # the third line says the same of the same clip as the first


def test_chinese_sentences_are_joined_without_spaces(folder):
    write_lines(folder, {"video": "a.mp4", "sentences": ["狗叫。", "狗跑。"]}, *GOOD[1:])
    assert split(folder)[0][0].caption == "狗叫。狗跑。"


def test_windows_files_are_read(folder):
    text = "\ufeff" + "\r\n".join(json.dumps(line) for line in GOOD) + "\r\n\r\n"
    (folder / "captions.jsonl").write_bytes(text.encode())
    good, bad = split(folder)
    assert (len(good), bad) == (3, [])


BAD_LINES = {
    "no JSON": (b'{"video": "a.mp4", "caption": "A dog', "line: not JSON"),
    "not UTF-8": (
        '{"video": "a.mp4", "caption": "ein schöner Hund"}'.encode("latin-1"),
        "line: not UTF-8, byte 0xF6 at",
    ),
    "a list": (b'["a.mp4", "A dog barks."]', "line: found list, expected an object"),
    "NaN": (b'{"video": "a.mp4", "caption": "A dog barks.", "start": NaN}', "line: NaN is no JSON number"),
    "infinity": (b'{"video": "a.mp4", "caption": "A dog barks.", "end": Infinity}', "line: Infinity is no JSON"),
    "a key twice": (b'{"video": "a.mp4", "caption": "A", "caption": "B"}', "line: the key 'caption' appears twice"),
    "nested too deeply": (b'{"video": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "line: "),
    "a line of 5 MB": (b'{"caption": "' + b"a" * 5_000_000 + b'"}', "line: has more than"),
    "null byte": (b'{"video": "a.mp4", "caption": "A dog\\u0000"}', "caption: character U+0000"),
    "no caption": ({"video": "a.mp4"}, "caption: the line has none, only video"),
    "empty caption": ({"video": "a.mp4", "caption": " \n"}, "caption: the text is empty"),
    "caption is a list": ({"video": "a.mp4", "caption": ["A dog"]}, "caption: found a list"),
    "100 kB caption": ({"video": "a.mp4", "caption": "dog " * 30_000}, "caption: the text has 120000 bytes"),
    "empty sentences": ({"video": "a.mp4", "sentences": []}, "sentences: found []"),
    "a sentence is empty": ({"video": "a.mp4", "sentences": ["A dog.", ""]}, "sentences[1]: the text is empty"),
    "no media": ({"caption": "A dog."}, "video: found only caption"),
    "two media": ({"video": "a.mp4", "image": "c.png", "caption": "A dog."}, "video: found video and image"),
    "no such file": ({"video": "z.mp4", "caption": "A dog."}, "video: 'z.mp4' is not a file"),
    "path is a number": ({"video": 3, "caption": "A dog."}, "video: found a number"),
    "path leaves the folder": ({"video": "../secret.mp4", "caption": "A dog."}, "video: '../secret.mp4' leaves"),
    "absolute path outside": ({"video": "/etc/passwd", "caption": "A dog."}, "video: '/etc/passwd' leaves"),
    "unknown suffix": ({"file": "notes.txt", "caption": "A dog."}, "file: 'notes.txt' has no known suffix"),
    "start is text": ({"video": "a.mp4", "caption": "A dog.", "start": "1s"}, "start: found '1s', expected seconds"),
    "negative start": ({"video": "a.mp4", "caption": "A dog.", "start": -1}, "start: found -1, expected seconds"),
    "end before start": ({"video": "a.mp4", "caption": "A dog.", "start": 2, "end": 1}, "end: found 1, expected more"),
    "start after the end": ({"video": "a.mp4", "caption": "A dog.", "start": 50}, "video: "),
    "a picture with a time": ({"image": "c.png", "caption": "A dog.", "start": 1}, "start: found 1, but a picture"),
    "licence is a number": ({"video": "a.mp4", "caption": "A dog.", "licence": 4}, "licence: found 4, expected text"),
    "id is a list": ({"video": "a.mp4", "caption": "A dog.", "id": []}, "id: found [], expected text"),
    "id taken": ({"video": "a.mp4", "caption": "A dog.", "id": "b"}, "id: 'b' is taken by"),
    "zero bytes": ({"video": "zero.mp4", "caption": "A dog."}, "video: "),
    "text renamed to mp4": ({"video": "text.mp4", "caption": "A dog."}, "video: "),
    "cut short": ({"video": "cut.mp4", "caption": "A dog."}, "video: "),
    "picture cut short": ({"image": "cut.png", "caption": "A dog."}, "image: "),
    "a video named as image": ({"image": "a.mp4", "caption": "A dog."}, "image: "),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_rejected_and_the_rest_goes_on(folder, tmp_path, name):
    line, reason = BAD_LINES[name]
    (tmp_path / "secret.mp4").write_bytes((folder / "a.mp4").read_bytes())
    (folder / "notes.txt").write_text("A dog.")
    file = line.get("video") or line.get("image") if isinstance(line, dict) else None
    if file == "zero.mp4":
        (folder / "zero.mp4").touch()
    elif file == "text.mp4":
        (folder / "text.mp4").write_text("no video " * 100)
    elif file == "cut.mp4":
        (folder / "cut.mp4").write_bytes((folder / "a.mp4").read_bytes()[:400])
    elif file == "cut.png":
        (folder / "cut.png").write_bytes((folder / "c.png").read_bytes()[:300])
    write_lines(folder, GOOD[1], line, GOOD[0], GOOD[2])
    good, bad = split(folder)
    assert [item.media for item in good] == ["inner/b.mp4", "a.mp4", "c.png"]
    assert len(bad) == 1
    assert bad[0].where.endswith("captions.jsonl:2")
    assert any(r.startswith(reason) for r in bad[0].reasons), bad[0].reasons


def test_files_without_a_caption_are_counted(folder):
    write_lines(folder, GOOD[0])
    good, bad = split(folder)
    assert len(good) == 1
    assert sorted(item.row["file"] for item in bad) == ["c.png", "inner/b.mp4"]
    assert all("no line in captions.jsonl" in item.reasons[0] for item in bad)


def test_nothing_is_lost(folder, tmp_path):
    """Each line and each file without a line is one item; each item is kept or stands in rejected_rows.jsonl."""
    (tmp_path / "secret.mp4").touch()
    lines = [line for line, _ in BAD_LINES.values()]
    write_lines(folder, *GOOD, *lines)
    (folder / "lonely.mp4").write_bytes((folder / "a.mp4").read_bytes())
    items = list(read_folder(folder))
    assert len(items) == len(GOOD) + len(lines) + 1
    rows = [
        item
        if isinstance(item, Rejected)
        else make_record("Describe.", item.caption, [("x", "Nothing.")], videos=[item.media], source_id=item.id)
        for item in items
    ]
    written = write_records(rows, tmp_path / "pairs")
    lines_out = (tmp_path / "pairs" / "rejected_rows.jsonl").read_text().splitlines()
    assert written.kept + written.quarantined == len(items)
    assert len(read_records(tmp_path / "pairs")) == written.kept == len(GOOD)
    assert len(lines_out) == written.quarantined
    assert all(json.loads(line)["reasons"] for line in lines_out)


def test_sift_folder_writes_both_sides(folder, tmp_path):
    write_lines(folder, *GOOD[:2], {"video": "a.mp4", "caption": ""}, b"{")
    seen = []
    written = sift_folder(folder, tmp_path / "out", progress=lambda kept, quarantined: seen.append(kept + quarantined))
    assert (written.kept, written.quarantined) == (2, 3)
    assert written.reasons == {"caption": 2, "line": 1}  # the third: c.png has no line
    assert seen == [1, 2, 3, 4, 5]
    rows = [json.loads(line) for line in (tmp_path / "out" / "clips.jsonl").read_text().splitlines()]
    assert rows[1] == {
        "id": "b",
        "video": "inner/b.mp4",
        "caption": "A cat naps. It wakes up.",
        "sentences": ["A cat naps.", "It wakes up."],
        "licence": "CC0-1.0",
        "tag": 7,
    }
    assert len((tmp_path / "out" / "rejected_rows.jsonl").read_text().splitlines()) == 3
    # what was sifted is a folder source again
    again, bad = split(folder, captions=tmp_path / "out" / "clips.jsonl")
    assert [item.id for item in again] == [row["id"] for row in rows]
    assert len(bad) == 1


def test_missing_folder_or_captions(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        list(read_folder(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="one line per clip"):
        list(read_folder(tmp_path))


def test_utf16_is_named(folder):
    (folder / "captions.jsonl").write_text(json.dumps(GOOD[0]), encoding="utf-16")
    with pytest.raises(DataError, match="UTF-16, expected UTF-8"):
        list(read_folder(folder))


def test_clips_are_decoded_once_with_a_cache(folder, tmp_path):
    write_lines(folder, *GOOD[:2])
    (folder / "c.png").unlink()
    cache = FramesCache(tmp_path / "cache")
    good, _ = split(folder, load=lambda item: cache.clip(item.path, num_frames=4))
    assert cache.decoded == len(good) == 2
    for item in good:
        cache.clip(item.path, num_frames=4)
    assert cache.decoded == 2


def test_a_damaged_middle_is_found_while_filling_the_cache(tmp_path):
    folder = tmp_path / "clips"
    shutil.copytree(FIXTURES, folder)
    data = bytearray((folder / "bigbuckbunny.mp4").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = b"\xff" * 3000
    (folder / "bad.mp4").write_bytes(data)
    with (folder / "captions.jsonl").open("a") as file:
        file.write('{"video": "bad.mp4", "caption": "A rabbit."}\n')
    cache = FramesCache(tmp_path / "cache")
    good, bad = split(folder, load=lambda item: cache.clip(item.path, fps=25, start=item.start, end=item.end))
    assert (len(good), len(bad)) == (3, 1)
    assert "damaged" in bad[0].reasons[0]
