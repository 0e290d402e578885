"""event_replace: one event gives way to a foreign one."""

import pytest

from data_synth.events import with_events
from data_synth.negatives import event_replace

CAPTION = "A red circle moves left. Then a blue square spins."


def test_the_slot_keeps_its_case_and_marker():
    caption = with_events(CAPTION, [(0, 23), (30, 49)])
    pool = ["A green star grows."]
    assert event_replace.corrupt(caption, pool=pool, event=0).text == "A green star grows. Then a blue square spins."
    assert (
        event_replace.corrupt(caption, pool=pool, event=1).text == "A red circle moves left. Then a green star grows."
    )


def test_an_event_that_happened_is_never_drawn():
    assert event_replace.corrupt(CAPTION, pool=["a blue square spins"]) is None


@pytest.mark.parametrize(
    "caption",
    [
        "The camera follows the robot as it passes tools.",
        "A man lifts a box. Then he opens it.",
        "几个乘客上了公交车，正在买票。",
    ],
)
def test_an_event_that_its_neighbours_lean_on_stays(caption):
    pool = ["a bird pecks at the window"] if caption.isascii() else ["一只鸟飞走了"]
    for seed in range(6):
        negative = event_replace.corrupt(caption, pool=pool, seed=seed)
        assert negative is None or negative.edit["event"] > 0


@pytest.mark.parametrize("caption", ["A man walks.", "一个男人打开门。"])
def test_the_only_event_is_not_replaced(caption):
    assert all(event_replace.corrupt(caption, seed=s) is None for s in range(4))


def test_built_in_pool_in_both_languages():
    assert event_replace.corrupt(CAPTION).text != CAPTION
    assert event_replace.corrupt("一个男人打开门，然后一只狗跑进来。").kind == "event_replace"
