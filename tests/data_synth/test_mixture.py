"""The length-neutral mixture: mirror images in length and words, and a filter that drops what has no mirror image."""

import json
import random
from collections import Counter

from data_synth import balance, probes
from data_synth.events import parse
from data_synth.mixture import Mirror
from data_synth.negatives import cli

NOUNS = "dog cat bird horse man woman boy girl".split()
VERBS = "runs jumps sings sleeps turns falls rises stops".split()
PLACES = ["in the yard", "on a hill", "near the old wooden house", "", "under the bridge by the river"]


def story(draw):
    sentences = [
        " ".join(f"A {draw.choice(NOUNS)} {draw.choice(VERBS)} {draw.choice(PLACES)}".split()) + "."
        for _ in range(draw.randint(2, 5))
    ]
    return " ".join(sentences)


def test_the_end_of_one_caption_goes_to_one_of_the_size_of_the_rest():
    mirror = Mirror()
    cut = mirror.truncated(parse("A dog runs home. A cat sleeps in the yard."), 0)
    assert cut.text == "A dog runs home."
    assert mirror.verbose(parse("A man falls off a horse and gets up again."), 0) is None
    longer = mirror.verbose(parse("A man stops now."), 0)
    assert longer.text == "A man stops now. A cat sleeps in the yard."
    assert mirror.verbose(parse("A boy stops now."), 0) is None


def test_a_single_sentence_is_not_cut():
    assert Mirror().truncated(parse("A man sits down and then he sings."), 0) is None


def test_mirror_images_stay_and_the_rest_goes():
    texts = ["A dog runs.", "A cat sits. It sleeps.", "A dog runs. It sleeps.", "A cat sits."]
    keep = balance.length_neutral([texts[0], texts[1], "x"], [texts[2], texts[3], "x y z. a. b."], ["a", "b", "c"])
    assert keep.tolist() == [True, True, False]


def test_more_sentences_are_no_mirror_image_of_more_words():
    keep = balance.length_neutral(["A dog.", "A cat and an owl."], ["A dog. A car.", "A cat, oh."], ["a", "b"])
    assert not keep.any()


def test_the_command_writes_a_mixture_that_length_cannot_tell(tmp_path):
    draw = random.Random(4)
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"id": k, "caption": story(draw)}) + "\n" for k in range(700)))
    assert cli.main([str(source), "--out", str(out), "--kinds", "truncated,verbose", "--length-neutral"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    kinds = Counter(row["kind"] for row in rows)
    assert kinds["truncated"] == kinds["verbose_invented"] > 200
    chosen, rejected = [r["chosen"] for r in rows], [r["rejected"] for r in rows]
    gap = probes.difference(probes.length, chosen, rejected)
    hits = probes.hits(probes.margins(gap, probes.folds([str(r["source_id"]) for r in rows], 5)))
    assert hits.mean() <= 0.52  # below one half on few pairs: what a fold lacks is the mirror image of what it holds
    moved = Counter()
    for a, b in zip(chosen, rejected, strict=True):
        moved.update(probes.words(a))
        moved.subtract(probes.words(b))
    assert sum(abs(n) for n in moved.values()) <= 0.05 * sum(len(probes.words(a)) for a in chosen)
