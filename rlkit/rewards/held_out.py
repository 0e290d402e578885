"""What a reward with heads gets right on held-out labelled groups: pairs per attribute, ranks of ratings."""

from collections.abc import Callable, Sequence

import numpy as np

from reward_models import agreement
from reward_models.aesthetic import Scorer
from reward_models.vision.heads import OVERALL
from rlkit.evaluate.intervals import Interval
from rlkit.rewards.labels import Group
from rlkit.running import ranks


def split(groups: Sequence[Group], count: int) -> tuple[list[Group], list[Group]]:
    """(train, held out): every fifth group, or fewer, so that at most `count` are held out."""
    if not count or len(groups) < 2:
        return list(groups), []
    every = max(min(5, len(groups)), -(-len(groups) // count))
    return [g for n, g in enumerate(groups) if n % every != every - 1], groups[every - 1 :: every]


def summary(scorer: Scorer, groups: Sequence[Group], step: Callable[[], None]) -> dict[str, Interval]:
    """`pairwise_held_out` (overall) and `pairwise_<attribute>`, shares without ties; `tau_<attribute>`, Kendall's tau-b
    of score and rating over items. Intervals by group."""

    def judged(some: list[Group]) -> list[list[dict[str, float]]]:
        told = []
        for group in some:
            pictures = [item.frames(scorer.reward.views.plan.frames) for item in group.items]
            faces = [item.face for item in group.items]
            told.append([{**one["attributes"], OVERALL: one["score"]} for one in scorer.judge(pictures, faces)])
            step()
        return told

    pairs: dict[str, list[tuple[str, float]]] = {}
    rated: dict[str, list[tuple[str, float, float]]] = {}
    for group, scores in zip(groups, ranks.spread(judged, list(groups)), strict=True):
        for pair in group.pairs:
            margin = scores[pair.better][pair.attribute] - scores[pair.worse][pair.attribute]
            if not pair.tie:
                pairs.setdefault(pair.attribute, []).append((group.name, 0.5 + 0.5 * float(np.sign(margin))))
        for item, score in zip(group.items, scores, strict=True):
            for name, rating in item.ratings.items():
                rated.setdefault(name, []).append((group.name, rating, score[name]))
    found = {}
    for attribute, rows in pairs.items():
        names, right = zip(*rows, strict=True)
        name = "pairwise_held_out" if attribute == OVERALL else f"pairwise_{attribute}"
        found[name] = _interval(agreement.bootstrap_by_prompt(np.mean, names, np.array(right)), names)
    for attribute, rows in rated.items():
        names, rating, score = zip(*rows, strict=True)
        tau = agreement.bootstrap_by_prompt(agreement.tau_b, names, np.array(rating), np.array(score), resamples=200)
        found[f"tau_{attribute}"] = _interval(tau, names)
    return found


def _interval(found: agreement.Interval, names: Sequence[str]) -> Interval:
    value, low, high = (None if np.isnan(v) else float(v) for v in (found.value, found.low, found.high))
    return {"value": value, "low": low, "high": high, "n": len(set(names)), "excluded": found.undefined}
