"""From rewards to advantages: relative to a group, to the batch or to a prompt's past, in fp32 (fp64 stays).

A group is what shares an id, all samples of one prompt: ids are integers, for text breaks where prompts are cut short.
A missing reward (None, NaN or infinite) masks its sample and counts, it is never 0. A group whose rewards are all alike
has nothing to teach, and is dropped and counted. Gather rewards and ids over processes first.

Papers: GRPO, https://huggingface.co/papers/2402.03300; Flow-GRPO (global std in its code),
https://huggingface.co/papers/2505.05470; GDPO, https://huggingface.co/papers/2601.05242; DDPO (statistics per prompt),
https://huggingface.co/papers/2305.13301; RLOO, https://huggingface.co/papers/2402.14740. Their formulas stand in the
docstrings.

Deviations: standard deviations are the population's, as in Flow-GRPO and DDPO (TRL takes the sample's). In `gdpo` a
sample that lacks one of its rewards is judged by the others at full weight (TRL counts it as the group's mean).
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Rewards = Float[Tensor, " batch"]
Ids = Int[Tensor, " batch"] | Sequence[int]


@dataclass(frozen=True)
class Counts:
    """What was left out and why."""

    samples: int
    missing: int
    """Samples without any reward."""
    groups: int
    zero_variance_groups: int
    """Dropped: best and worst reward are no further apart than min_spread."""
    small_groups: int
    """Dropped: fewer than two rewards, nothing to compare."""


@dataclass(frozen=True)
class Advantages:
    """One advantage a sample."""

    values: Rewards
    """0 outside of `mask`, where it must not be used."""
    mask: Bool[Tensor, " batch"]
    counts: Counts


@dataclass(frozen=True)
class Extremes:
    """The best and the worst sample of each group, for pairs."""

    best: Int[Tensor, " pairs"]
    worst: Int[Tensor, " pairs"]
    """Positions in the batch."""
    margin: Float[Tensor, " pairs"]
    ties: int
    """Groups left out: best and worst reward are no further apart than min_margin."""
    small_groups: int
    """Groups left out: fewer than two rewards."""


def as_rewards(values: Sequence[float | None] | Sequence[Sequence[float | None]]) -> Tensor:
    """[batch] or [batch, rewards] of what reward models return, NaN for None."""
    rows = [row if isinstance(row, Sequence) else [row] for row in values]
    numbers = torch.tensor([[torch.nan if value is None else float(value) for value in row] for row in rows])
    nested = len(values) > 0 and isinstance(values[0], Sequence)
    return numbers if nested else numbers.reshape(len(values))


# ---- groups ---------------------------------------------------------------------------------------------------------


def group_relative(
    rewards: Rewards,
    group_ids: Ids,
    *,
    std: Literal["group", "global", "none"] = "group",
    clip: float | None = 5.0,
    min_spread: float = 0.0,
    group_size: int | None = None,
    epsilon: float = 1e-4,
) -> Advantages:
    """(r - mean of its group) / (std + epsilon), clipped to +-clip, as in GRPO.

    `std`: of the group, of all rewards at once, or none (Dr. GRPO). The group's blows up gaps that are mere noise:
    raise `min_spread` (in units of the reward) to that noise. With `group_size` a group of any other size raises
    ValueError, missing rewards counted as members.
    """
    _check(rewards, group_ids, 1)
    compared = _compare(_widen(rewards)[:, None], group_ids, std, min_spread, group_size, epsilon)
    return _finish(compared.z[:, 0], compared, clip)


def rloo(rewards: Rewards, group_ids: Ids, *, min_spread: float = 0.0, group_size: int | None = None) -> Advantages:
    """r - mean of the others of its group (RLOO): that of `group_relative` without a std, times n / (n - 1), where n
    are the group's rewards that are there. Not clipped; else as group_relative."""
    _check(rewards, group_ids, 1)
    rewards = _widen(rewards)
    compared = _compare(rewards[:, None], group_ids, "none", min_spread, group_size, 0.0)
    ids = _integers(group_ids, rewards)
    number = ((ids[:, None] == ids) & rewards.isfinite()).sum(1)
    return _finish(compared.z[:, 0] * number / (number - 1).clamp(min=1), compared, None)


