"""What each item is worth under its prompt: clicks, conversions or continuation, freed of who saw it, where, and when.

Of one prompt, the policy asked about shows one item always, to the viewers of the log. A row's weight is 1 / propensity
(1 where the log has none: then only the place is corrected, and `context` must not decide who sees what), and its
reward:

    click                 click / examination of the place: click probability at the first place
    conversion            conversion / examination / share of conversions seen by now: per view at the first place
    conversion_per_click  conversion / share seen by now, over clicks
    continuation          1 where the viewer went on, over clicks
    any other name        that column of the log, over clicks

What is measured over clicks is a ratio, so it takes `snips`. Items are correlated through sessions and through the
estimated examination; both are in `Values.covariance`, from influence values summed by session and the delta method.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.sparse import coo_matrix

from data_synth.errors import DataError
from data_synth.feedback import delay as delays
from data_synth.feedback import position as places
from data_synth.feedback.estimate import (
    MIN_ESS,
    Method,
    between,
    clip_weights,
    effective_sample_size,
    refusal,
    terms,
)
from data_synth.feedback.position import Examination
from data_synth.feedback.schema import Log, rows_of
from data_synth.feedback.sessions import continued

SHRINK = 20.0
"""Rows that the prompt's mean counts for in the reward model of `dr`."""


@dataclass(frozen=True)
class Options:
    """How items are valued."""

    metric: str = "click"
    method: Method = "snips"
    interval: Literal["wilson", "normal"] = "wilson"
    position: Literal["fitted", "randomised", "off"] = "fitted"
    delay: Literal["exponential", "free", "off"] = "exponential"
    min_ess: float = MIN_ESS
    session_gap: float = 1_800.0
    """Seconds without a further page after which a session is over."""


@dataclass(frozen=True)
class Values:
    """One entry per prompt and item, [m], in order of prompts; NaN where `refused` says why."""

    prompt: np.ndarray
    item: np.ndarray
    views: np.ndarray
    raw: np.ndarray
    """The plain mean of the metric over the item's rows: what one would get without any correction."""
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """95 % interval of each entry alone."""
    variance: np.ndarray
    ess: np.ndarray
    refused: list[str | None]
    kind: Literal["wilson", "normal"]
    """Of the intervals."""
    covariance: list[tuple[np.ndarray, np.ndarray]] = field(repr=False)
    """Per prompt: entries Int[j] and the covariance Float[j, j] of their values."""

    def correlation(self, number: int) -> np.ndarray:
        """Float[j, j] of the values of one prompt; 0 where a value has no variance."""
        matrix = self.covariance[number][1]
        size = np.sqrt(np.diag(matrix))
        scale = np.outer(size, size)
        return np.divide(matrix, scale, out=np.zeros_like(matrix), where=scale > 0).clip(-1, 1)


@dataclass(frozen=True)
class Measured:
    """The rows that say something about a metric, with reward, weight and largest possible reward of each."""

    log: Log
    reward: np.ndarray
    weight: np.ndarray
    largest: np.ndarray
    raw: np.ndarray
    examination: Examination | None
    """None where the metric does not depend on it."""
    left_out: Mapping[str, int]
    """Rows that cannot be used, by reason: never counted as 0."""


def values(log: Log, options: Options, examination: Examination | None = None) -> Values:
    """The value of every item under every prompt. `examination`: as known from elsewhere; else from this log."""
    return value_items(measure(log, options, examination), options)


