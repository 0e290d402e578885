"""Building pairs: whole, resumable, the same for any number of workers and ranks, incremental, nothing lost."""

import importlib
import importlib.util
import json
import threading
from pathlib import Path

import pytest

from data_synth import probes
from data_synth.check import check
from data_synth.making import Operator, Options, balancing, intake, remove, report
from data_synth.making.files import lines_of
from data_synth.records import read_records, shards_of, text_of
from data_synth.sources import read_captions

build_module = importlib.import_module("data_synth.making.build")
spec = importlib.util.spec_from_file_location("captions", Path(__file__).with_name("captions.py"))
captions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(captions)

OPERATORS = ["order_swap", "truncated", "verbose", "attribute_swap", "direction_flip"]


def options(**changed) -> Options:
    return Options(**{"operators": [Operator(name) for name in OPERATORS], "rows_per_shard": 20, **changed})


def make(source: Path, out: Path, chosen: Options | None = None, **how):
    out.mkdir(exist_ok=True)
    print_ = intake.fingerprint(source, None)
    return build_module.build(lambda: read_captions(source), out, chosen or options(), source=print_, **how)


def contents(out: Path) -> dict[str, bytes]:
    files = [*shards_of(out), out / "rejected_rows.jsonl"]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    source = captions.write(folder / "captions.jsonl", range(90))
    return source, folder / "out", make(source, folder / "out")


def test_every_caption_is_a_pair_or_accounted_for(built):
    _, out, done = built
    lines = (out / "rejected_rows.jsonl").read_text().splitlines() if (out / "rejected_rows.jsonl").exists() else []
    assert done.rows == 90 == done.pairs + len(lines)
    assert done.shards == 5 and len(shards_of(out)) == 5
    assert len(read_records(out)) == done.pairs > 45


def test_records_are_whole_and_say_where_they_come_from(built):
    source, out, _ = built
    by_id = {row["id"]: row["caption"] for row in map(json.loads, source.read_text().splitlines())}
    for record in read_records(out):
        assert not check(record)
        assert text_of(record["chosen"]) == by_id[record["source_id"]]
        assert 1 <= len(record["rejected"]) <= 4
        assert (record["tier"], record["seed"], record["rubric_version"]) == ("silver", 0, "1")
        for kind, edit in zip(record["rejected_kind"], record["edit"], strict=True):
            assert edit["operator"] in record["operator"].split("+") and edit["why"]
            assert kind.startswith(edit["operator"])


def test_lengths_are_neutral_in_each_shard(built):
    """A rejected answer that is longer has another that is shorter: their numbers are equal."""
    _, out, _ = built
    for shard in shards_of(out):
        signs = [
            (len(text_of(answer)) > len(text_of(record["chosen"])))
            - (len(text_of(answer)) < len(text_of(record["chosen"])))
            for record in read_records(shard)
            for answer in record["rejected"]
        ]
        assert signs.count(1) == signs.count(-1)


def test_four_workers_give_the_bytes_of_one(built, tmp_path):
    source, out, _ = built
    make(source, tmp_path / "out", workers=4)
    assert contents(tmp_path / "out") == contents(out)