def gdpo(
    rewards: Float[Tensor, "batch rewards"],
    group_ids: Ids,
    *,
    weights: Sequence[float] | None = None,
    std: Literal["group", "global", "none"] = "group",
    clip: float | None = 5.0,
    min_spread: float = 0.0,
    group_size: int | None = None,
    epsilon: float = 1e-4,
) -> Advantages:
    """Each reward normalised by itself, weighed, summed, and the sum normalised over the batch (GDPO).

    A sum of raw rewards would follow the one with the widest spread. `weights` default to 1 and may be negative; else
    as group_relative. A group is dropped where no reward of it varies.
    """
    _check(rewards, group_ids, 2)
    if weights is not None and len(weights) != rewards.shape[1]:
        raise ValueError(f"gdpo: {len(weights)} weights for {rewards.shape[1]} rewards, expected one each.")
    rewards = _widen(rewards)
    weigh = rewards.new_tensor([1.0] * rewards.shape[1] if weights is None else list(weights))
    used = weigh != 0
    if not bool(used.any()):
        raise ValueError("gdpo: all weights are 0, expected at least one that is not.")
    weigh = weigh[used]
    compared = _compare(rewards[:, used], group_ids, std, min_spread, group_size, epsilon)
    full = weigh.abs().sum() / (weigh.abs() * compared.present).sum(1).clamp(min=1e-12)
    total = (weigh * compared.z).sum(1) * full
    kept = total[compared.kept.any(1)]
    if len(kept):
        total = (total - kept.mean()) / (kept.std(correction=0) + epsilon)
    return _finish(total, compared, clip)


def extremes(rewards: Rewards, group_ids: Ids, *, min_margin: float = 0.0) -> Extremes:
    """Winner and loser of each group, by reward; ties make no pair, for their order would be noise."""
    _check(rewards, group_ids, 1)
    rewards, ids = _widen(rewards), _integers(group_ids, rewards)
    pairs, ties, small = [], 0, 0
    for group in ids.unique():
        members = ((ids == group) & rewards.isfinite()).nonzero().flatten()
        if len(members) < 2:
            small += 1
            continue
        best, worst = members[rewards[members].argmax()], members[rewards[members].argmin()]
        if rewards[best] - rewards[worst] > min_margin:
            pairs.append(torch.stack([best, worst]))
        else:
            ties += 1
    best, worst = torch.stack(pairs, 1) if pairs else ids.new_zeros(2, 0)
    return Extremes(best, worst, rewards[best] - rewards[worst], ties, small)


# ---- a prompt's past ------------------------------------------------------------------------------------------------