def measure(log: Log, options: Options, examination: Examination | None = None) -> Measured:
    """Reward and weight of every row. Raises DataError where the log lacks a column that the metric needs."""
    weight = np.ones(len(log)) if log.propensity is None else 1 / log.propensity
    if options.metric in ("click", "conversion"):
        if log.propensity is None and options.method != "snips":
            raise DataError(f"{options.method} needs the column `propensity`; without it only snips means anything.")
        examination = examination or examine(log, options)
        look = examination.of(log.position)
        reward, largest, young = log.click.copy(), np.ones(len(log)), np.zeros(len(log), bool)
        if options.metric == "conversion":
            reward, largest = _conversions(log, options)
            young = np.isnan(reward)
        kept = ~np.isnan(look) & ~young
        left_out = {"place with unknown examination": int(np.isnan(look).sum()), "too young": int(young.sum())}
        raw = log.click if options.metric == "click" else log.conversion
        found = Measured(log, reward / look, weight, largest / look, raw, examination, left_out)
        return _rows_of_measured(found, kept)
    if options.method != "snips":
        raise DataError(f"{options.metric} is measured over clicks, a ratio; it takes snips, not {options.method}.")
    largest = np.ones(len(log))
    if options.metric == "conversion_per_click":
        reward, largest = _conversions(log, options)
        raw, why = log.conversion, "too young"
    elif options.metric == "continuation":
        reward, why = continued(log, options.session_gap), "log ends before the session can be seen to end"
        raw = reward
    else:
        raw = reward = _extra(log, options.metric)
        why = f"no {options.metric}"
    clicked = log.click == 1
    found = Measured(log, reward, weight, largest, raw, None, {why: int((clicked & np.isnan(reward)).sum())})
    return _rows_of_measured(found, clicked & ~np.isnan(reward))


def examine(log: Log, options: Options) -> Examination:
    """The examination of each place, as the options say."""
    if options.position == "off" or (log.position == log.position[0]).all():
        return places.unbiased(log)
    return places.randomised(log) if options.position == "randomised" else places.fitted(log)


def value_items(measured: Measured, options: Options) -> Values:
    """The value of every item from its rows; of `ips`, `clipped` and `dr` over all decisions of its prompt."""
    log, known, found, matrices = measured.log, measured.examination, [], []
    for rows in rows_of(log):
        items, own = np.unique(log.item[rows], return_inverse=True)
        predicted = _reward_model(measured, rows, own, len(items)) if options.method == "dr" else np.zeros(len(items))
        of_prompt = [_one(measured, options, rows, own == number, predicted[number]) for number in range(len(items))]
        matrix = _covariance([(one.session, one.moves) for one in of_prompt], len(items))
        if known is not None:
            pull = np.array([one.pull for one in of_prompt])
            matrix += pull @ np.nan_to_num(known.covariance) @ pull.T
        matrices.append((np.arange(len(found), len(found) + len(items)), matrix))
        found += of_prompt
    columns = zip(*((one.prompt, one.item, one.views, one.raw, one.value, one.ess) for one in found), strict=True)
    prompt, item, views, raw, value, ess = (np.array(column) for column in columns)
    refused = [one.refused for one in found]
    bad = np.array([reason is not None for reason in refused])
    variance = np.where(bad, np.nan, np.concatenate([np.diag(matrix) for _, matrix in matrices]))
    value = np.where(bad, np.nan, value)
    kind = "normal" if options.interval == "normal" or not _share(measured) else "wilson"
    low, high = between(value, variance, ess, kind=kind)
    return Values(prompt, item, views, raw, value, low, high, variance, ess, refused, kind, matrices)


@dataclass(frozen=True)
class _Item:
    """One item under one prompt; its value moves by `moves` with the rows of `session`, and by `pull` [K] with the log
    of the examination of each place."""

    prompt: int
    item: int
    views: int
    raw: float
    value: float
    ess: float
    refused: str | None
    session: np.ndarray
    moves: np.ndarray
    pull: np.ndarray | None


