"""Word diffs: pieces join to the texts, changes are whole words, Chinese is compared by character."""

import pytest

from rlkit.report.word_diff import word_diff

A = "A red circle moves left. Then a blue square spins."
B = "A blue square spins. Then a red circle moves left."


@pytest.mark.parametrize(
    ("before", "after"), [(A, B), ("", A), (A, ""), ("", ""), ("红圆动。", "蓝圆动了。"), ("\n <b>", "x")]
)
def test_pieces_join_to_the_texts(before, after):
    old, new = word_diff(before, after)
    assert "".join(text for text, _ in old) == before
    assert "".join(text for text, _ in new) == after


def test_only_the_changed_word_is_marked():
    old, new = word_diff("A red circle moves.", "A blue circle moves.")
    assert [text for text, changed in old if changed] == ["red"]
    assert [text for text, changed in new if changed] == ["blue"]


def test_a_changed_phrase_is_one_piece():
    _, new = word_diff("It stops.", "It stops. A lovely sight indeed.")
    assert [text for text, changed in new if changed] == ["A lovely sight indeed."]


def test_chinese_is_compared_by_character():
    old, new = word_diff("红色的圆向左移动", "红色的圆向右移动")
    assert [text for text, changed in old if changed] == ["左"]
    assert [text for text, changed in new if changed] == ["右"]


def test_equal_texts_have_no_change():
    assert word_diff(A, A) == ([(A, False)], [(A, False)])


def test_spaces_alone_are_never_marked():
    for old, new in (word_diff("a  b", "a b"), word_diff("x a", "a"), word_diff("a b c", "a c")):
        assert not any(changed and text != text.strip() for text, changed in old + new)
