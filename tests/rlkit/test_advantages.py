"""Advantages have numpy's values group by group; what is missing or alike is left out and counted."""

import json

import numpy as np
import pytest
import torch

from rlkit import advantages

NAN = float("nan")
IDS = torch.tensor([7, 7, 3, 3, 7, 3, 11, 11, 11])
REWARDS = torch.tensor([1.0, 2.0, 0.5, 0.1, 4.0, 0.9, 5.0, 5.0, 5.5])


def by_group(rewards, ids):
    """(values, members) of each group."""
    rewards, ids = np.asarray(rewards, float), np.asarray(ids)
    return [(rewards[ids == group], ids == group) for group in np.unique(ids)]


def test_group_relative_is_grpos_formula():
    found = advantages.group_relative(REWARDS, IDS)
    expected = np.zeros(9)
    for values, members in by_group(REWARDS, IDS):
        expected[members] = (values - values.mean()) / (values.std() + 1e-4)
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert found.mask.all() and found.counts == advantages.Counts(9, 0, 3, 0, 0)


def test_global_std_keeps_the_groups_mean():
    found = advantages.group_relative(REWARDS, IDS, std="global")
    expected = np.zeros(9)
    for values, members in by_group(REWARDS, IDS):
        expected[members] = (values - values.mean()) / (REWARDS.numpy().std() + 1e-4)
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_no_std_only_centres():
    found = advantages.group_relative(REWARDS, IDS, std="none")
    assert found.values[[0, 1, 4]].tolist() == pytest.approx([1 - 7 / 3, 2 - 7 / 3, 4 - 7 / 3])


def test_the_order_of_a_batch_does_not_matter():
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    found = advantages.group_relative(REWARDS[order], IDS[order]).values
    torch.testing.assert_close(found, advantages.group_relative(REWARDS, IDS).values[order])


