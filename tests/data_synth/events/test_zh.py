"""Chinese: relations of connectives, spans, and the gold set of hand-written captions."""

import json
from pathlib import Path

import pytest

from data_synth.events import AFTER, BEFORE, SIMULTANEOUS, UNKNOWN, parse
from data_synth.negatives import order_swap

GOLD = [json.loads(x) for x in (Path(__file__).parents[1] / "gold_zh.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("他先洗手，再吃饭。", BEFORE),
        ("女孩放下书包，随后坐到椅子上。", BEFORE),
        ("男孩爬上滑梯，最后滑了下来。", BEFORE),
        ("洗完手之后，他开始切菜。", BEFORE),
        ("吃饭之前，小男孩洗了手。", AFTER),
        ("他一边唱歌，一边跳舞。", SIMULTANEOUS),
        ("男人在弹琴，同时女人在唱歌。", SIMULTANEOUS),
        ("厨师切菜时，水在锅里沸腾。", SIMULTANEOUS),
        ("男孩踢球，女孩跳绳。", UNKNOWN),
    ],
)
def test_relation(caption, kind):
    assert parse(caption).relation(0, 1).kind == kind


def test_spans_leave_out_connectives():
    caption = parse("洗完手之后，他开始切菜。然后他坐下。")
    assert [e.text for e in caption.events] == ["洗完手", "他开始切菜", "他坐下"]
    assert all(caption.text[e.start : e.end] == e.text for e in caption.events)


def test_jieba_names_the_verb_and_says_so():
    caption = parse("一个男人打开门，然后一只狗跑进来。", parser="jieba")
    assert caption.parser == "jieba"
    assert caption.events[0].verb in "打开门"


def test_dropped_subject_stays_dropped():
    assert order_swap.corrupt("女孩放下书包，随后坐到椅子上。").text == "女孩坐到椅子上，随后放下书包。"


def test_what_is_made_of_a_thing_does_not_come_before_it():
    assert order_swap.corrupt("机器人拿起积木，随后搭成一座塔。") is None


@pytest.mark.parametrize("caption", ["两个青年发生争吵，最后演变成冲突。", "镜头从山脉的广角镜头开始，然后拉近镜头。"])
def test_what_says_its_own_place_stays(caption):
    assert order_swap.corrupt(caption) is None


def test_gold_set_is_large_enough():
    assert len(GOLD) >= 200 and all({"caption", "events", "relations", "kind"} <= set(row) for row in GOLD)


def test_at_least_nine_in_ten_simultaneous_or_unordered_are_refused():
    rows = [row for row in GOLD if row["kind"] != "ordered"]
    refused = [all(order_swap.corrupt(row["caption"], seed=s) is None for s in range(3)) for row in rows]
    assert sum(refused) >= 0.9 * len(rows)


def test_at_least_85_percent_of_the_ordered_are_swapped_as_a_person_would():
    rows = [row for row in GOLD if row["kind"] == "ordered"]
    right = 0
    for row in rows:
        texts = {n.text for n in (order_swap.corrupt(row["caption"], seed=s) for s in range(3)) if n}
        right += bool(texts) and texts <= set(row["swapped"])
    assert right >= 0.85 * len(rows)
