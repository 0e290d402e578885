"""The blind audit: it finds planted leaks, finds none in shuffled labels, and balancing removes them."""

import json
import random
from collections import Counter

import numpy as np
import pytest
import scipy.sparse

from data_synth import audit, balance, probes
from data_synth.errors import DataError
from data_synth.pair_files import Pair, read_pairs

NOUNS = "dog cat bird horse man woman boy girl car bus tree house".split()
VERBS = "runs jumps sings sleeps turns falls rises stops".split()


def sentence(draw):
    return f"A {draw.choice(NOUNS)} {draw.choice(VERBS)} near the {draw.choice(NOUNS)}."


def made(count, change, seed=0):
    draw = random.Random(seed)
    texts = [" ".join(sentence(draw) for _ in range(3)) for _ in range(count)]
    return [Pair(f"clip {k}", text, change(text, draw), "made") for k, text in enumerate(texts)]


def test_a_longer_rejected_text_is_a_leak():
    entry = audit.audit(made(200, lambda t, d: t + " " + sentence(d)))["operators"]["made"]
    assert entry["length"] > 0.97 and entry["blind"] > 0.97 and entry["chosen_longer"] == 0.0


def test_shuffled_labels_are_told_half_of_the_time():
    draw = random.Random(1)
    pairs = made(800, lambda t, d: t + " " + sentence(d) if d.random() < 0.5 else sentence(d))
    turned = [Pair(p.source_id, p.rejected, p.chosen, p.kind) if draw.random() < 0.5 else p for p in pairs]
    entry = audit.audit(turned)["overall"]
    assert all(abs(entry[name] - 0.5) <= 0.06 for name in (*probes.PROBES, "blind"))


def test_equal_texts_are_ties_and_count_half():
    entry = audit.audit(made(50, lambda t, d: t))["overall"]
    assert entry["blind"] == 0.5


def test_turning_a_pair_turns_its_margin():
    rows = probes.difference(probes.ngram, ["a b", "c d"], ["b c", "a a"])
    turned = probes.difference(probes.ngram, ["b c", "a a"], ["a b", "c d"])
    assert abs(rows + turned).sum() == 0


def test_folds_keep_a_source_together():
    groups = [f"s{k % 7}" for k in range(70)]
    fold = probes.folds(groups, 5)
    assert all(len(set(fold[[g == s for g in groups]])) == 1 for s in set(groups))


def test_without_grouping_the_same_source_leaks():
    """Trap 12: every source says its own thing; grouped by source there is nothing to learn, ungrouped there is."""
    draw = random.Random(3)
    pairs = []
    for k in range(60):
        good, bad = f"word{k}a", f"word{k}b"
        if draw.random() < 0.5:
            good, bad = bad, good
        pairs += [(f"clip {k}", f"{good} {draw.choice(NOUNS)}", f"{bad} {draw.choice(NOUNS)}") for _ in range(6)]
    matrix = probes.difference(probes.ngram, [p[1] for p in pairs], [p[2] for p in pairs])
    grouped = probes.hits(probes.margins(matrix, probes.folds([p[0] for p in pairs], 5))).mean()
    ungrouped = probes.hits(probes.margins(matrix, probes.folds([str(k) for k in range(len(pairs))], 5))).mean()
    assert ungrouped > 0.9 and abs(grouped - 0.5) < 0.12


def test_moved_equals_the_difference_of_positions_and_of_words():
    pairs = [
        ("A dog runs. A cat sits. A man sings. It ends.", "A dog runs. A man sings. A cat sits. It ends."),
        ("A dog runs, then, a cat sits.", "A cat sits, then a dog runs, runs."),
        ("It ends.", "It ends."),
        ("狗跑进来。猫坐下。人笑了。", "猫坐下。狗跑进来。人笑了。"),
        ("One. Two. Three. Four. Five. Six.", "One. Two. Three. Five. Four."),
    ]
    expected = []
    for chosen, rejected in pairs:
        single = Counter(probes.words(chosen))
        single.subtract(probes.words(rejected))
        expected.append(probes.contrast(probes.position, chosen, rejected) | {f"w {w}": n for w, n in single.items()})
    found = probes.moved(pairs)
    assert abs(found - probes.hashed(expected)).max() == 0 and found.nnz > 60


def test_interval_covers_the_share_and_resamples_sources():
    hits = np.array([1.0, 0.0] * 50)
    found = audit.accuracy(hits, [str(k) for k in range(100)])
    assert (
        found.value == 0.5 and found.low == pytest.approx(0.4, abs=0.03) and found.high == pytest.approx(0.6, abs=0.03)
    )
    whole = audit.accuracy(np.repeat([1.0, 0.0], 50), ["a"] * 50 + ["b"] * 50)
    assert (whole.low, whole.high) == (0.0, 1.0)


def leaky(text, draw):
    words = text.split()
    words[1] = "sheep" if draw.random() < 0.7 else draw.choice(NOUNS)
    return " ".join(words)


