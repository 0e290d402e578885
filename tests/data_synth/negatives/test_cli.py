"""`rlkit negatives`: the output format, what passes through, the quarantine, determinism."""

import json

import pytest

from data_synth.negatives import cli

ROWS = [
    {"id": "a", "caption": "A red circle moves left. Then a blue square spins.", "licence": "MIT"},
    {
        "id": "b",
        "sentences": [
            "A man enters a room.",
            "He takes off his coat, hat, scarf, boots and gloves in the hall.",
            "Then he sits down.",
        ],
    },
    {"id": "c", "caption": "一个男人打开门，然后一只狗跑进来。"},
]
GOOD = {"id": "good", "caption": "A dog barks. Then a cat runs away."}
BAD = [
    "not json",
    "[1, 2]",
    '"text"',
    "null",
    "12",
    '{"id": "x", "caption": "cut off',
    "{}",
    '{"id": "x"}',
    '{"caption": "no id"}',
    '{"id": "", "caption": "A dog barks."}',
    '{"id": null, "caption": "A dog barks."}',
    '{"id": true, "caption": "A dog barks."}',
    '{"id": ["x"], "caption": "A dog barks."}',
    '{"id": {"a": 1}, "caption": "A dog barks."}',
    '{"id": "x", "caption": null}',
    '{"id": "x", "caption": 3}',
    '{"id": "x", "caption": ""}',
    '{"id": "x", "caption": "   "}',
    '{"id": "x", "caption": ["A dog barks."]}',
    '{"id": "x", "caption": {"text": "A dog barks."}}',
    '{"id": "x", "Caption": "A dog barks."}',
    '{"id": "x", "text": "A dog barks."}',
    '{"id": "x", "sentences": "A dog barks."}',
    '{"id": "x", "sentences": []}',
    '{"id": "x", "sentences": ["A dog barks.", ""]}',
    '{"id": "x", "sentences": ["A dog barks.", null]}',
    '{"id": "x", "sentences": ["A dog barks.", 3]}',
    '{"id": "x", "sentences": [["A dog barks."]]}',
    '{"id": "x", "sentences": {"0": "A dog barks."}}',
    '{"id": "x", "sentences": ["A dog barks."], "caption": "A dog barks."}',
    json.dumps({"id": "x", "caption": "A dog barks. " * 8000}),
    json.dumps({"id": "x", "sentences": ["A dog barks. " * 8000]}),
    json.dumps({"id": "x", "caption": "A dog \x00 barks."}),
    json.dumps({"id": "x", "caption": "A dog \x07 barks."}),
    json.dumps({"id": "x", "caption": "A dog \x1b[31m barks."}),
    json.dumps({"id": "x", "caption": "A dog \u202e barks."}),
    json.dumps({"id": "x", "caption": "A dog \x85 barks."}),
    '{"id": "x", "caption": "A dog \\ud800 barks."}',
    '{"id": "\\ud800", "caption": "A dog barks."}',
    json.dumps({"id": "x", "caption": "كلب ينبح ثم تهرب قطة بعيدا"}),
    json.dumps({"id": "x", "caption": "כלב נובח ואז חתול בורח"}),
    json.dumps({"id": "x", "caption": "собака лает, затем кошка убегает"}),
    json.dumps({"id": "x", "caption": "犬が吠える。それから猫が逃げる。ありがとうございます"}),
    json.dumps({"id": "x", "caption": "A dog barks and runs away 一只狗叫了然后跑开了"}),
    json.dumps({"id": "x", "caption": "🐶🐱🎉"}),
    json.dumps({"id": "x", "caption": "... !!! ???"}),
    json.dumps({"id": "x", "caption": "12345 67890"}),
    json.dumps({"id": "good", "caption": "The id of another row."}),
    '{"id": "x", "caption": "A dog barks."}}',
    "[" * 100_000,
]


def run(tmp_path, lines, *options):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines), encoding="utf-8")
    assert cli.main([str(source), "--out", str(out), *options]) == 0
    quarantine = tmp_path / "out.jsonl.rejected_rows.jsonl"
    return [[json.loads(x) for x in p.read_text(encoding="utf-8").splitlines()] for p in (out, quarantine)]


