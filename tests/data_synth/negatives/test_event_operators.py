"""Operators on whole events: truncated, drop_event, insert_event, and the graded chains."""

import pytest

from data_synth.events import parse
from data_synth.negatives import drop_event, event_replace, graded, insert_event, truncated

CAPTION = "A red circle moves left. Then a blue square spins. Finally a green star grows."
CHINESE = "一个男人打开门，然后一只狗跑进来，最后他坐下。"


def test_truncated_at_an_event_boundary_and_closed():
    assert truncated.corrupt(CAPTION, keep=2).text == "A red circle moves left. Then a blue square spins."
    assert truncated.corrupt(CHINESE, keep=1).text == "一个男人打开门。"
    assert truncated.corrupt("A man sits down and then sings.", keep=1).text == "A man sits down."


@pytest.mark.parametrize("caption", [CAPTION, CHINESE])
def test_dangling_is_a_kind_of_its_own(caption):
    negative = truncated.corrupt(caption, dangling=True)
    assert negative.kind == "truncated_dangling"
    assert caption.startswith(negative.text) and negative.text[-1] not in ".。！!"


@pytest.mark.parametrize(
    ("operator", "caption"),
    [
        (truncated, "昏暗的天空下，一架飞机飞过。"),
        (truncated, "出门前，他换上皮鞋。"),
        (truncated, "男人用力时，手臂抬起来。"),
        (truncated, "固定镜头，一个男人跑过去。"),
        (truncated, "The referee starts and stops the game."),
        (insert_event, "A portrait of a cat."),
        (insert_event, "路牌后的一面张贴了各种海报的红色建筑物"),
        (insert_event, "一个老式的卡片相机的近景特写"),
        (insert_event, "字幕写着“狐狸跳过了懒狗。@2024！”"),
        (truncated, "他先洗手，再吃饭。"),
    ],
)
def test_a_setting_is_no_event(operator, caption):
    assert all(operator.corrupt(caption, seed=s) is None for s in range(4))


@pytest.mark.parametrize(
    "caption",
    [
        "A man puts a jack below the car. Then a boy turns the jack.",
        "A woman washes a dog. Then she continues to wash.",
        "几个人在骑摩托车，后面有几个警察。",
        "The referee starts and stops the game.",
        "一个孩子在河边玩耍，他的狗跟着他。",
        "男人不是在睡觉，而是在看电视。",
        "一个男人站在山坡上，背后是一个村落",
        "A man runs. A dog barks after a cat jumps.",
        "A ball flies off. As the man sprints, the players wait.",
    ],
)
def test_what_the_rest_leans_on_is_not_left_out(caption):
    assert drop_event.corrupt(caption, event=0) is None


def test_who_is_only_named_by_what_goes_is_not_spoken_of():
    assert drop_event.corrupt("摄影机固定在场景中，展示人物的表情，捕捉他们的变化。", event=1) is None


def test_what_opens_a_sequence_does_not_end_the_caption():
    assert drop_event.corrupt("狗跑来。他先洗手，再吃饭。", event=2) is None


def test_a_list_does_not_end_on_a_comma():
    caption = "The camera pans to the right, pauses briefly, and then tilts downward to a cat."
    assert truncated.corrupt(caption, keep=2) is None
    assert drop_event.corrupt(caption, event=2) is None


def test_a_sentence_does_not_end_the_list_of_another():
    caption = "People hurry past, cars glide by, and a bell rings. The sun shines."
    assert drop_event.corrupt(caption, event=len(parse(caption).events) - 2) is None


def test_steps_that_run_on_without_a_mark_are_not_cut():
    caption = (
        "drain and remove the seaweed from the water and cut into smaller pieces stir the noodles and drain cut the "
        "root off the onion and slice into pieces add the seaweed onion and noodles to the water boil the noodles"
    )
    for operator in (truncated, drop_event, event_replace):
        assert all(operator.corrupt(caption, seed=s) is None for s in range(8))