@pytest.mark.parametrize("nothing", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("std", ["group", "global"])
def test_a_missing_reward_changes_nothing_for_the_others(nothing, std):
    whole = advantages.group_relative(REWARDS, IDS, std=std)
    rewards, ids = torch.cat([torch.tensor([nothing]), REWARDS]), torch.cat([torch.tensor([3]), IDS])
    found = advantages.group_relative(rewards, ids, std=std)
    torch.testing.assert_close(found.values[1:], whole.values)
    assert not found.mask[0] and found.values[0] == 0 and found.mask[1:].all() and found.counts.missing == 1


def test_zero_variance_groups_are_dropped_and_counted():
    rewards = torch.tensor([0.1, 0.1, 0.1, 1.0, 2.0, 3.0])
    found = advantages.group_relative(rewards, [0, 0, 0, 1, 1, 1])
    assert found.mask.tolist() == [False] * 3 + [True] * 3 and found.counts.zero_variance_groups == 1
    assert not found.values[:3].any()


def test_min_spread_drops_gaps_that_are_noise():
    rewards = torch.tensor([0.5, 0.5001, 1.0, 2.0])
    assert advantages.group_relative(rewards, [0, 0, 1, 1]).mask.all()
    found = advantages.group_relative(rewards, [0, 0, 1, 1], min_spread=1e-3)
    assert found.mask.tolist() == [False, False, True, True] and found.counts.zero_variance_groups == 1


def test_a_group_with_one_reward_has_nothing_to_compare():
    found = advantages.group_relative(torch.tensor([1.0, NAN, 5.0, NAN, NAN]), [0, 0, 1, 2, 2])
    assert not found.mask.any() and found.counts == advantages.Counts(5, 3, 3, 0, 3)


def test_clip():
    rewards = torch.cat([torch.zeros(99), torch.ones(1)])
    free = advantages.group_relative(rewards, [0] * 100, clip=None)
    assert free.values.max() == pytest.approx(0.99 / (np.std(rewards.numpy()) + 1e-4), rel=1e-4)
    assert advantages.group_relative(rewards, [0] * 100).values.max() == 5


def test_incomplete_groups_are_refused_when_asked():
    advantages.group_relative(REWARDS, IDS, group_size=3)
    with pytest.raises(ValueError, match="groups are incomplete: 11 has 2, expected 3 samples each"):
        advantages.group_relative(REWARDS[:-1], IDS[:-1], group_size=3)


def test_text_is_no_group():
    with pytest.raises(ValueError, match="an id is 'a red fox', expected integers"):
        advantages.group_relative(REWARDS[:2], ["a red fox", "a red fox"])
    with pytest.raises(ValueError, match=r"ids are torch.float32 of shape \(9,\)"):
        advantages.group_relative(REWARDS, IDS.float())


def test_shapes_and_choices_are_checked():
    with pytest.raises(ValueError, match=r"rewards have shape \(9,\) with 2 ids, expected \[batch\]"):
        advantages.group_relative(REWARDS, [0, 1])
    with pytest.raises(ValueError, match="std is 'batch', expected"):
        advantages.group_relative(REWARDS, IDS, std="batch")
    with pytest.raises(ValueError, match="1 weights for 2 rewards"):
        advantages.gdpo(torch.ones(2, 2), [0, 0], weights=[1.0])
    with pytest.raises(ValueError, match="all weights are 0"):
        advantages.gdpo(torch.ones(2, 2), [0, 0], weights=[0.0, 0.0])


def test_none_is_nan():
    assert advantages.as_rewards([0.5, None]).isnan().tolist() == [False, True]
    assert advantages.as_rewards([[0.5, None], [1, 2.0]]).isnan().tolist() == [[False, True], [False, False]]
    assert advantages.as_rewards([]).shape == (0,)


def test_bf16_rewards_are_compared_in_fp32():
    assert advantages.group_relative(REWARDS.bfloat16(), IDS).values.dtype == torch.float32


# ---- several rewards ------------------------------------------------------------------------------------------------


def standardised(values):
    return (values - values.mean()) / (values.std() + 1e-4)


def test_gdpo_normalises_each_then_the_sum():
    both = torch.stack([REWARDS, 100 * REWARDS.flip(0)], 1)
    found = advantages.gdpo(both, IDS, weights=[1.0, 0.5])
    total = np.zeros(9)
    for weight, column in zip([1.0, 0.5], both.T, strict=True):
        for values, members in by_group(column, IDS):
            total[members] += weight * standardised(values)
    np.testing.assert_allclose(found.values.numpy(), standardised(total), rtol=1e-4, atol=1e-5)


def test_gdpo_does_not_follow_the_widest_reward():
    both = torch.stack([REWARDS, REWARDS.flip(0)], 1)
    wide = torch.stack([REWARDS, 1000 * REWARDS.flip(0)], 1)
    found, expected = advantages.gdpo(wide, IDS).values, advantages.gdpo(both, IDS).values
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_gdpo_of_one_reward_is_group_relative_normalised_again():
    once = advantages.group_relative(REWARDS, IDS).values.numpy()
    np.testing.assert_allclose(
        advantages.gdpo(REWARDS[:, None], IDS).values.numpy(), standardised(once), rtol=1e-4, atol=1e-6
    )


def test_gdpo_judges_by_the_rewards_that_are_there():
    """A reward that exists for no sample of some groups (text in pictures without text) leaves them to the other."""
    some = torch.where(IDS == 3, NAN, 1.0) * REWARDS.flip(0)
    found = advantages.gdpo(torch.stack([REWARDS, some], 1), IDS, weights=[1.0, 1.0], std="none")
    centred = np.zeros((2, 9))
    for at, column in enumerate([REWARDS, REWARDS.flip(0)]):
        for values, members in by_group(column, IDS):
            centred[at][members] = values - values.mean()
    total = np.where(IDS == 3, 2 * centred[0], centred[0] + centred[1])
    np.testing.assert_allclose(found.values.numpy(), standardised(total), rtol=1e-4, atol=1e-5)
    assert found.mask.all() and found.counts.missing == 0


def test_gdpo_masks_samples_without_any_reward_and_ignores_rewards_of_weight_0():
    rewards = torch.tensor([[1.0, NAN], [2.0, NAN], [NAN, NAN], [NAN, 3.0]])
    found = advantages.gdpo(rewards, [0, 0, 0, 0], weights=[1.0, 0.0])
    assert found.mask.tolist() == [True, True, False, False] and found.counts.missing == 2
    torch.testing.assert_close(found.values[:2], torch.tensor([-1.0, 1.0]), rtol=1e-3, atol=0)


def test_gdpo_drops_a_group_only_where_no_reward_varies():
    rewards = torch.tensor([[1.0, 5.0], [1.0, 6.0], [2.0, 3.0], [2.0, 3.0]])
    found = advantages.gdpo(rewards, [0, 0, 1, 1])
    assert found.mask.tolist() == [True, True, False, False] and found.counts.zero_variance_groups == 1


# ---- pairs ----------------------------------------------------------------------------------------------------------


def test_extremes_are_the_best_and_the_worst_of_each_group():
    found = advantages.extremes(REWARDS, IDS, min_margin=0.6)
    assert found.best.tolist() == [5, 4] and found.worst.tolist() == [3, 0]  # of groups 3 and 7
    torch.testing.assert_close(found.margin, torch.tensor([0.8, 3.0]))
    assert (found.ties, found.small_groups) == (1, 0)


def test_ties_and_missing_rewards_make_no_pair():
    found = advantages.extremes(torch.tensor([1.0, 1.0, 2.0, NAN, NAN, 3.0, 1.0]), [0, 0, 1, 1, 2, 2, 2])
    assert (found.best.tolist(), found.worst.tolist(), found.ties, found.small_groups) == ([5], [6], 1, 1)
    nothing = advantages.extremes(torch.tensor([1.0, 1.0]), [0, 0])
    assert nothing.best.shape == nothing.worst.shape == nothing.margin.shape == (0,)


# ---- a prompt's past ------------------------------------------------------------------------------------------------


def test_prompt_statistics_are_ddpos():
    """Ten batches against the algorithm of the paper written down with plain lists."""
    statistics = advantages.PromptStatistics(buffer_size=6, min_count=4)
    generator, past = np.random.default_rng(0), {}
    for _ in range(10):
        ids = generator.integers(0, 4, 12)
        rewards = generator.normal(size=12).astype(np.float32)
        expected = np.zeros(12)
        for prompt in np.unique(ids):
            own = rewards[ids == prompt]
            past[prompt] = [*past.get(prompt, []), *own][-6:]
            base = past[prompt] if len(past[prompt]) >= 4 else rewards
            expected[ids == prompt] = (own - np.mean(base)) / (np.std(base) + 1e-6)
        found = statistics.update(torch.from_numpy(rewards), torch.from_numpy(ids), clip=None)
        np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-4, atol=1e-6)
        assert found.mask.all()


