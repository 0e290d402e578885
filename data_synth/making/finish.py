"""Last stage of a shard: candidates that stay become records, and what became of every row is counted."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_synth import tiers
from data_synth.check import check
from data_synth.events import detect_language
from data_synth.making.options import RUBRIC_VERSION, Options
from data_synth.records import Rejected, make_record, pair_id
from data_synth.sources import CaptionRow


@dataclass
class ShardCounts:
    """rows = pairs + without_negative + quarantined, of one shard."""

    rows: int = 0
    pairs: int = 0
    without_negative: int = 0
    quarantined: int = 0
    refused: Counter = field(default_factory=Counter)
    """Rows from which an operator could make nothing."""
    balanced_out: Counter = field(default_factory=Counter)
    """Candidates of each operator that balancing dropped."""
    masked: Counter = field(default_factory=Counter)
    """Personal data that was masked, by kind."""
    reasons: Counter = field(default_factory=Counter)


def records(
    rows: Sequence[CaptionRow],
    made: Sequence[Mapping[str, Any]],
    selected: Sequence[Sequence[Mapping[str, Any]]],
    options: Options,
    counts: ShardCounts,
) -> Iterator[dict[str, Any] | Rejected]:
    """Each row as a record, or as Rejected; rows without a negative give nothing but are counted and come as a
    Rejected whose field is `negatives`."""
    for row, one, chosen in zip(rows, made, selected, strict=True):
        counts.rows += 1
        counts.refused.update(one["refused"])
        counts.masked.update(one["masked"])
        if not chosen:
            counts.without_negative += 1
            dropped = "balancing dropped all of them" if one["found"] else "no operator found anything to change"
            yield Rejected(row.where, [f"negatives: {dropped}."], {"id": row.id})
            continue
        record = to_record(row, one["caption"], chosen, options)
        problems = check(record)
        if problems:
            counts.quarantined += 1
            bad = Rejected(row.where, problems, {"id": row.id, "caption": one["caption"]})
            counts.reasons.update(bad.fields())
            yield bad
            continue
        counts.pairs += 1
        yield record


def to_record(row: CaptionRow, caption: str, found: Sequence[Mapping[str, Any]], options: Options) -> dict[str, Any]:
    """The record of a row with these rejected answers; see data_synth/records.py for its columns."""
    operators = {one.name: one for one in options.operators}
    used = list(dict.fromkeys(one["operator"] for one in found))
    trust = [tiers.tier(tiers.Evidence(tiers.provenance(one["operator"]))) for one in found]
    record = make_record(
        options.questions[detect_language(caption)],
        caption,
        [(one["kind"], one["text"]) for one in found],
        videos=row.videos,
        images=row.images,
        start=row.start,
        end=row.end,
        source_id=row.id,
        parent_id=row.content_id,
        operator="+".join(used),
        options={
            "negatives": {name: operators[name].options for name in used if name in operators},
            "parser": options.parser,
        },
        edit=[_edit(one) for one in found],
        tier=tiers.worst(trust),
        seed=options.seed,
        licence=row.licence or options.licence,
        consent=row.consent or options.consent,
        rubric_version=RUBRIC_VERSION,
    )
    weights = [tiers.WEIGHTS[one] for one in trust]
    record["rejected_weight"] = [w * one.get("weight", 1.0) for w, one in zip(weights, found, strict=True)]
    if row.prompt is not None:
        record["prompt"] = row.prompt
        record["pair_id"] = pair_id(record)
    return record


def _edit(one: Mapping[str, Any]) -> dict[str, Any]:
    """The evidence of an answer: what the operator says of it, and what made it."""
    about = {"operator": one["operator"], "seed": one["seed"], "why": one["why"]}
    return {**one["edit"], **{name: value for name, value in about.items() if value not in (None, "")}}