class PromptStatistics:
    """Running mean and std of each prompt's rewards (DDPO), for batches without whole groups.

    A prompt with fewer than `min_count` rewards so far is compared with the batch. `buffer_size` is the number of
    rewards remembered a prompt; above it old ones are forgotten.
    """

    def __init__(self, *, buffer_size: int = 16, min_count: int = 16, epsilon: float = 1e-6) -> None:
        if not 2 <= min_count <= buffer_size:
            raise ValueError(f"min_count is {min_count}, expected 2 to buffer_size, which is {buffer_size}.")
        self.min_count, self.epsilon = min_count, epsilon
        self.past: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=buffer_size))

    def update(self, rewards: Rewards, prompt_ids: Ids, *, clip: float | None = 5.0) -> Advantages:
        """Remember these rewards, then compare each with its prompt's; missing ones are not remembered."""
        _check(rewards, prompt_ids, 1)
        rewards, ids = _widen(rewards), _integers(prompt_ids, rewards)
        valid = rewards.isfinite()
        values, mask = torch.zeros_like(rewards), torch.zeros_like(valid)
        zero_variance, small = 0, 0
        for prompt in ids.unique().tolist():
            own = (ids == prompt) & valid
            past = self.past[prompt]
            past.extend(rewards[own].tolist())
            base = rewards.new_tensor(list(past)) if len(past) >= self.min_count else rewards[valid]
            if len(base) < 2 or not own.any():
                small += 1
            elif base.max() == base.min():
                zero_variance += 1
            else:
                values[own] = (rewards[own] - base.mean()) / (base.std(correction=0) + self.epsilon)
                mask |= own
        values = values if clip is None else values.clamp(-clip, clip)
        missing = len(rewards) - int(valid.sum())
        return Advantages(values, mask, Counts(len(rewards), missing, len(ids.unique()), zero_variance, small))

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered, as JSON takes it."""
        return {"past": [[prompt, list(rewards)] for prompt, rewards in self.past.items()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.past.clear()
        for prompt, rewards in state_dict["past"]:
            self.past[prompt].extend(rewards)


# ---- shared ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Compared:
    z: Float[Tensor, "batch rewards"]
    present: Bool[Tensor, "batch rewards"]
    """The reward exists, and another of its group does."""
    kept: Bool[Tensor, "batch rewards"]
    """Present, and its group varies."""
    counts: Counts


def _compare(rewards, group_ids, std, min_spread, group_size, epsilon) -> _Compared:
    """Every reward against its group, [batch, rewards]."""
    if std not in ("group", "global", "none"):
        raise ValueError(f"std is {std!r}, expected 'group', 'global' or 'none'.")
    unique, group = _integers(group_ids, rewards).unique(return_inverse=True)
    if group_size is not None:
        _complete(unique, group, group_size)
    valid = rewards.isfinite()
    filled = rewards.masked_fill(~valid, 0.0)
    zeros = rewards.new_zeros(len(unique), rewards.shape[1])
    number = zeros.index_add(0, group, valid.to(rewards))
    mean = zeros.index_add(0, group, filled) / number.clamp(min=1)
    centred = (filled - mean[group]).masked_fill(~valid, 0.0)
    index = group[:, None].expand_as(rewards)
    low = zeros.scatter_reduce(0, index, rewards.masked_fill(~valid, torch.inf), "amin", include_self=False)
    high = zeros.scatter_reduce(0, index, rewards.masked_fill(~valid, -torch.inf), "amax", include_self=False)
    several = number >= 2
    varied = several & (high - low > min_spread)
    present, kept = valid & several[group], valid & varied[group]
    if std == "group":
        scale = (zeros.index_add(0, group, centred**2) / number.clamp(min=1)).sqrt()[group] + epsilon
    else:
        scale = _overall_std(filled, valid) + epsilon if std == "global" else 1.0
    z = torch.where(kept, centred / scale, 0.0)
    small = ~several.any(1)
    counts = Counts(
        samples=len(rewards),
        missing=int((~valid.any(1)).sum()),
        groups=len(unique),
        zero_variance_groups=int((~small & ~varied.any(1)).sum()),
        small_groups=int(small.sum()),
    )
    return _Compared(z, present, kept, counts)


def _overall_std(filled: Tensor, valid: Tensor) -> Float[Tensor, " rewards"]:
    number = valid.sum(0).clamp(min=1)
    centred = (filled - filled.sum(0) / number).masked_fill(~valid, 0.0)
    return (centred.square().sum(0) / number).sqrt()


def _finish(values: Rewards, compared: _Compared, clip: float | None) -> Advantages:
    mask = compared.kept.any(1)
    values = torch.where(mask, values, 0.0)
    return Advantages(values if clip is None else values.clamp(-clip, clip), mask, compared.counts)


def _complete(unique: Tensor, group: Tensor, group_size: int) -> None:
    sizes = group.bincount(minlength=len(unique))
    wrong = [f"{unique[at]} has {sizes[at]}" for at in (sizes != group_size).nonzero().flatten()]
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ValueError(
            f"groups are incomplete: {shown}, expected {group_size} samples each. Gather before comparing."
        )


def _check(rewards: Tensor, group_ids: Ids, dims: int) -> None:
    if rewards.ndim != dims or len(group_ids) != len(rewards):
        shape = "[batch]" if dims == 1 else "[batch, rewards]"
        found = f"{tuple(rewards.shape)} with {len(group_ids)} ids"
        raise ValueError(f"rewards have shape {found}, expected {shape} and an id for each sample.")


def _integers(group_ids: Ids, like: Tensor) -> Int[Tensor, " batch"]:
    if isinstance(group_ids, Tensor):
        if group_ids.is_floating_point() or group_ids.dtype == torch.bool or group_ids.ndim != 1:
            found = f"{group_ids.dtype} of shape {tuple(group_ids.shape)}"
            raise ValueError(f"ids are {found}, expected one integer a sample.")
        return group_ids.long().to(like.device)
    wrong = next((value for value in group_ids if not isinstance(value, int) or isinstance(value, bool)), None)
    if wrong is not None:
        raise ValueError(f"an id is {wrong!r}, expected integers: text breaks where prompts are cut short.")
    return torch.tensor(list(group_ids), dtype=torch.long, device=like.device)


def _widen(values: Tensor) -> Tensor:
    """fp32: in bf16 many rewards of a group would be alike."""
    return values if values.dtype == torch.float64 else values.float()
