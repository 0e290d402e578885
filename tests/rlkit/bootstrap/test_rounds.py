"""When the loop ends, and which round is the best."""

from types import SimpleNamespace

from rlkit.bootstrap.rounds import best, ended, go_on


def rounds(*seen):
    """(held-out judge, diversity) of each round on the guard's prompts."""
    return [
        SimpleNamespace(number=at + 1, kept=[0], looked={"guard": {"held_out": held_out, "diversity": diversity}})
        for at, (held_out, diversity) in enumerate(seen)
    ]


def test_the_best_round_is_the_judges_among_those_that_kept_the_diversity():
    assert best(rounds((0.1, 10), (0.4, 9), (0.3, 9)), 0.3) == 1
    assert best(rounds((0.1, 10), (0.4, 6), (0.3, 9)), 0.3) == 2
    assert best(rounds((0.3, 10), (0.3, 10)), 0.3) == 0  # the earlier of equal ones


def test_it_ends_when_the_judge_no_longer_rises_or_diversity_is_lost_or_nothing_is_kept():
    limits = {"patience": 1, "max_diversity_drop": 0.3}
    assert ended(rounds((0.1, 10), (0.2, 8)), **limits) is None
    assert "not risen for 1 round" in ended(rounds((0.1, 10), (0.1, 10)), **limits)
    assert ended(rounds((0.1, 10), (0.1, 10)), patience=2, max_diversity_drop=0.3) is None
    assert "diversity" in ended(rounds((0.1, 10), (0.9, 6.9)), **limits)
    found = rounds((0.1, 10), (0.2, 8))
    found[-1].kept = []
    assert "kept no sample" in ended(found, **limits)


def test_ours_ends_and_goes_back_to_the_best_and_naive_goes_through_all():
    made = rounds((0.1, 10), (0.4, 9), (0.3, 9), (0.9, 9))
    limits = {"rounds": 4, "patience": 1, "max_diversity_drop": 0.3}
    ours = go_on(made[0], lambda one: made[one.number], naive=False, **limits)
    assert [one.number for one in ours.rounds] == [1, 2, 3]
    assert ours.last is made[1] and "not risen" in ours.stopped
    naive = go_on(made[0], lambda one: made[one.number], naive=True, **limits)
    assert len(naive.rounds) == 4 and naive.last is made[3] and naive.stopped is None
    alone = go_on(made[0], lambda one: made[one.number], naive=False, **limits | {"rounds": 1})
    assert alone.rounds == [made[0]] and alone.last is made[0]
