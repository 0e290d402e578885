"""Pairs: chosen is true or best, rejected is wrong or worse, every rejected answer differs."""

from dataclasses import replace
from functools import partial

import pytest

from data_synth.records import pieces, text_of
from data_synth.world import draw_script, parse
from data_synth.world.clips import clip_row, events_of
from reward_models import event_order
from rlkit.caption import judges, pairs
from rlkit.recipe import PlugIn, Recipe

CLIPS = [clip_row(draw_script(0, i), "train", i, seed=0, noise=None) for i in range(30)]
OPERATORS = [PlugIn("order_swap"), PlugIn("verbose"), PlugIn("event_replace")]
RECIPE = Recipe(algorithm="dpo", negatives=OPERATORS, num_negatives=4)
JUDGE = partial(judges.by_reward(event_order.load(parse=events_of), "?"), reader=None)


def answers(record):
    return text_of(record["chosen"]), [text_of(one) for one in record["rejected"]]


def test_labelled_clips_choose_the_true_caption_and_reject_wrong_ones():
    records = list(pairs.labelled_pairs(CLIPS, RECIPE, question="?", pool=pairs.event_pool(CLIPS)))
    assert len(records) == len(CLIPS)
    for row, record in zip(CLIPS, records, strict=True):
        chosen, rejected = answers(record)
        assert chosen == row["true_caption"]
        assert len(set(rejected)) == len(rejected) == 4
        for text in rejected:
            told = parse(text)
            assert told.extra or [list(event) for event in told.events] != row["events"], text


def test_every_kind_is_drawn_and_weights_count():
    heavy = replace(RECIPE, negatives=[PlugIn("order_swap", weight=0.0), PlugIn("verbose")])
    kinds = {kind for record in pairs.labelled_pairs(CLIPS, heavy, question="?") for kind in record["rejected_kind"]}
    assert kinds
    assert not any("order_swap" in kind for kind in kinds)


def test_own_samples_that_are_right_are_never_rejected():
    recipe = replace(RECIPE, negatives=[PlugIn("own_samples")], num_negatives=2)
    samples = {
        CLIPS[0]["id"]: [CLIPS[0]["true_caption"], "A red ball grows."],
        CLIPS[1]["id"]: [CLIPS[1]["true_caption"]],
    }
    records = list(pairs.labelled_pairs(CLIPS[:2], recipe, question="?", samples=samples))
    assert [answers(record) for record in records] == [(CLIPS[0]["true_caption"], ["A red ball grows."])]


def test_unlabelled_clips_take_the_best_sample_and_reject_the_worst():
    row = CLIPS[0]
    sentences = [s + "." for s in row["true_caption"].rstrip(".").split(". ")]
    good, short = row["true_caption"], " ".join(sentences[:2])
    samples = {row["id"]: [short, good, "It is a calm scene.", good]}
    recipe = replace(RECIPE, num_negatives=2)
    (record,) = pairs.judged_pairs([row], recipe, question="?", samples=samples, judge=JUDGE)
    assert answers(record) == (good, ["It is a calm scene.", short])
    assert record["scores"]["judge"] == pytest.approx([1.0, 0.0, 0.8])  # F1 of 2 of 3 events is 0.8


def test_samples_the_judge_cannot_tell_apart_make_no_pair():
    row = CLIPS[0]
    samples = {row["id"]: ["It is a calm scene.", "Everyone will like it."]}
    assert list(pairs.judged_pairs([row], RECIPE, question="?", samples=samples, judge=JUDGE)) == []


def test_unscored_samples_are_masked_not_counted_as_zero():
    row = CLIPS[0]
    samples = {row["id"]: ["one text.", "another text.", "a third text."]}
    judge = lambda clips, texts: [[None, 0.9, 0.5]]  # noqa: E731
    (record,) = pairs.judged_pairs([row], RECIPE, question="?", samples=samples, judge=judge)
    assert answers(record) == ("another text.", ["a third text."])


def test_unreadable_samples_are_left_out():
    assert not pairs.readable("")
    assert not pairs.readable("A \x07 bell.")
    assert pairs.readable("一个红色的球向左移动。")


def test_pairs_are_deterministic():
    one, two = (list(pairs.labelled_pairs(CLIPS, RECIPE, question="?")) for _ in range(2))
    assert one == two


def test_a_pair_is_about_the_piece_of_the_video_that_its_caption_tells():
    row = {**CLIPS[0], "start": 1.0, "end": 2.5}
    labelled = next(pairs.labelled_pairs([row], RECIPE, question="?", pool=pairs.event_pool(CLIPS)))
    samples = {row["id"]: [CLIPS[0]["true_caption"], CLIPS[1]["true_caption"]]}
    judged = next(pairs.judged_pairs([row], RECIPE, question="?", samples=samples, judge=JUDGE))
    assert pieces(labelled) == pieces(judged) == [(row["video"], 1.0, 2.5)]
