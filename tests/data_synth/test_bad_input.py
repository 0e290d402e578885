"""Fifty ways a row can be wrong: its place and field are named, the row is kept in the quarantine, the others go on."""

import json
from pathlib import Path

import pytest

from data_synth.errors import DataError
from data_synth.making import Operator, Options, build
from data_synth.sources import CaptionRow, read_captions

GOOD = "A man walks across the beach. Then he picks up a ball. Finally he throws it to the left."
ANSWER = [{"role": "assistant", "content": "A dog barks. Then it runs."}]
QUESTION = [{"role": "user", "content": "Describe the video."}]


def row(**columns) -> bytes:
    return json.dumps({"id": "bad", "caption": GOOD, **columns}, ensure_ascii=False).encode("utf-8", "surrogatepass")


def pair(**columns) -> bytes:
    return json.dumps({"prompt": QUESTION, "chosen": ANSWER, **columns}).encode()


def raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


CASES = {
    # name: (the line, the field that must be named, words the reason must hold)
    "wrong columns": (raw('{"id": "bad", "text": "A dog runs."}'), "caption", "its columns are id, text"),
    "nearly right column": (raw('{"id": "bad", "Caption": "A dog runs."}'), "caption", "must be `caption`"),
    "empty object": (raw("{}"), "caption", "its columns are none"),
    "caption missing, id there": (raw('{"id": "bad"}'), "caption", "expected caption or sentences"),
    "caption null": (row(caption=None), "caption", "has none"),
    "caption a number": (row(caption=7), "caption", "expected text"),
    "caption an object": (row(caption={"en": GOOD}), "caption", "expected text"),
    "caption a nested list": (row(caption=[["a"]]), "caption", "expected text"),
    "caption with a null inside": (row(caption=[GOOD, None]), "caption", "expected text"),
    "caption empty": (row(caption=""), "caption", "empty"),
    "caption of spaces": (row(caption=" \t\n "), "caption", "empty"),
    "caption of ideographic spaces": (row(caption="\u3000\u3000"), "caption", "empty"),
    "caption and sentences": (row(sentences=[GOOD]), "caption", "both"),
    "sentences a text": (raw('{"id": "bad", "sentences": "A dog runs."}'), "sentences", "list"),
    "sentences empty": (raw('{"id": "bad", "sentences": []}'), "sentences", "at least one"),
    "sentences with null": (raw('{"id": "bad", "sentences": ["A dog runs.", null]}'), "sentences", "expected text"),
    "sentences with a blank one": (raw('{"id": "bad", "sentences": ["A dog runs.", " "]}'), "sentences", "empty"),
    "100 kB caption": (row(caption="A dog runs. " * 9000), "caption", "limit"),
    "caption of 30,000 characters": (row(caption="A dog runs. " * 2500), "caption", "characters"),
    "emoji alone": (row(caption="🐶🏃‍♂️🎉"), "caption", "no word"),
    "digits alone": (row(caption="12345 67890"), "caption", "no word"),
    "punctuation alone": (row(caption="?!... ---"), "caption", "no word"),
    "two languages mixed": (row(caption="男人走过 and then he 拿起球 and throws it 给狗"), "caption", "two languages"),
    "Arabic, right to left": (row(caption="رجل يمشي على الشاطئ ثم يرمي الكرة"), "caption", "neither English"),
    "Hebrew, right to left": (row(caption="איש הולך על החוף ואז זורק כדור"), "caption", "neither English"),
    "Russian": (row(caption="Мужчина идёт по пляжу, потом бросает мяч"), "caption", "neither English"),
    "bidi override": (row(caption="A man \u202eslaw\u202c walks."), "caption", "U+202E"),
    "NUL character": (row(caption="A man\x00 walks."), "caption", "U+0000"),
    "bell": (row(caption="A man \x07 walks."), "caption", "U+0007"),
    "C1 control character": (row(caption="A man \x85 walks."), "caption", "U+0085"),
    "half a surrogate pair": (raw('{"id": "bad", "caption": "A man \\ud83d walks."}'), "caption", "U+D83D"),
    "not a character": (row(caption="A man \uffff walks."), "caption", "U+FFFF"),
    "id a list": (row(id=["bad"]), "id", "expected text or a whole number"),
    "id true": (row(id=True), "id", "expected text or a whole number"),
    "id blank": (row(id="  "), "id", "expected text or a whole number"),
    "id with a line break in its control": (row(id="a\x01b"), "id", "control"),
    "id a fraction": (row(id=1.5), "id", "expected text or a whole number"),
    "repeated id": (row(id="good0"), "id", "taken by"),
    "repeated caption of the same clip": (row(caption="A woman opens a door. Then she leaves."), "caption", "repeats"),
    "broken JSON": (raw('{"id": "bad", "caption": "A dog runs.'), "line", "not JSON"),
    "two objects in a line": (raw('{"id": "a"} {"id": "b"}'), "line", "not JSON"),
    "Python instead of JSON": (raw("{'id': 'bad', 'caption': 'A dog runs.'}"), "line", "not JSON"),
    "a list instead of an object": (raw('["A dog runs."]'), "line", "expected an object"),
    "NaN": (raw('{"id": "bad", "caption": "A dog runs.", "start": NaN}'), "line", "NaN"),
    "repeated key": (raw('{"id": "bad", "caption": "A dog runs.", "caption": "A cat."}'), "line", "twice"),
    "nested too deeply": (raw("[" * 100_000), "line", "recursion"),
    "Latin-1 bytes": (b'{"id": "bad", "caption": "Un caf\xe9 noir."}', "line", "not UTF-8"),
    "GBK bytes": ('{"id": "bad", "caption": "一只狗"}'.encode("gbk"), "line", "not UTF-8"),
    "video an address": (row(video="https://example.org/a.mp4"), "video", "address"),
    "video leaves the folder": (row(video="../../etc/passwd"), "video", "leaves"),
    "video a number": (row(video=3), "video", "path"),
    "videos with null": (row(videos=["a.mp4", None]), "videos", "path"),
    "start negative": (row(start=-1), "start", "from 0 on"),
    "end before start": (row(start=5, end=2), "end", "more than start"),
    "start a text": (row(start="0:05"), "start", "from 0 on"),
    "licence a list": (row(licence=["MIT"]), "licence", "expected text"),
    "pair without a rejected text": (pair(rejected=[]), "rejected", ""),
    "pair with equal answers": (pair(rejected=ANSWER), "rejected", "same text"),
    "conversation without an answer": (raw(json.dumps({"messages": QUESTION})), "messages", "assistant"),
    "conversation with an unknown role": (
        raw(json.dumps({"messages": [{"role": "narrator", "content": "Hm."}, *ANSWER]})), "messages", "role"),
}  # fmt: skip