def _one(measured: Measured, options: Options, rows: np.ndarray, own: np.ndarray, predicted) -> _Item:
    """The item whose rows among those of the prompt are `own`; predicted: its reward for the viewers of each row."""
    mine = rows[own]
    used = mine if options.method == "snips" else rows
    weight = np.where(True if options.method == "snips" else own, measured.weight[used], 0.0)
    reward, largest = measured.reward[used], measured.largest[used]
    ess, top = effective_sample_size(weight, largest), float(weight.max())
    if options.method == "clipped":
        weight, _ = clip_weights(weight)
    value, influence = terms(reward, weight, options.method, predicted, predicted)
    pull = None
    if measured.examination is not None:
        place = np.searchsorted(measured.examination.positions, measured.log.position[used])
        size = weight.sum() if options.method == "snips" else len(used)
        pull = -np.bincount(place, weight * reward, len(measured.examination.positions)) / size
    return _Item(
        prompt=measured.log.prompt[rows[0]],
        item=measured.log.item[mine[0]],
        views=len(mine),
        raw=float(measured.raw[mine].mean()),
        value=value,
        ess=ess,
        refused=refusal(ess, options.min_ess, top),
        session=measured.log.session[used],
        moves=influence / len(used),
        pull=pull,
    )


def _share(measured: Measured) -> bool:
    """Whether the mean of the raw metric is a share in [0, 1], as Wilson's interval needs; not all columns have one."""
    return bool((measured.raw >= 0).all() and (measured.raw <= 1).all())


def _covariance(moves: Sequence[tuple[np.ndarray, np.ndarray]], items: int) -> np.ndarray:
    """Float[items, items] of values that each row moves by `moves`, whole sessions being independent draws."""
    sessions, cluster = np.unique(np.concatenate([session for session, _ in moves]), return_inverse=True)
    column = np.repeat(np.arange(items), [len(session) for session, _ in moves])
    summed = coo_matrix(
        (np.concatenate([move for _, move in moves]), (cluster, column)), (len(sessions), items)
    ).tocsr()
    return (summed.T @ summed).toarray() * (len(sessions) / max(len(sessions) - 1, 1))


def _reward_model(measured: Measured, rows: np.ndarray, own: np.ndarray, items: int) -> np.ndarray:
    """Float[items, rows]: predicted reward of each item for each row's viewers; from the other half of the sessions."""
    context, reward, half = measured.log.context[rows], measured.reward[rows], measured.log.session[rows] % 2
    kinds = int(context.max()) + 1
    out = np.empty((items, len(rows)))
    for fold in (0, 1):
        others = half != fold
        key = own[others] * kinds + context[others]
        count = np.bincount(key, minlength=items * kinds)
        total = np.bincount(key, reward[others], items * kinds)
        prior = reward[others].mean() if others.any() else 0.0
        table = ((total + SHRINK * prior) / (count + SHRINK)).reshape(items, kinds)
        out[:, ~others] = table[:, context[~others]]
    return out


def _conversions(log: Log, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """(reward, largest), [rows], of conversions, NaN where too young."""
    if log.conversion is None:
        raise DataError("the log has no column `conversion`.")
    if options.delay == "off":
        return log.conversion.copy(), np.ones(len(log))
    if log.conversion_delay is None or log.elapsed is None:
        raise DataError(
            "late conversions need `conversion_delay`, and `time` or `elapsed`; where all have come, set delay: off."
        )
    clicked = log.click == 1
    seen = (log.conversion[clicked], log.conversion_delay[clicked], log.elapsed[clicked])
    if options.delay == "free":
        model = delays.free(*seen)
    else:
        arm = (log.prompt * len(log.items) + log.item)[clicked]
        model = delays.exponential(*seen, np.unique(arm, return_inverse=True)[1])
    return delays.rewards(log.conversion, log.conversion_delay, log.elapsed, model)


def _extra(log: Log, name: str) -> np.ndarray:
    if name not in log.extra:
        raise DataError(
            f"the log was read without the column '{name}'; there are {', '.join(log.extra) or 'no others'}."
        )
    return log.extra[name]


def _rows_of_measured(found: Measured, kept: np.ndarray) -> Measured:
    if not kept.any():
        raise DataError(f"no row of the log can be used for this metric ({dict(found.left_out)}).")
    log = found.log.take(kept)
    left_out = {why: count for why, count in found.left_out.items() if count}
    return Measured(
        log, found.reward[kept], found.weight[kept], found.largest[kept], found.raw[kept], found.examination, left_out
    )