def test_prompt_statistics_forget_nothing_over_a_restart():
    first, second = advantages.PromptStatistics(), advantages.PromptStatistics()
    rewards = torch.randn(40, generator=torch.Generator().manual_seed(0))
    first.update(rewards, [5] * 20 + [6] * 20)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert torch.equal(first.update(rewards, [5] * 40).values, second.update(rewards, [5] * 40).values)


def test_prompt_statistics_never_remember_what_is_missing():
    statistics = advantages.PromptStatistics(min_count=2)
    found = statistics.update(torch.tensor([1.0, NAN, 3.0]), [0, 0, 0])
    assert found.mask.tolist() == [True, False, True] and found.counts.missing == 1
    assert list(statistics.past[0]) == [1.0, 3.0]


def test_prompt_statistics_count_what_does_not_vary():
    statistics = advantages.PromptStatistics(min_count=2)
    found = statistics.update(torch.tensor([2.0, 2.0, 1.0, 3.0, NAN]), [0, 0, 1, 1, 2])
    assert found.mask.tolist() == [False, False, True, True, False]
    assert (found.counts.zero_variance_groups, found.counts.small_groups) == (1, 1)
    with pytest.raises(ValueError, match="min_count is 20, expected 2 to buffer_size"):
        advantages.PromptStatistics(min_count=20)


def test_rloo_compares_with_the_mean_of_the_others():
    rewards, ids = torch.cat([REWARDS, torch.tensor([NAN])]), torch.cat([IDS, torch.tensor([7])])
    found = advantages.rloo(rewards, ids)
    expected = np.zeros(10)
    for values, members in by_group(REWARDS, IDS):
        others = [(values.sum() - value) / (len(values) - 1) for value in values]
        expected[:9][members] = values - others
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert found.mask[:9].all() and not found.mask[9] and found.counts.missing == 1
