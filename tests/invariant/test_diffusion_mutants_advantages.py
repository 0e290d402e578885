"""What advantages promise, checked on ours and on ours with each known bug planted: every bug is caught.

A check takes the module; it must pass for rlkit.advantages and fail for the mutants that name it.
"""

import numpy as np
import pytest
import torch

from rlkit import advantages

NAN = float("nan")
IDS = torch.tensor([4, 9, 4, 9, 4, 9, 2, 2, 2])  # as samples of several processes come together
REWARDS = torch.tensor([1.0, 20.0, 2.0, 21.0, 4.0, 25.0, -3.0, -3.5, -5.0])


def by_hand(rewards, ids):
    """(r - mean) / (std + 1e-4) of every group, in numpy."""
    expected = np.zeros(len(rewards))
    for group in np.unique(ids):
        values = np.asarray(rewards)[np.asarray(ids) == group]
        expected[np.asarray(ids) == group] = (values - values.mean()) / (values.std() + 1e-4)
    return torch.from_numpy(expected).float()


# ---- what must hold -------------------------------------------------------------------------------------------------


def check_groups(module):
    """Each sample is compared with the samples that share its id, wherever they stand."""
    for order in (torch.arange(9), torch.randperm(9, generator=torch.Generator().manual_seed(0))):
        found = module.group_relative(REWARDS[order], IDS[order])
        assert torch.allclose(found.values, by_hand(REWARDS[order], IDS[order]), atol=1e-5)


def check_global_std(module):
    """The global std is of all rewards, and the mean stays the group's."""
    means = torch.stack([REWARDS[group == IDS].mean() for group in IDS])
    found = module.group_relative(REWARDS, IDS, std="global")
    assert torch.allclose(found.values, (REWARDS - means) / REWARDS.std(correction=0), atol=1e-4)


def check_missing(module):
    """A missing reward is masked and counted, and leaves the others where they were."""
    rewards, ids = torch.cat([REWARDS, torch.tensor([NAN, NAN])]), torch.cat([IDS, torch.tensor([4, 2])])
    for std in ("group", "global"):
        found, without = (module.group_relative(*of, std=std) for of in ((rewards, ids), (REWARDS, IDS)))
        assert torch.allclose(found.values[:9], without.values, atol=1e-6)
        assert found.mask.tolist() == [True] * 9 + [False] * 2 and found.counts.missing == 2


def check_ties_teach_nothing(module):
    """Rewards that are all alike are masked and counted, even where their mean rounds to something else."""
    rewards = torch.cat([torch.full((3,), 0.1), REWARDS[:3]])
    found = module.group_relative(rewards, [0, 0, 0, 1, 1, 1])
    assert found.mask.tolist() == [False] * 3 + [True] * 3 and not found.values[:3].any()
    assert found.counts.zero_variance_groups == 1


def check_noise_teaches_nothing(module):
    """A spread below the reward's own noise is no signal, however far the std blows it up."""
    found = module.group_relative(torch.tensor([0.5, 0.5004, 0.1, 0.9]), [0, 0, 1, 1], min_spread=1e-3)
    assert found.mask.tolist() == [False, False, True, True]


def check_lone_samples(module):
    """One reward is no group."""
    found = module.group_relative(torch.tensor([3.0, NAN, 1.0, 2.0]), [0, 0, 1, 1])
    assert found.mask.tolist() == [False, False, True, True] and found.counts.small_groups == 1


def check_clip(module):
    """Advantages stay within +-clip."""
    rewards = torch.cat([torch.zeros(99), torch.ones(1)])
    assert module.group_relative(rewards, [0] * 100).values.max() == 5


def check_complete(module):
    """Where groups must be complete, one that is not is refused."""
    with pytest.raises(ValueError, match="groups are incomplete"):
        module.group_relative(REWARDS[:-1], IDS[:-1], group_size=3)


def check_labels(module):
    """Ties make no pair, and a missing reward never wins or loses."""
    rewards = torch.tensor([0.5, 0.5, 1.0, 2.0, NAN, -1.0, NAN, -2.0])
    found = module.extremes(rewards, [0, 0, 1, 1, 1, 2, 2, 2])
    assert (found.best.tolist(), found.worst.tolist(), found.ties) == ([3, 5], [2, 7], 1)


def check_scales(module):
    """No reward weighs more for being measured in smaller units."""
    other = REWARDS.flip(0)
    found = module.gdpo(torch.stack([REWARDS, 1000 * other], 1), IDS).values
    assert torch.allclose(found, module.gdpo(torch.stack([REWARDS, other], 1), IDS).values, atol=1e-2)
    assert found.std(correction=0).item() == pytest.approx(1, abs=1e-3)


