"""Verbose tails: three kinds, told apart."""

import pytest

from data_synth.events import parse
from data_synth.negatives import verbose

CAPTION = "A red circle moves left. Then a blue square spins."


@pytest.mark.parametrize("kind", verbose.KINDS)
@pytest.mark.parametrize("caption", [CAPTION, "一个男人打开门，然后一只狗跑进来。"])
def test_the_caption_stays_whole_and_the_tail_is_marked(kind, caption):
    negative = verbose.corrupt(caption, kind=kind)
    (start, end), kept = negative.edit["rejected_spans"][0], negative.text[: len(caption)]
    assert (kept, end, negative.kind) == (caption, len(negative.text), f"verbose_{kind}")
    assert negative.text[start:end].strip()


def test_a_redundant_tail_adds_no_event():
    tail = verbose.corrupt(CAPTION, kind="redundant").text[len(CAPTION) :]
    assert any(event.verb in tail for event in parse(CAPTION).events)


def test_the_pool_is_used():
    negative = verbose.corrupt(CAPTION, kind="invented", pool=["A cat sleeps."])
    assert negative.text == CAPTION + " A cat sleeps."


def test_a_caption_without_full_stop_is_closed_between_and_left_open_at_the_end():
    assert verbose.corrupt("a man sings", kind="invented", pool=["A cat sleeps."]).text == "a man sings. A cat sleeps"


def test_number_of_sentences():
    negative = verbose.corrupt(CAPTION, kind="generic", sentences=3)
    assert negative.text[len(CAPTION) :].count(".") == 3