def test_there_are_at_least_fifty_cases():
    assert len(CASES) >= 50


def good_lines() -> list[bytes]:
    captions = [GOOD, "A woman opens a door. Then she leaves.", "一个男人先打开门，然后走进房间，最后坐下。"]
    captions += [
        "A chef cuts an onion 🧅. Then he puts it into a pan.",
        "A naïve café owner waves. Then she sits down.",
    ]
    return [json.dumps({"id": f"good{k}", "caption": c}, ensure_ascii=False).encode() for k, c in enumerate(captions)]


@pytest.mark.parametrize("name", CASES)
def test_the_row_and_the_field_are_named_and_the_rest_goes_on(name, tmp_path):
    line, field, words = CASES[name]
    good = good_lines()
    source = tmp_path / "captions.jsonl"
    source.write_bytes(b"\n".join([*good[:3], line, *good[3:]]) + b"\n")
    out = tmp_path / "out"
    out.mkdir()
    options = Options([Operator("order_swap"), Operator("truncated")], balance="off")
    done = build(lambda: read_captions(source), out, options)
    assert done.rows == len(good) + 1 == done.pairs + done.quarantined + done.without_negative
    assert done.quarantined == 1 and done.pairs == len(good)
    told = json.loads((out / "rejected_rows.jsonl").read_text(encoding="ascii"))
    assert told["where"] == f"{source}:4"
    assert told["reasons"][0].startswith(field) and words in " ".join(told["reasons"])
    assert field in done.reasons
    assert told["row"] not in (None, "")


def test_every_problem_of_a_row_is_told_at_once(tmp_path):
    source = tmp_path / "captions.jsonl"
    source.write_bytes(row(caption="", start=-1, licence=3, video="../x.mp4"))
    (bad,) = read_captions(source)
    assert bad.fields() == {"caption", "start", "licence", "video"}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("captions.csv", b"id,caption\n1,A dog runs.\n", "expected a .jsonl"),
        ("captions.jsonl", "{}".encode("utf-16"), "UTF-16"),
        ("captions.parquet", b"PAR1 no more", "not a parquet file"),
        ("captions.json", b"[{]", "not JSON"),
    ],
)
def test_a_file_that_cannot_be_read_at_all_stops_with_its_name(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(read_captions(tmp_path / name))


def test_a_missing_file_and_no_file_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read_captions(tmp_path / "absent.jsonl"))
    with pytest.raises(DataError, match=r"data\.captions: not given"):
        list(read_captions(None))


def test_windows_files_are_read(tmp_path):
    source = tmp_path / "captions.jsonl"
    source.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(good_lines()) + b"\r\n\r\n")
    assert [type(one) for one in read_captions(source)] == [CaptionRow] * 5


def test_a_large_file_of_nothing_but_bad_rows_gives_an_empty_set(tmp_path):
    source, out = tmp_path / "captions.jsonl", tmp_path / "out"
    source.write_bytes(b"{}\n" * 500)
    out.mkdir()
    done = build(lambda: read_captions(source), Path(out), Options([Operator("order_swap")]))
    assert (done.rows, done.quarantined, done.pairs) == (500, 500, 0)
    assert (out / "pairs-00000.parquet").is_file()
