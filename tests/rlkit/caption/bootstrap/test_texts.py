"""Captions that are alike: copies, near-duplicates, one a clip, clusters by events told, diversity."""

import numpy as np
import pytest

from rlkit.bootstrap import choose
from rlkit.caption.bootstrap import texts

LONG = "A red circle moves left. Then a blue square spins. Finally a green star grows."
NEAR = "A red circle moves left. Then a blue square spins. Finally a green star shrinks."
OTHER = "A white bar blinks. Then a grey ball moves up."


def test_overlap_is_jaccard_of_runs_of_four_words():
    one, other = ({"a b c d", "b c d e"}, {"b c d e", "c d e f", "d e f g"})
    assert texts.overlap(one, other) == pytest.approx(1 / 4)
    found = texts.likeness_of([LONG, NEAR, OTHER], [OTHER, LONG], near=0.8, clusters=6)
    assert [one.original for one in found] == [1, 1, 0]
    assert found[0].distance == 0 and found[0].copy and found[2].copy
    # 15 words make 12 runs; the last word is in one of them: 11 are shared of 13
    assert found[1].distance == pytest.approx(1 - 11 / 13) and found[1].copy


def test_clusters_are_events_told_up_to_a_number():
    found = texts.likeness_of(["A red circle spins.", OTHER, LONG, ""], [LONG], near=1.0, clusters=2)
    assert [one.cluster for one in found] == [1, 2, 2, 0]
    assert texts.shares(found) == {1: 0.25, 2: 0.5, 0: 0.25}


def accepted(said, clips, totals, near=0.8):
    decisions = texts.likeness_of(said, ["Nothing of that kind was ever seen here."], near=near, clusters=6)
    totals = np.array(totals, float)
    choose.accept(totals, decisions, 0.0, texts.one_a_clip(totals, clips, said, near))
    return decisions


def test_only_the_best_caption_of_a_clip_counts_even_where_it_is_refused():
    decisions = accepted([LONG, NEAR, OTHER], ["a", "b", "b"], [9, 8, 7])
    assert [one.reason for one in decisions] == [
        "accepted",
        "a near-duplicate of sample 0",
        "sample 1 of its clip is better",
    ]


def test_a_near_duplicate_is_found_beside_a_shorter_caption_that_shares_more_runs():
    """The first shares all twelve runs of the third, but is twice as long; the second is the third but for a word."""
    double = f"{LONG} {OTHER} The scene is calm and nothing else happens in it."
    decisions = accepted([double, NEAR, LONG], ["a", "b", "c"], [9, 8, 7])
    assert [one.accepted for one in decisions] == [True, True, False]
    assert decisions[2].reason == "a near-duplicate of sample 1"


def test_diversity_falls_when_captions_get_alike_and_when_they_get_short():
    varied = [LONG, OTHER]
    assert texts.diversity(varied) == 12 + 7  # runs of 15 and of 10 words
    assert texts.diversity([LONG, LONG]) < texts.diversity(varied)
    assert texts.diversity(["A red circle moves.", "A white bar blinks."]) == 2
