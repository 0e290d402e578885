"""Scripts: pure in their arguments, and no script in two splits."""

import pytest

from data_synth.world.script import ACTIONS, CAMERA, SPLITS, draw_script, split_of


def test_the_same_arguments_give_the_same_script():
    assert draw_script(3, 17) == draw_script(3, 17)
    assert draw_script(3, 17) != draw_script(3, 18)
    assert draw_script(4, 17) != draw_script(3, 17)


def test_splits_share_no_event_sequence():
    drawn = {split: {draw_script(0, i, split=split).events for i in range(300)} for split in SPLITS}
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["dev"]
    assert all(split_of(events) == split for split in SPLITS for events in drawn[split])


def test_seeds_do_not_move_a_script_to_another_split():
    train = {draw_script(seed, i, num_events=(1, 1)).events for seed in range(5) for i in range(200)}
    test = {draw_script(seed, i, split="test", num_events=(1, 1)).events for seed in range(5) for i in range(200)}
    assert not train & test


def test_every_event_has_another_actor_and_another_action():
    for index in range(200):
        events = draw_script(1, index, num_events=(2, 4)).events
        assert 2 <= len(events) <= 4
        assert len({event.actor for event in events}) == len(events)
        assert len({event.action for event in events}) == len(events)


def test_spans_follow_each_other_without_gap():
    script = draw_script(0, 5, num_events=(4, 4))
    assert script.spans[0][0] == 0.0
    assert all(one[1] == other[0] for one, other in zip(script.spans, script.spans[1:], strict=False))
    assert script.duration == script.spans[-1][1]


def test_all_actions_and_camera_moves_occur():
    seen = {event.action for index in range(500) for event in draw_script(0, index).events}
    assert seen == {*ACTIONS, *CAMERA}


@pytest.mark.parametrize(("arguments", "word"), [({"split": "val"}, "split"), ({"num_events": (3, 2)}, "num_events")])
def test_wrong_arguments_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        draw_script(0, 0, **arguments)