def check_one_of_two_missing(module):
    """Where one reward exists for nobody, the other decides at full weight: as large as where both agree."""
    partly = torch.where(IDS == 4, NAN, REWARDS)
    found = module.gdpo(torch.stack([REWARDS, partly], 1), IDS).values
    assert torch.allclose(found, module.gdpo(torch.stack([REWARDS, REWARDS], 1), IDS).values, atol=1e-4)


def check_past(module):
    """A prompt with a past is compared with it, a new one with the batch; missing rewards leave no trace."""
    statistics = module.PromptStatistics(min_count=4)
    statistics.update(torch.tensor([1.0, 3.0, NAN]), [0, 0, 0])
    found = statistics.update(torch.tensor([5.0, 7.0, NAN, 10.0]), [0, 0, 0, 1])
    past, batch = np.array([1.0, 3.0, 5.0, 7.0]), np.array([5.0, 7.0, 10.0])
    expected = [(5 - past.mean()) / past.std(), (7 - past.mean()) / past.std(), 0, (10 - batch.mean()) / batch.std()]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-4)
    assert found.mask.tolist() == [True, True, False, True]


CHECKS = [
    check_groups, check_global_std, check_missing, check_ties_teach_nothing, check_noise_teaches_nothing,
    check_lone_samples, check_clip, check_complete, check_labels, check_scales, check_one_of_two_missing, check_past,
]  # fmt: skip
GROUPS = "unique, group = _integers(group_ids, rewards).unique(return_inverse=True)"
VALID = "valid = rewards.isfinite()\n    filled"
MUTANTS = {
    "groups by place": (check_groups, GROUPS, GROUPS + "\n    group = torch.arange(len(group)) // 3"),
    "one group for all": (check_groups, GROUPS, GROUPS + "\n    group = torch.zeros_like(group)"),
    "the mean of the batch": (check_groups, "filled - mean[group])", "filled - filled.mean(0))"),
    "the std of the batch": (check_groups, 'if std == "group":', "if False:"),
    "epsilon in place of the std": (check_groups, "clamp(min=1)).sqrt()[group] + epsilon",
                                    "clamp(min=1)).sqrt()[group] * 0 + epsilon"),
    "global mean with the global std": (check_global_std, "filled - mean[group])", "filled - filled.mean(0))"),
    "NaN as 0": (check_missing, VALID, "rewards = rewards.nan_to_num()\n    " + VALID),
    "NaN as 0 in the std": (check_missing, "(filled - filled.sum(0) / number).masked_fill(~valid, 0.0)",
                            "filled - filled.sum(0) / number"),
    "NaN as a value": (check_missing, VALID, VALID.replace("rewards.isfinite()", "torch.ones_like(rewards).bool()")),
    "missing not counted": (check_missing, "missing=int((~valid.any(1)).sum())", "missing=0"),
    "zero variance kept": (check_ties_teach_nothing, "several & (high - low > min_spread)", "several"),
    "zero variance not counted": (check_ties_teach_nothing, "int((~small & ~varied.any(1)).sum())", "0"),
    "tiny gaps blown up": (check_noise_teaches_nothing, "high - low > min_spread", "high - low > 0"),
    "a lone sample kept": (check_lone_samples, "several = number >= 2", "several = number >= 0"),
    "no clip": (check_clip, "return Advantages(values if clip is None else values.clamp(-clip, clip), mask, compared",
                "return Advantages(values, mask, compared"),
    "incomplete groups taken": (check_complete, "if group_size is not None:", "if False:"),
    "ties as labels": (check_labels, "rewards[best] - rewards[worst] > min_margin", "True"),
    "NaN wins": (check_labels, "(ids == group) & rewards.isfinite()", "ids == group"),
    "best and worst swapped": (check_labels, "members[rewards[members].argmax()], members[rewards[members].argmin()]",
                               "members[rewards[members].argmin()], members[rewards[members].argmax()]"),
    "rewards summed before they are normalised": (
        check_scales, "total = (weigh * compared.z).sum(1) * full",
        "total = group_relative((weigh * rewards[:, used]).sum(1), group_ids, clip=None).values"),
    "the sum not normalised": (check_scales, "total = (total - kept.mean()) / (kept.std(correction=0) + epsilon)",
                               "pass"),
    "a missing one of two as the mean": (check_one_of_two_missing, "(weigh * compared.z).sum(1) * full",
                                         "(weigh * compared.z).sum(1)"),
    "NaN remembered": (check_past, "own = (ids == prompt) & valid", "own = ids == prompt"),
    "the past ignored": (check_past, "len(past) >= self.min_count", "False"),
    "a short past trusted": (check_past, "len(past) >= self.min_count", "True"),
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_our_advantages_hold(check):
    check(advantages)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_caught(planted, name):
    check, old, new = MUTANTS[name]
    mutant = planted(advantages, old, new)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(mutant)


def test_every_check_can_fail():
    assert {check for check, _, _ in MUTANTS.values()} == {*CHECKS}
