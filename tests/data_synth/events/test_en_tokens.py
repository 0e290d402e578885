"""Tokens of English captions: the quick ways say the same as the patterns that they stand in for."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_synth.events import background, en, mentions, narrative, steps
from data_synth.events.en_tokens import plain_words, tokens, words_in_order

PATTERN = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*|\d+(?:[.,]\d+)*|[^\w\s]")
TEXT = st.text(alphabet="aBzE ,.'’-3é\n", max_size=40)


@given(TEXT, st.integers(0, 5))
def test_tokens_are_those_of_the_pattern_and_stand_where_they_say(text, start):
    found = tokens(text, start)
    assert found.lower == [m.group().lower() for m in PATTERN.finditer(text, start)]
    assert [text[s:e].lower() for s, e in found.spans] == found.lower
    assert words_in_order(text[start:]) == found.lower


def test_only_plain_texts_are_split_at_spaces():
    assert plain_words("The man, who sits. Then") == ["the", "man", ",", "who", "sits", ".", "then"]
    assert all(plain_words(text) is None for text in ("it's", "a-b", "3 men", "a\nb", "é", "a_b", "", " "))


PREFILTERED = [
    (background._ALL_ALONG, background._ALL_ALONG_WORDS),
    (background._BACKGROUND, background._BACKGROUND_WORDS),
    (background._COUNTED_OFF, background._COUNTED_WORDS),
    (mentions._ORDER, mentions._ORDER_WORDS),
    (steps._SHOWN, steps._SHOWN_WORDS),
]


@pytest.mark.parametrize(("pattern", "needed"), PREFILTERED)
def test_no_pattern_matches_without_one_of_the_words_it_is_asked_for(pattern, needed):
    """Texts of the pattern's own words, those that it is not asked for without."""
    draw, matched = random.Random(0), 0
    told = sorted(set(re.findall("[a-z]{2,}", pattern.pattern)) | {"a", "he", "sits", "them"})
    rest = [word for word in told if word not in needed]
    for _ in range(3000):
        assert pattern.search(" ".join(draw.choices(rest, k=6))) is None
        matched += pattern.search(" ".join(draw.choices(told, k=6))) is not None
    assert matched > 10


def test_every_marker_opens_with_a_word_of_the_list_that_is_looked_at_first():
    for marker in "after that|meanwhile|next up|first of all|a few seconds later|in the background|also|now".split("|"):
        text = f"{marker.capitalize()}, he sits."
        assert en.leading_marker(text, 0, len(text))[0] in marker


def test_a_sentence_weighs_what_its_rows_weigh():
    low, table = "the people are dancing there while the dog sits", narrative.FIRST_WORD
    told = low.split()
    words = sum(w for w, pattern in table if any(re.fullmatch(pattern, word) for word in told))
    phrases = sum(w for w, pattern, _ in narrative.FIRST_PHRASE if re.search(pattern, low))
    expected = narrative.WORDS_FIRST * len(told) / 10 + words + phrases
    assert narrative._scores(low)[0] == pytest.approx(expected)
    assert words and phrases