def test_the_end_of_the_caption_does_not_tell_which_is_the_true_one():
    caption = "a red circle moves left. then a blue square spins"
    for operator in (truncated, drop_event, insert_event):
        for seed in range(6):
            negative = operator.corrupt(caption, seed=seed)
            assert negative.text[-1] not in "." and negative.text[0].islower()


@pytest.mark.parametrize("operator", [truncated, drop_event])
def test_one_event_is_not_enough(operator):
    assert operator.corrupt("A man sings.") is None


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (0, "A blue square spins. Then a green star grows."),
        (1, "A red circle moves left. Then a green star grows."),
        (2, "A red circle moves left. Then a blue square spins."),
    ],
)
def test_connectives_keep_their_slots_when_an_event_goes(event, expected):
    assert drop_event.corrupt(CAPTION, event=event).text == expected


def test_the_subject_stays_when_the_first_event_goes():
    assert drop_event.corrupt("A man sits down. Then he sings.", event=0).text == "A man sings."
    assert drop_event.corrupt("一个男人坐下，然后唱歌。", event=0).text == "一个男人唱歌。"


def test_what_hangs_on_another_clause_is_not_dropped():
    assert drop_event.corrupt("A man sings before he sits down.", event=0) is None


def test_an_inserted_event_is_foreign_and_marked():
    negative = insert_event.corrupt(CAPTION, pool=["A cat sleeps."], after=0)
    ((start, end),) = negative.edit["rejected_spans"]
    assert negative.text[start:end].endswith("a cat sleeps.")
    assert len(parse(negative.text).sentences) == 4


def test_an_event_of_the_caption_is_never_inserted():
    assert insert_event.corrupt(CAPTION, pool=["A blue square spins."]) is None


def test_a_chain_counts_its_errors():
    links = graded.chain("A man in a red shirt walks left. Then he picks up two boxes. Finally a dog barks.", errors=4)
    assert [link.edit["errors"] for link in links] == [0, 1, 2, 3, 4]
    assert [len(link.edit["kinds"]) for link in links] == [0, 1, 2, 3, 4]
    assert len({link.text for link in links}) == 5


def test_a_chain_ends_where_nothing_more_can_be_wrong():
    assert len(graded.chain("It rains.", errors=9)) <= 3
    assert graded.corrupt("It rains.", errors=9) is None


@pytest.mark.parametrize(
    "name",
    [
        "order_swap",
        "truncated",
        "verbose",
        "drop_event",
        "insert_event",
        "event_replace",
        "graded",
        "direction_flip",
        "camera_swap",
        "attribute_swap",
        "count_change",
        "actor_swap",
    ],
)
@pytest.mark.parametrize(
    "caption", [CAPTION, CHINESE, "", "...", "🙂", "a", "。", "Two red dogs run left. The camera pans left."]
)
def test_every_operator_is_pure_and_differs_from_the_caption(name, caption):
    """One conformance test for the plug-ins: same seed, same negative; spans inside the texts; never the caption
    itself."""
    import importlib

    corrupt = importlib.import_module(f"data_synth.negatives.{name}").corrupt
    first, again = corrupt(caption, seed=7), corrupt(caption, seed=7)
    assert first == again
    if first is not None:
        assert first.text != caption and first.why
        assert all(0 <= s <= e <= len(caption) for s, e in first.edit.get("spans", []))
        assert all(0 <= s <= e <= len(first.text) for s, e in first.edit.get("rejected_spans", []))


def test_an_event_without_a_subject_does_not_open_a_sentence():
    caption = "A man opens a box. He takes out a ball and throws it. Then he waves."
    assert drop_event.corrupt(caption, event=1) is None
    assert drop_event.corrupt(caption, event=2).text == "A man opens a box. He takes out a ball and he waves."


def test_an_inserted_event_stands_where_no_pronoun_points_at_it():
    caption = "A man opens a door. He walks out."
    assert {insert_event.corrupt(caption, seed=s).edit["after"] for s in range(8)} == {1}


def test_the_connective_of_an_inserted_event_is_not_said_twice():
    for seed in range(8):
        negative = insert_event.corrupt("雨停了。随后天边出现一道彩虹。", seed=seed, after=0)
        assert negative.text.count("随后") == 1