def test_balancing_removes_a_planted_leak_and_keeps_pairs():
    pairs = made(700, leaky)
    texts = [p.chosen for p in pairs], [p.rejected for p in pairs], [p.source_id for p in pairs]
    before = audit.audit(pairs)["overall"]["blind"]
    keep = balance.balance(*texts)
    after = audit.audit([p for p, k in zip(pairs, keep, strict=True) if k])["overall"]["blind"]
    assert before > 0.75 and after < 0.6 and keep.mean() > 0.2


def test_too_few_pairs_are_left_alone():
    pairs = made(50, leaky)
    assert balance.balance([p.chosen for p in pairs], [p.rejected for p in pairs], [p.source_id for p in pairs]).all()


def test_refine_keeps_as_many_as_probes_fitted_anew_allow():
    rng = np.random.default_rng(0)
    leak = np.where(rng.random(4000) < 0.75, 1.0, -1.0) * rng.random(4000)  # its sign tells three pairs in four
    matrix = scipy.sparse.csr_matrix(np.stack([leak, rng.normal(size=4000)], 1))
    sources, priority = [str(k) for k in range(4000)], rng.random(4000)
    folds = np.array([balance.fold_of(s) for s in sources])
    kept = {}
    for enough in (0.55, 0.65):
        fitted = balance.refine(matrix, sources, priority, most=2.5, enough=enough)
        stay = balance.kept(fitted, matrix, folds, priority)
        kept[enough] = stay.sum()
        assert (leak[stay] > 0).mean() <= enough + 0.02
    assert kept[0.65] > kept[0.55] > 1800


def test_a_length_neutral_mixture():
    draw = random.Random(2)
    longer = made(1500, lambda t, d: t + " " + " ".join(sentence(d) for _ in range(d.randint(1, 3))), 1)
    shorter = [
        Pair(f"other {k}", p.rejected, p.chosen, "cut")
        for k, p in enumerate(made(900, lambda t, d: t + " " + sentence(d), 5))
    ]
    pairs = longer + shorter
    draw.shuffle(pairs)
    keep = balance.length_neutral([p.chosen for p in pairs], [p.rejected for p in pairs], [p.source_id for p in pairs])
    entry = audit.audit([p for p, k in zip(pairs, keep, strict=True) if k])["overall"]
    assert abs(entry["length"] - 0.5) <= 0.03 and entry["length_ratio_ks"] < 0.05
    assert keep.sum() > 700  # one tail in three is a single sentence: about 500 of 1,500, so 1,000 pairs at most


def test_mirror_ks_by_hand():
    assert balance.mirror_ks(np.array([10.0, 20.0]), np.array([20.0, 10.0])) == 0.0
    assert balance.mirror_ks(np.array([10.0, 10.0]), np.array([20.0, 20.0])) == 1.0


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_exit_code_and_schema(tmp_path, capsys):
    clean = write(
        tmp_path / "clean.jsonl",
        [
            {"source_id": p.source_id, "chosen": p.chosen, "rejected": p.chosen, "kind": "none"}
            for p in made(40, lambda t, d: t)
        ],
    )
    assert audit.main([str(clean), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"n", "operators", "overall"} <= set(report)
    assert {"n", "length", "surface", "ngram", "position", "blind"} <= set(report["operators"]["none"])
    leaking = write(
        tmp_path / "leak.jsonl",
        [
            {"image": p.source_id, "caption": p.chosen, "negative_caption": p.rejected}
            for p in made(100, lambda t, d: t + " " + sentence(d))
        ],
    )
    assert audit.main([str(leaking)]) == 1
    assert audit.main([str(tmp_path / "none.jsonl")]) == 2
    assert "no file or folder" in capsys.readouterr().err


def test_messages_and_several_rejected_texts(tmp_path):
    def message(text):
        return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]

    rows = [
        {
            "source_id": "a",
            "chosen": message("yes"),
            "rejected": [message("no"), message("maybe")],
            "rejected_kind": ["x", "y"],
        }
    ]
    pairs = read_pairs(write(tmp_path / "p.jsonl", rows))
    assert [(p.chosen, p.rejected, p.kind) for p in pairs] == [("yes", "no", "x"), ("yes", "maybe", "y")]


def test_a_folder_of_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "source_id": ["a", "b"],
            "chosen": ["x", "y"],
            "rejected": [["u", "v"], ["w"]],
            "rejected_kind": [["k", "l"], ["k"]],
        }
    )
    pq.write_table(table, tmp_path / "shard-0.parquet")
    (tmp_path / "rejected_rows.jsonl").write_text("{}\n")
    assert [p.rejected for p in read_pairs(tmp_path)] == ["u", "v", "w"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"chosen": "a"}', "no field rejected"),
        ('{"chosen": 3, "rejected": "a"}', "field chosen"),
    ],
)
def test_a_broken_row_is_named(tmp_path, line, words):
    path = tmp_path / "p.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=words):
        read_pairs(path)
