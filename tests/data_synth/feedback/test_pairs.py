"""Pairs only where intervals separate, over all comparisons together; guards; records and rewards that others read."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from data_synth.feedback import guard, pairs
from data_synth.feedback.schema import Log
from data_synth.feedback.simulate import World, simulate
from data_synth.feedback.values import Options, Values, values
from data_synth.records import read_records, write_records


def table(value, variance, prompt=None, covariance=0.0, kind="normal", refused=()) -> Values:
    """Values as given, of one prompt or several."""
    value, variance = np.array(value, float), np.array(variance, float)
    count = len(value)
    prompt = np.zeros(count, int) if prompt is None else np.array(prompt)
    matrices = []
    for one in np.unique(prompt):
        entries = np.flatnonzero(prompt == one)
        matrix = np.full((len(entries),) * 2, covariance)
        np.fill_diagonal(matrix, variance[entries])
        matrices.append((entries, matrix))
    reasons = ["too few rows" if i in refused else None for i in range(count)]
    value[list(refused)] = np.nan
    half = 1.96 * np.sqrt(variance)
    ess = np.full(count, 1e9)
    return Values(
        prompt, np.arange(count), np.full(count, 1_000), value, value, value - half, value + half, variance, ess,
        reasons, kind, matrices,
    )  # fmt: skip


def test_two_items_separate_exactly_where_the_test_of_their_difference_says_so():
    for gap, separates in ((1.95, False), (1.97, True)):
        found = pairs.separate(table([0.0, gap], [0.5, 0.5]))
        assert found.comparisons == 1 and bool(found.pairs) == separates
    (pair,) = found.pairs
    assert (pair.chosen, pair.rejected) == (1, 0) and pair.level == pytest.approx(0.95)
    assert pair.p == pytest.approx(2 * stats.norm.sf(1.97))
    assert (pair.low, pair.high) == pytest.approx((1.97 - 1.959964, 1.97 + 1.959964), abs=1e-6)


def test_covariance_counts():
    """Two values that rise and fall together differ more surely than two that do not."""
    assert not pairs.separate(table([0.0, 1.5], [0.5, 0.5])).pairs
    assert pairs.separate(table([0.0, 1.5], [0.5, 0.5], covariance=0.4)).pairs


def test_chosen_pairs_are_those_of_benjamini_and_hochberg():
    rng = np.random.default_rng(0)
    value = rng.normal(0, 1.5, 40)
    found = pairs.separate(table(value, np.full(40, 0.5), prompt=np.repeat(range(20), 2)))
    z = np.abs(value[::2] - value[1::2])
    chosen = stats.false_discovery_control(2 * stats.norm.sf(z)) <= 0.05
    assert 0 < chosen.sum() < (z > 1.96).sum() < 20  # the correction matters here
    assert sorted(min(one.chosen, one.rejected) // 2 for one in found.pairs) == np.flatnonzero(chosen).tolist()
    for one in found.pairs:  # the interval, at the level of Benjamini and Yekutieli, is on one side of 0
        assert one.low > 0 and one.level == pytest.approx(1 - chosen.sum() * 0.05 / 20)


def test_familywise_is_bonferroni():
    value = np.array([0, 2.5, 0, 3.1])
    found = pairs.separate(table(value, np.full(4, 0.5), prompt=[0, 0, 1, 1]), multiplicity="familywise")
    assert [(one.chosen, one.level) for one in found.pairs] == [(1, 0.975), (3, 0.975)]
    among_many = table([0, 2.5] + [0, 0] * 50, np.full(102, 0.5), prompt=np.repeat(range(51), 2))
    assert not pairs.separate(among_many, multiplicity="familywise").pairs  # of 51 comparisons one is 2.5 by luck


def test_items_of_other_prompts_and_refused_items_are_not_compared():
    assert pairs.separate(table([0, 9], [0.1, 0.1], prompt=[0, 1])).comparisons == 0
    found = pairs.separate(table([0, 9, 99], [0.1, 0.1, 0.1], refused=[2]))
    assert found.comparisons == 1 and [(one.chosen, one.rejected) for one in found.pairs] == [(1, 0)]


def test_equal_items_make_hardly_any_pairs():
    """All items alike, all else biased: what separates is wrong. Expected: in 5 % of logs; raw rates: in all."""
    world = World(prompts=3, items=4, sessions=3_000, rounds=2, stay=1.0, gap=(1.0, 1.0), bait=0.0)
    world = replace(world, quality=(0.25, 0.25))
    with_pairs = raw = 0
    for seed in range(20):
        log = simulate(world, seed).log()
        with_pairs += bool(pairs.separate(values(log, Options())).pairs)
        raw += bool(pairs.separate(values(replace(log, propensity=None), Options(position="off"))).pairs)
    assert with_pairs <= 4  # 5 or more of 20 at 5 % each: 1 in 400
    assert raw == 20


@pytest.fixture(scope="module")
def simulated():
    """(made, log, values by click) of a world where every first item is bait."""
    made = simulate(World(prompts=3, items=4, sessions=9_000, bait=1.0, gap=(1.7, 2.0)), seed=0)
    log = made.log()
    return made, log, values(log, Options())


def test_planted_inversions_come_out_right_where_raw_rates_do_not():
    count = raw_wrong = wrong = sure_right = sure_wrong = 0
    for seed in range(3):
        made = simulate(World(), seed)
        found = values(made.log(), Options())
        entry = {pair: k for k, pair in enumerate(zip(found.prompt, found.item % 6, strict=True))}
        planted = [(entry[p, a], entry[p, b]) for p, a, b in made.inversions()]
        sure = {(one.chosen, one.rejected) for one in pairs.separate(found).pairs}
        count += len(planted)
        raw_wrong += sum(found.raw[a] <= found.raw[b] for a, b in planted)
        wrong += sum(not found.value[a] > found.value[b] for a, b in planted)
        sure_right += sum(pair in sure for pair in planted)
        sure_wrong += sum(pair[::-1] in sure for pair in planted)
    assert count >= 50 and raw_wrong >= 0.3 * count
    assert wrong < 0.05 * count and sure_wrong < 0.02 * count and sure_right > 0.8 * count


def test_bait_makes_no_pair_and_is_capped(simulated):
    made, log, found = simulated
    bait = made.bait[found.prompt, found.item % 4]
    compared = pairs.separate(found)
    assert any(bait[one.chosen] for one in compared.pairs)  # by clicks alone it would be preferred
    watched = guard.qualities(log, {"reported": guard.Guard("lower", 0.05)}, found, Options())
    refused: Counter = Counter()
    made_pairs = list(pairs.records(log, found, compared, watched, Options(), refused))
    names = {log.items[i] for i, is_bait in zip(found.item, bait, strict=True) if is_bait}
    assert made_pairs and not names & {one["edit"][0]["chosen_item"] for one in made_pairs}
    assert refused["reported: the chosen item is worse"] >= 1
    assert len(made_pairs) + refused.total() == len(compared.pairs)
    reward, reasons = guard.cap(watched, found)
    for entries, _ in found.covariance:
        sound = found.value[entries][~bait[entries]].mean()
        for entry in entries[bait[entries]]:
            assert reward[entry] == pytest.approx(min(sound, found.value[entry]))
    assert [reason is not None for reason in reasons] == (reward < found.value).tolist()


@pytest.mark.parametrize(
    ("chosen", "rejected", "said"),
    [
        ((0.30, 400), (0.10, 400), "the chosen item is worse"),
        ((0.11, 60), (0.10, 60), "not shown to be as good"),
        ((0.00, 60), (0.00, 60), "not shown to be as good"),  # no report of sixty is no proof
        ((0.00, 400), (0.00, 400), None),
        ((0.10, 4_000), (0.11, 4_000), None),
        ((0.00, 10), (0.00, 4_000), "too few clicks to compare"),
    ],
)
def test_guard_asks_for_proof(chosen, rejected, said):
    """(share of reported clicks, clicks) of two items; the chosen one must be shown not to be worse by 0.05."""
    item = np.repeat([0, 1], [chosen[1], rejected[1]])
    reported = np.concatenate([np.arange(n) < round(share * n) for share, n in (chosen, rejected)]).astype(float)
    rows = len(item)
    zeros = np.zeros(rows, np.int64)
    log = Log(
        ["p"], ["a", "b"], ["a", "b"], prompt=zeros, item=item, context=zeros, position=zeros + 1, click=np.ones(rows),
        session=np.arange(rows), extra={"reported": reported},
    )  # fmt: skip
    of = table([1.0, 0.0], [0.1, 0.1])
    watched = guard.qualities(log, {"reported": guard.Guard("lower", 0.05)}, of, Options())
    assert guard.refuse_pair(watched, 0, 1) == (said and f"reported: {said}")
    other_way = replace(log, extra={"reported": 1 - reported})
    turned = guard.qualities(other_way, {"reported": guard.Guard("higher")}, of, Options())
    assert guard.refuse_pair(turned, 0, 1) == (said and f"reported: {said}")


def test_records_are_read_by_others_and_carry_their_evidence(simulated, tmp_path):
    _, log, found = simulated
    compared = pairs.separate(found)
    made = list(pairs.records(log, found, compared, [], Options(), Counter()))
    written = write_records(made, tmp_path)
    assert written.kept == len(compared.pairs) and not written.quarantined
    one = read_records(tmp_path)[0]
    told = {name: value for name, value in one["scores"].items() if value is not None}
    assert told["click"][0] > told["click"][1] and told["difference"][0] > 0
    assert told["difference"][1] == pytest.approx(told["click"][0] - told["click"][1])
    assert told["comparisons"] == compared.comparisons and 0.9 < told["level"] < 1
    assert one["chosen"][0]["content"][0]["text"].startswith("Copy")
    assert one["rejected_kind"] == ["less_click"] and one["operator"] == "feedback" and one["tier"] == "bronze"
    assert log.completions[log.items.index(one["source_id"])] == one["chosen"][0]["content"][0]["text"]


def test_reward_table_keeps_every_item_and_weighs_by_what_is_not_noise():
    found = table([0.0, 1.0, 0.5], [0.01, 0.01, 4.0], refused=[])
    found = replace(found, item=np.arange(3))
    log = simulate(World(prompts=1, items=4, sessions=50), seed=0).log()
    rows = pairs.reward_table(log, found, []).to_pylist()
    assert [row["reward"] for row in rows] == [0.0, 1.0, 0.5]
    assert rows[0]["weight"] == rows[1]["weight"] >= rows[2]["weight"]
    refused = pairs.reward_table(log, table([0.0, 1.0, 0.5], [0.01] * 3, refused=[1]), []).to_pylist()
    assert refused[1]["reward"] is None and refused[1]["weight"] == 0 and refused[1]["refused"] == "too few rows"
    between = np.var([0.0, 0.5], ddof=1) - 0.01
    assert refused[0]["weight"] == pytest.approx(between / (between + 0.01))
