"""What people's votes on pairs say: how far they agree, who is careless, which label holds; and back into the pairs.

Agreement is Krippendorff's alpha (the package krippendorff), labels and the reliability of each voter come from Dawid
and Skene's model (1979; the package crowd-kit). Both are optional: pip install 'rlkit[data]'.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_synth import tiers
from data_synth.errors import DataError
from data_synth.making.files import whole_json
from data_synth.making.options import RUBRIC_VERSION
from data_synth.records import read_records, shards_of, write_shard

DECIDED = ("chosen", "rejected", "tie", "both_bad")
"""Votes that count; unsure and skip say nothing about the pair."""
RANK = {"rejected": -1, "tie": 0, "chosen": 1}
"""Order of the labels, for ordinal agreement; both_bad is on no side and counts as a tie there."""
ADJUDICATED_NAME = "adjudicated.json"
ROUNDS = 100
"""Most rounds of Dawid-Skene; it stops when its likelihood does."""


@dataclass(frozen=True)
class Vote:
    """One judgement: `item` is "<pair_id>:<number of the rejected answer>"."""

    item: str
    voter: str
    label: str


@dataclass(frozen=True)
class Adjudicated:
    """What the votes on one item come to."""

    label: str
    sure: float
    """Probability of the label under Dawid-Skene."""
    votes: int
    chosen: float
    """Share of its votes that picked the chosen answer."""


def alpha(ratings: Sequence[Sequence[float]], level: Literal["nominal", "ordinal", "interval"]) -> float:
    """Krippendorff's alpha of Float[raters][items], NaN where a rater gave none; NaN where nothing can be compared.

    1 is perfect agreement, 0 what chance gives.
    """
    krippendorff = _package("krippendorff")
    table = np.asarray(ratings, dtype=float)
    counted = (~np.isnan(table)).sum(axis=0) >= 2
    values = table[:, counted][~np.isnan(table[:, counted])]
    if not counted.any() or len(np.unique(values)) < 2:
        return math.nan
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement=level))


def agreement(votes: Iterable[Vote]) -> dict[str, float]:
    """Alpha of decided votes: `nominal` over all four labels, `ordinal` over rejected < tie < chosen."""
    votes = [vote for vote in votes if vote.label in DECIDED]
    items, voters = sorted({v.item for v in votes}), sorted({v.voter for v in votes})
    column, row = {name: i for i, name in enumerate(items)}, {name: i for i, name in enumerate(voters)}
    nominal = np.full((len(voters), len(items)), np.nan)
    ordinal = nominal.copy()
    for vote in votes:
        place = row[vote.voter], column[vote.item]
        nominal[place] = DECIDED.index(vote.label)
        ordinal[place] = RANK.get(vote.label, 0)
    return {"nominal": alpha(nominal, "nominal"), "ordinal": alpha(ordinal, "ordinal")}


def adjudicate(votes: Iterable[Vote]) -> tuple[dict[str, Adjudicated], dict[str, float]]:
    """(item -> its label, voter -> reliability). Reliability: how often the voter is right, were all labels equally
    frequent, above chance: 1 is always right, 0 what guessing gives."""
    votes = [vote for vote in votes if vote.label in DECIDED]
    if not votes:
        return {}, {}
    probabilities, reliability = dawid_skene([(v.item, v.voter, v.label) for v in votes])
    by_item: dict[str, Counter] = {}
    for vote in votes:
        by_item.setdefault(vote.item, Counter())[vote.label] += 1
    found = {}
    for item, counts in by_item.items():
        label, sure = max(probabilities[item].items(), key=lambda pair: pair[1])
        number = counts.total()
        found[item] = Adjudicated(label, round(sure, 4), number, round(counts["chosen"] / number, 4))
    return found, reliability


def dawid_skene(
    votes: Sequence[tuple[str, str, str]],
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """(item -> label -> probability, voter -> reliability above chance) of (item, voter, label) votes."""
    _package("crowdkit")
    import pandas
    from crowdkit.aggregation.classification.dawid_skene import DawidSkene

    table = pandas.DataFrame(votes, columns=["task", "worker", "label"])
    model = DawidSkene(n_iter=ROUNDS).fit(table)
    labels = sorted(model.priors_.index)
    likely = {item: dict(row) for item, row in model.probas_.to_dict(orient="index").items()}
    chance = 1 / len(labels)
    reliability = {}
    for voter in sorted(table["worker"].unique()):
        errors = model.errors_.loc[voter]  # rows: what was said, columns: what is true
        right = np.mean([errors.loc[name, name] if name in errors.index else 0.0 for name in labels])
        reliability[voter] = float((right - chance) / (1 - chance)) if len(labels) > 1 else 1.0
    return likely, reliability


def write_back(folder: Path, found: Mapping[str, Adjudicated], *, strict: bool = True) -> Counter:
    """Set tier, rejected_weight and scores of the records whose answers were voted on; returns the tiers of those.

    Only shards that hold such a record are written anew. Voting again starts from the same rules, not from the weights
    that are there. What was found is kept in adjudicated.json, so that a rebuild can apply it again. Raises DataError
    for votes on answers that the folder does not hold, unless not strict.
    """
    tally: Counter = Counter()
    missing = set(found)
    for shard in shards_of(folder):
        rows = read_records(shard)
        wanted = {item.rpartition(":")[0] for item in found}
        if wanted.isdisjoint(rows.select_columns(["pair_id"])["pair_id"]):
            continue
        write_shard(shard, _voted(rows, found, missing, tally))
    if missing and strict:
        some = ", ".join(sorted(missing)[:3])
        raise DataError(f"{folder}: holds no answer {some} ({len(missing)} in all); the votes are on other pairs.")
    earlier = read_adjudicated(folder)
    whole_json(folder / ADJUDICATED_NAME, {k: asdict(v) for k, v in {**earlier, **found}.items()})
    return tally


def read_adjudicated(folder: Path) -> dict[str, Adjudicated]:
    """What votes on a folder have come to so far."""
    path = folder / ADJUDICATED_NAME
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {item: Adjudicated(**one) for item, one in stored.items()}


def _voted(rows, found: Mapping[str, Adjudicated], missing: set[str], tally: Counter) -> Iterator[dict[str, Any]]:
    for record in rows:
        items = [f"{record['pair_id']}:{k}" for k in range(len(record["rejected"]))]
        if not any(item in found for item in items):
            yield record
            continue
        missing.difference_update(items)
        evidence = [_evidence(record, k, found.get(item)) for k, item in enumerate(items)]
        of_answers = [tiers.tier(one) for one in evidence]
        weights = list(record["rejected_weight"])
        for k, item in enumerate(items):
            if item in found:
                weights[k] = tiers.WEIGHTS[of_answers[k]]
        tier = tiers.worst(of_answers)
        tally.update(str(of_answers[k]) for k, item in enumerate(items) if item in found)
        scores = {
            "votes": [one.votes for one in evidence],
            "votes_chosen": [found[item].chosen if item in found else None for item in items],
            "votes_sure": [found[item].sure if item in found else None for item in items],
        }
        yield record | {
            "tier": tier,
            "rejected_weight": weights,
            "scores": {**(record["scores"] or {}), **scores},
            "rubric_version": RUBRIC_VERSION,
        }


def _evidence(record: Mapping[str, Any], k: int, vote: Adjudicated | None) -> tiers.Evidence:
    operator = (record["edit"][k] or {}).get("operator") or record["operator"] or ""
    margin = None
    judge = (record["scores"] or {}).get("judge")
    if isinstance(judge, list) and len(judge) == len(record["rejected"]) + 1:  # chosen first, as own samples have it
        margin = judge[0] - judge[k + 1]
    if vote is None:
        return tiers.Evidence(tiers.provenance(operator), margin=margin)
    return tiers.Evidence(tiers.provenance(operator), vote.votes, vote.label, vote.sure, margin)


def careless(reliability: Mapping[str, float], *, below: float = 0.2) -> list[str]:
    """Voters whose reliability is near that of guessing, the worst first."""
    return sorted((name for name, value in reliability.items() if value < below), key=reliability.__getitem__)


def voters_of(votes: Collection[Vote]) -> dict[str, int]:
    """Decided votes of each voter."""
    return dict(sorted(Counter(vote.voter for vote in votes if vote.label in DECIDED).items()))


def _package(name: str):
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise DataError(f"votes: need the package {name}; install it: pip install 'rlkit[data]'.") from None