def test_one_line_per_pair_with_the_promised_fields(tmp_path):
    pairs, bad = run(tmp_path, ROWS, "--kinds", "order_swap,verbose")
    assert not bad
    assert all({"source_id", "chosen", "rejected", "kind", "edit"} <= set(pair) for pair in pairs)
    assert {pair["source_id"] for pair in pairs if pair["kind"] == "order_swap"} == {"a", "b", "c"}
    assert sum(pair["kind"].startswith("verbose") for pair in pairs) == 3


def test_sentence_positions_and_spans(tmp_path):
    pairs, _ = run(tmp_path, ROWS[1:2])
    pair = next(p for p in pairs if p["edit"]["sentences"] == [1, 2])
    (a, b), (c, d) = pair["edit"]["spans"], pair["edit"]["rejected_spans"]
    assert pair["chosen"][slice(*a)] == "He takes off his coat, hat, scarf, boots and gloves in the hall"
    assert pair["chosen"][slice(*b)] == "he sits down"
    assert (pair["rejected"][slice(*c)], pair["rejected"][slice(*d)]) == (
        "He sits down",
        "he takes off his coat, hat, scarf, boots and gloves in the hall",
    )


def test_other_fields_pass_through_unread(tmp_path):
    pairs, _ = run(tmp_path, [{**ROWS[0], "timestamps": "garbage", "kind": "mine"}])
    assert pairs[0]["timestamps"] == "garbage" and pairs[0]["licence"] == "MIT" and pairs[0]["input_kind"] == "mine"


def test_timestamps_change_nothing(tmp_path):
    rows = [{**ROWS[1], "timestamps": stamps} for stamps in ([[0, 9], [1, 8], [2, 7]], [[0, 1], [1, 2], [2, 3]])]
    outputs = [run(tmp_path, [row])[0] for row in rows]
    assert [p["rejected"] for p in outputs[0]] == [p["rejected"] for p in outputs[1]]


def test_fifty_bad_rows_are_named_and_the_rest_goes_on(tmp_path):
    assert len(BAD) == 50
    pairs, bad = run(tmp_path, [GOOD, *BAD, ROWS[0]])
    assert {p["source_id"] for p in pairs} == {"good", "a"}
    assert [b["row"] for b in bad] == list(range(2, 52))
    assert all(b["reason"] and b["raw"] for b in bad)
    named = [
        b["field"] for b in bad if b["raw"].startswith('{"') and b["raw"].endswith("}") and "}}" not in b["raw"][-2:]
    ]
    assert all(named)


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"id": "x", "caption": "caf\xe9"}\n' + json.dumps(ROWS[0]).encode())
    assert cli.main([str(source), "--out", str(tmp_path / "out.jsonl")]) == 0
    bad = json.loads((tmp_path / "out.jsonl.rejected_rows.jsonl").read_text())
    assert bad["row"] == 1 and "UTF-8" in bad["reason"]


def test_the_same_command_writes_the_same_bytes(tmp_path):
    rows = [{"id": i, "sentences": [*ROWS[1]["sentences"], f"Then the man counts to {i}."]} for i in range(300)]
    run(tmp_path, rows, "--kinds", "order_swap,verbose")
    first = (tmp_path / "out.jsonl").read_bytes()
    run(tmp_path, rows, "--kinds", "order_swap,verbose")
    assert (tmp_path / "out.jsonl").read_bytes() == first


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kinds", "order_swop"], "no operator called"),
        (["--kinds", "./none.py"], "no operator file"),
        (["--kinds", ","], "no operator named"),
    ],
)
def test_a_wrong_operator_is_one_sentence(tmp_path, capsys, options, words):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(GOOD))
    assert cli.main([str(source), "--out", str(tmp_path / "o.jsonl"), *options]) == 2
    assert words in capsys.readouterr().err


def test_an_operator_of_ones_own(tmp_path):
    own = tmp_path / "shout.py"
    own.write_text(
        "from data_synth.events import Negative\n"
        "def corrupt(caption, *, seed=0):\n    return Negative(caption.text.upper(), 'shout', {}, 'loud')\n"
    )
    pairs, _ = run(tmp_path, [GOOD], "--kinds", str(own))
    assert (pairs[0]["kind"], pairs[0]["rejected"]) == ("shout", GOOD["caption"].upper())


def test_the_kinds_of_a_package_helper_are_not_operators(tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(GOOD))
    assert cli.main([str(source), "--out", str(tmp_path / "o.jsonl"), "--kinds", "cli"]) == 2