def test_ranks_share_shards_and_fits_and_give_the_bytes_of_one(built, tmp_path, monkeypatch):
    source, out, _ = built
    (tmp_path / "out").mkdir()
    done, fit, fitted_by = {}, build_module.fit_operator, {}
    monkeypatch.setattr(
        build_module,
        "fit_operator",
        lambda *given: (fitted_by.update({given[2]: threading.current_thread()}), fit(*given)),
    )
    ranks = [
        threading.Thread(target=lambda r=r: done.update({r: make(source, tmp_path / "out", rank=r, world=3)}))
        for r in (2, 1, 0)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert contents(tmp_path / "out") == contents(out)
    assert done[0].pairs == built[2].pairs and done[1] is None and done[2] is None
    assert len(fitted_by) == len(set(fitted_by.values())) == 3  # of the five, two change the length by design
    assert list(done[0].seconds) == ["take_in", "make", "fit", "finish"] and min(done[0].seconds.values()) >= 0


@pytest.mark.parametrize("dies_in", ["make_shard", "finish_shard"])
def test_a_killed_build_goes_on_where_it_was(built, tmp_path, monkeypatch, dies_in):
    source, out, _ = built
    real, calls = getattr(build_module, dies_in), []

    def dying(work, chosen, shard):
        if shard == 3:
            raise KeyboardInterrupt
        calls.append(shard)
        real(work, chosen, shard)

    monkeypatch.setattr(build_module, dies_in, dying)
    with pytest.raises(KeyboardInterrupt):
        make(source, tmp_path / "out")
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.setattr(build_module, dies_in, lambda *given: (calls.append(given[2]), real(*given)))
    make(source, tmp_path / "out")
    assert calls == [0, 1, 2, 3, 4]
    assert contents(tmp_path / "out") == contents(out)


def test_only_new_and_changed_rows_are_made_anew(built, tmp_path):
    source, out = captions.write(tmp_path / "captions.jsonl", range(90)), tmp_path / "out"
    make(source, out)
    numbers = [95, *range(10), *range(11, 90)]  # one new in front, one gone
    captions.write(source, numbers, row40="A woman opens a window. Then she waves to the left and sits down.")
    again = make(source, out)
    assert again.made == 2 and again.rows == 90
    fresh = tmp_path / "fresh"
    make(source, fresh)
    assert contents(out) == contents(fresh)


def test_a_shorter_source_leaves_no_stale_shard(tmp_path):
    source, out = captions.write(tmp_path / "captions.jsonl", range(60)), tmp_path / "out"
    make(source, out)
    captions.write(source, range(15))
    assert make(source, out).made == 0
    assert len(shards_of(out)) == 1


def test_other_operators_make_all_rows_anew(tmp_path):
    source, out = captions.write(tmp_path / "captions.jsonl", range(30)), tmp_path / "out"
    make(source, out)
    assert make(source, out, options(operators=[Operator("order_swap")])).made == 30


def test_a_removed_source_takes_its_descendants_and_stays_away(tmp_path):
    source, out = captions.write(tmp_path / "captions.jsonl", range(60)), tmp_path / "out"
    make(source, out, options(rows_per_shard=60, balance="length"))
    before = {row["source_id"]: row for row in read_records(out)}
    lenders = [e["borrowed_from"] for row in before.values() for e in row["edit"] if "borrowed_from" in e]
    assert lenders  # verbose answers hold the end of another caption
    gone = lenders[0]
    remove.remove(out, [gone])
    after = {row["source_id"]: row for row in read_records(out)}
    for name, row in before.items():
        kept = [k for k, e in enumerate(row["edit"]) if e.get("borrowed_from") != gone]
        if name == gone or not kept:
            assert name not in after
        else:
            assert after[name]["rejected"] == [row["rejected"][k] for k in kept]
    left = [row["id"] for path in (out / ".work" / "made").glob("*.zst") for row in lines_of(path)]
    assert gone not in left and len(left) == 59
    again = make(source, out, options(rows_per_shard=60, balance="length"))
    assert again.made == 0 and again.reasons == {"id": 1}
    assert gone not in {row["source_id"] for row in read_records(out)}
    lines = [json.loads(line) for line in (out / "rejected_rows.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines if "removed" in line["reasons"][0]] == [{"id": gone}]


def test_near_duplicates_stay_in_one_split(tmp_path):
    pytest.importorskip("datasketch")
    texts = {f"row{n}": captions.shuffled(n) for n in range(0, 120, 2)}
    texts |= {f"row{n + 1}": text + " It ends." for n, text in zip(range(0, 120, 2), texts.values(), strict=True)}
    source = captions.write(tmp_path / "captions.jsonl", range(120), **texts)
    done = make(source, tmp_path / "out", options(splits={"train": 0.7, "test": 0.3}, balance="off"))
    assert sum(done.splits.values()) == 120 and min(done.splits.values()) > 10
    split = {row["source_id"]: path.parent.name for path in shards_of(tmp_path / "out") for row in read_records(path)}
    for n in range(0, 120, 2):
        assert split[f"row{n}"] == split[f"row{n + 1}"]


def test_the_report_counts_what_is_there(built):
    _, out, done = built
    found = report.write_report(out)
    answers = [kind for record in read_records(out) for kind in record["rejected_kind"]]
    assert found["n"] == len(answers) == json.loads((out / "audit.json").read_text())["n"]
    card = (out / "README.md").read_text()
    assert f"{done.pairs:,} preference pairs with {len(answers):,} rejected answers from {done.pairs:,} sources" in card


def test_a_large_set_is_audited_on_a_sample_that_does_not_depend_on_order(built, monkeypatch, tmp_path):
    source = built[0]
    monkeypatch.setattr(report, "AUDITED", 25)
    backwards = tmp_path / "captions.jsonl"
    backwards.write_text("".join(reversed(source.read_text().splitlines(keepends=True))))
    make(backwards, tmp_path / "off", options(balance="off", rows_per_shard=7))
    make(source, tmp_path / "on", options(balance="off"))
    first, second = (sorted((p.source_id, p.rejected) for p in report.audited(tmp_path / n)) for n in ("off", "on"))
    assert len(first) == 25 and first == second


def test_what_blind_probes_see_of_a_local_change_is_what_they_see_of_the_whole():
    """The n-gram contrast of the words around a change equals that of the whole texts: all else cancels."""
    pairs = [
        ("A man in a red coat walks. Then he turns left.", "A man in a blue coat walks. Then he turns left."),
        ("A dog runs.", "A dog runs. Then it barks."),
        ("Then a cat sits down slowly here.", "Then a cat sits up slowly here."),
        ("一个男人先打开门，然后坐下。", "一个女人先打开门，然后坐下。"),
    ]
    for chosen, rejected in pairs:
        whole = probes.contrast(probes.ngram, chosen, rejected)
        local = balancing.contrast(chosen, rejected)
        found = {key.removeprefix("ngram "): value for key, value in local.items() if key.startswith("ngram ")}
        assert {k: v for k, v in found.items() if "<s>" not in k and "</s>" not in k} == {
            k: v for k, v in whole.items() if "<s>" not in k and "</s>" not in k
        }
