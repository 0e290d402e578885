"""Each malformed record is refused, and the message names the field."""

import copy
import sys
import unicodedata

import pytest

from data_synth.check import NOT_TEXT, check, check_caption, check_path
from data_synth.records import make_record


def good() -> dict:
    return make_record(
        "Describe the clip.",
        "A dog barks. Then it runs.",
        [("order_swap", "A dog runs. Then it barks."), ("verbose", "A dog barks. Then it runs. It is nice.")],
        videos=["clips/a.mp4"],
        source_id="a",
        seed=1,
    )


def test_a_good_record_has_no_problems():
    assert check(good()) == []


@pytest.mark.parametrize("content", ["A dog barks.", [{"type": "text", "text": "A dog barks."}]])
def test_content_is_text_or_parts(content):
    record = good()
    record["chosen"] = [{"role": "assistant", "content": content}]
    assert check(record) == []


def text(value):
    return [{"role": "assistant", "content": [{"type": "text", "text": value}]}]


BAD = {
    "empty caption": ("chosen", text("  "), "chosen[0].content[0].text: the text is empty"),
    "caption is a number": ("chosen", text(3), "chosen[0].content[0].text: found a number"),
    "caption is too long": ("chosen", text("a" * 100_001), "chosen[0].content[0].text: the text has 100001 bytes"),
    "bytes count, not characters": ("chosen", text("狗" * 40_000), "chosen[0].content[0].text: the text has 120000"),
    "control character": ("chosen", text("A dog\x00 barks"), "chosen[0].content[0].text: character U+0000 at 5"),
    "escape sequence": ("chosen", text("\x1b[31mA dog"), "chosen[0].content[0].text: character U+001B at 0"),
    "lone surrogate": ("chosen", text("A dog \ud83d"), "chosen[0].content[0].text: character U+D83D at 6"),
    "no messages": ("chosen", [], "chosen: found an empty list"),
    "chosen is missing": ("chosen", None, "chosen: found nothing"),
    "chosen is a string": ("chosen", "A dog barks.", "chosen: found text, expected a list of messages"),
    "wrong role": ("chosen", [{"role": "user", "content": "A dog"}], "chosen[0].role: found 'user'"),
    "message without content": ("chosen", [{"role": "assistant"}], "chosen[0].content: found nothing"),
    "unknown part": (
        "chosen",
        [{"role": "assistant", "content": [{"type": "audio"}]}],
        "chosen[0].content[0].type: found 'audio'",
    ),
    "chosen equals rejected": ("chosen", text("A dog runs. Then it barks."), "rejected[0]: is the same text as chosen"),
    "equal but for spaces": ("chosen", text("A dog  runs. Then it barks. "), "rejected[0]: is the same text as chosen"),
    "no rejected": ("rejected", [], "rejected: found an empty list"),
    "rejected is one answer": ("rejected", text("A dog runs."), "rejected[0]: found an object"),
    "one rejected too few": ("rejected", [text("A dog runs.")], "rejected_kind: has 2 entries, but there are 1"),
    "NaN weight": ("rejected_weight", [1.0, float("nan")], "rejected_weight[1]: found nan"),
    "infinite weight": ("rejected_weight", [float("inf"), 1.0], "rejected_weight[0]: found inf"),
    "negative weight": ("rejected_weight", [1.0, -1.0], "rejected_weight[1]: found -1.0"),
    "weight is text": ("rejected_weight", ["1", 1.0], "rejected_weight[0]: found text, expected a number"),
    "weight is no list": ("rejected_weight", 1.0, "rejected_weight: found a number, expected a list"),
    "kind is empty": ("rejected_kind", ["order_swap", ""], "rejected_kind[1]: found an empty text"),
    "prompt ends with the answer": (
        "prompt",
        [{"role": "assistant", "content": "A dog"}],
        "prompt: ends with role 'assistant'",
    ),
    "placeholder without a file": ("videos", [], "videos: 0 files, but the prompt has 1 video parts"),
    "file without a placeholder": ("images", ["a.png"], "images: 1 files, but the prompt has 0 image parts"),
    "videos is a string": ("videos", "a.mp4", "videos: found text, expected a list of paths"),
    "path leaves the folder": ("videos", ["clips/../../secret.mp4"], "videos[0]: 'clips/../../secret.mp4' leaves"),
    "path with backslashes": ("videos", ["..\\secret.mp4"], "videos[0]: '..\\secret.mp4' leaves"),
    "path is a number": ("videos", [7], "videos[0]: found a number, expected the path"),
    "path is an address": ("videos", ["https://x.org/a.mp4"], "videos[0]: 'https://x.org/a.mp4' is an address"),
    "seed is text": ("seed", "1", "seed: found text, expected a whole number"),
    "seed is true": ("seed", True, "seed: found true/false, expected a whole number"),
    "unknown tier": ("tier", "platinum", "tier: found 'platinum', expected gold, silver, bronze"),
    "NaN score": ("scores", {"reward": [0.5, float("nan")]}, "scores.reward[1]: found nan"),
    "score is an object": ("scores", {"reward": object()}, "scores.reward: found object, expected JSON"),
    "source id is a number": ("source_id", 7, "source_id: found a number, expected text"),
}


@pytest.mark.parametrize("name", BAD)
def test_names_the_field_of_a_problem(name):
    field, value, expected = BAD[name]
    record = copy.deepcopy(good())
    record[field] = value
    problems = check(record)
    assert any(problem.startswith(expected) for problem in problems), problems
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize("row", [None, [], "text", 3])
def test_a_record_is_an_object(row):
    assert check(row)[0].startswith("record: found")


def test_all_problems_at_once():
    record = good()
    record.update(chosen=text(""), rejected_weight=[float("nan"), 1.0], seed="x")
    assert {problem.split(":")[0] for problem in check(record)} == {
        "chosen[0].content[0].text",
        "rejected_weight[0]",
        "seed",
    }


def test_what_is_no_text_agrees_with_unicode():
    """Controls (Cc), surrogates (Cs) and the 66 non-characters, which are the only Cn that will never be assigned."""
    none = {*range(0xFDD0, 0xFDF0), *(p << 16 | n for p in range(17) for n in (0xFFFE, 0xFFFF))}
    assert len(none) == 66
    for code in range(sys.maxunicode + 1):
        control = unicodedata.category(chr(code)) in ("Cc", "Cs") and chr(code) not in "\t\n\r"
        assert bool(NOT_TEXT.search(chr(code))) == (control or code in none), hex(code)


@pytest.mark.parametrize(
    "caption", ["Two lines\nof text\t.", "一只狗。", "👩‍👩‍👧 🫠 wave", "كلب ينبح", "\u200fكلب", "née"]
)
def test_captions_of_every_script_pass(caption):
    assert check_caption(caption, "caption") == []


def test_with_a_root_files_must_exist_inside_it(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.mp4").touch()
    (tmp_path / "outside.mp4").touch()
    (tmp_path / "data" / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    root = tmp_path / "data"
    assert check_path("a.mp4", "video", root) == []
    assert check_path(str(root / "a.mp4"), "video", root) == []
    assert "is not a file" in check_path("b.mp4", "video", root)[0]
    assert "leaves the data folder" in check_path("link.mp4", "video", root)[0]
    assert "leaves the data folder" in check_path("/etc/passwd", "video", root)[0]
