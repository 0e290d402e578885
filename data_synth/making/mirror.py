"""Truncated and verbose answers of a shard as each other's mirror image: the end one caption loses another one gets.

They are made by the shard, since one caption's answer holds another one's words; that other source stands in the
answer's edit as `borrowed_from`, so that removing it removes the answer.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from data_synth.events import parse
from data_synth.events.edit import capital_first
from data_synth.making.options import Options
from data_synth.mixture import Mirror

KINDS = ("truncated", "verbose")


def wanted(options: Options) -> bool:
    """Whether both are asked for, as operators without options, in a mixture that is to be neutral in length."""
    plain = {one.name: one.weight for one in options.operators if not one.options and one.weight > 0}
    return options.balance in ("length", "both") and all(kind in plain for kind in KINDS)


def added(made: Sequence[Mapping[str, Any]], options: Options) -> list[dict[str, Any]]:
    """The rows of a shard with such answers put among their candidates, each row as often as their weights say."""
    mirror, lender = Mirror(), {}
    weights = {one.name: one.weight for one in options.operators}
    share = sum(weights[kind] for kind in KINDS) / sum(weights.values())
    rows = []
    for row in made:
        draw = random.Random(f"{options.seed} {row['id']} mirror")
        found = list(row["found"])
        often = min(1.0, share * options.num_negatives / len(KINDS))
        for one in _of_row(row, mirror, lender, options):
            place = sum(c["operator"] == "imported" for c in found)
            room = max(options.num_negatives - place, 0)
            # among the first num_negatives, so that it is taken, in as many rows as its share fills places
            if draw.random() < often and one["text"] not in {c["text"] for c in found}:
                found.insert(place + draw.randrange(room + 1) if room else place, one)
        rows.append({**row, "found": found})
    return rows


def _of_row(row: Mapping[str, Any], mirror: Mirror, lender: dict[str, str], options: Options) -> list[dict[str, Any]]:
    caption = parse(row["caption"], None, options.parser)
    made = []
    verbose = mirror.verbose(caption, options.seed)
    if verbose is not None:
        tail = verbose.text[slice(*verbose.edit["rejected_spans"][0])]
        made.append(("verbose", verbose, {"borrowed_from": lender.get(tail, row["id"])}))
    truncated = mirror.truncated(caption, options.seed)
    if truncated is not None:
        lender.setdefault(capital_first(caption.text[len(truncated.text) :].strip()), row["id"])
        made.append(("truncated", truncated, {}))
    return [
        {
            "text": negative.text,
            "kind": negative.kind,
            "operator": operator,
            "seed": options.seed,
            "edit": {**negative.edit, **about},
            "why": negative.why,
        }
        for operator, negative, about in made
        if negative.text != caption.text
    ]
