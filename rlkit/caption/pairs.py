"""Preference pairs for captions: true captions beside constructed negatives, and the model's own samples, judged.

Where a clip has a true caption it is chosen; rejected are corruptions of it and wrong samples of the model. Where it
has none, the best of the samples is chosen and worse ones are rejected, if a judge can tell them apart.
"""

import inspect
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from data_synth.check import check_caption
from data_synth.events import parse
from data_synth.records import make_record
from rlkit import plugins
from rlkit.recipe import NEGATIVE, PlugIn, Recipe

TRIES = 4  # seeds per operator and clip: some events cannot be corrupted, some corruptions come out alike
JUDGED_AT_ONCE = 256  # clips


class Samples(Protocol):
    """The model's own captions by clip id; a dict is one, and own_samples.Drawn."""

    def get(self, clip: str) -> Sequence[str] | None:
        """Those of a clip, if there are any."""


def constructed(
    caption: str, negatives: Sequence[PlugIn], count: int, *, seed: int, pool: Sequence[str]
) -> list[dict[str, Any]]:
    """Up to `count` different corruptions, kinds drawn by weight; each has `text`, `kind`, `edit`, `operator`."""
    operators = [one for one in negatives if one.name != "own_samples" and one.weight > 0]
    if not operators or count == 0:
        return []
    rng = random.Random(f"{seed} {caption}")
    parsed = parse(caption)
    found: dict[str, dict] = {}
    for attempt in range(TRIES * count):
        if len(found) == count:
            break
        operator = rng.choices(operators, [one.weight for one in operators])[0]
        corrupt = plugins.load(NEGATIVE, operator.name)
        options = dict(operator.options)
        if "pool" in inspect.signature(corrupt).parameters and "pool" not in options and pool:
            options["pool"] = pool
        negative = corrupt(parsed, seed=seed + attempt, **options)
        if negative is not None and negative.text != caption:
            found.setdefault(
                negative.text,
                {"text": negative.text, "kind": negative.kind, "edit": negative.edit, "operator": operator.name},
            )
    return list(found.values())


def labelled_pairs(
    clips: Iterable[Mapping[str, Any]],
    recipe: Recipe,
    *,
    question: str,
    pool: Sequence[str] = (),
    samples: Samples | None = None,
    is_true: Callable[[Mapping[str, Any], str], bool] | None = None,
) -> Iterator[dict[str, Any]]:
    """Records of clips with a true caption: own wrong samples in the measure of their weight, then corruptions."""
    own_weight = sum(one.weight for one in recipe.negatives if one.name == "own_samples")
    all_weight = sum(one.weight for one in recipe.negatives)
    for number, row in enumerate(clips):
        caption, seed = row["true_caption"], recipe.seed * 1_000_003 + number
        own = []
        if own_weight and samples:
            wrong = dict.fromkeys(text for text in samples.get(row["id"]) or () if readable(text) and text != caption)
            wrong = [text for text in wrong if is_true is None or not is_true(row, text)]
            most = max(1, round(recipe.num_negatives * own_weight / all_weight))
            own = [{"text": t, "kind": "own_sample", "edit": {}, "operator": "own_samples"} for t in wrong[:most]]
        rejected = own + constructed(caption, recipe.negatives, recipe.num_negatives - len(own), seed=seed, pool=pool)
        if rejected:
            yield record(row, question, caption, rejected, seed, {})


def judged_pairs(
    clips: Iterable[Mapping[str, Any]],
    recipe: Recipe,
    *,
    question: str,
    samples: Samples,
    judge: Callable[[Sequence[Mapping[str, Any]], Sequence[Sequence[str]]], list[list[float | None]]],
) -> Iterator[dict[str, Any]]:
    """Records of clips without a true caption: the best sample against the K worst, where their scores differ by
    `sampling.judge_margin`. `judge` is asked about many clips at once; None is no score."""
    clips, at = iter(clips), 0
    while some := list(itertools.islice(clips, JUDGED_AT_ONCE)):
        texts = [list(dict.fromkeys(text for text in samples.get(row["id"]) or () if readable(text))) for row in some]
        kept = [(number, row, told) for number, (row, told) in enumerate(zip(some, texts, strict=True), at) if told[1:]]
        scores = judge([row for _, row, _ in kept], [told for *_, told in kept])
        for (number, row, told), given in zip(kept, scores, strict=True):
            made = _best_and_worst(row, told, given, recipe, question, recipe.seed * 1_000_003 + number)
            if made is not None:
                yield made
        at += len(some)


def _best_and_worst(
    row, texts: Sequence[str], scores: Sequence[float | None], recipe: Recipe, question: str, seed: int
):
    """The record of one clip, or None where its samples cannot be told apart."""
    scored = sorted(((s, t) for s, t in zip(scores, texts, strict=True) if s is not None), reverse=True)
    if len(scored) < 2:
        return None
    best, chosen = scored[0]
    margin = recipe.sampling.judge_margin
    worse = [(s, t) for s, t in reversed(scored) if best - s >= margin][: recipe.num_negatives]
    rejected = [{"text": t, "kind": "own_sample", "edit": {}, "operator": "own_samples"} for _, t in worse]
    told = {"judge": [best, *(s for s, _ in worse)]}
    return record(row, question, chosen, rejected, seed, told) if worse else None


def readable(text: str) -> bool:
    """Whether a sample can stand in a record: not empty, no control characters."""
    return not check_caption(text, "sample")


def event_pool(clips: Iterable[Mapping[str, Any]], size: int = 400) -> list[str]:
    """Events told in the captions of other clips, as clauses: what an invented event looks like in this data."""
    clauses: dict[str, None] = {}
    for row in clips:
        for event in parse(row["true_caption"]).events:
            clauses.setdefault(event.text[0].lower() + event.text[1:])
        if len(clauses) >= size:
            break
    return list(clauses)


def record(row, question: str, chosen: str, rejected: Sequence[Mapping[str, Any]], seed: int, scores) -> dict[str, Any]:
    """The record of a clip row; `rejected` as `constructed` gives them."""
    return make_record(
        question,
        chosen,
        [(one["kind"], one["text"]) for one in rejected],
        videos=[row["video"]],
        start=row.get("start"),
        end=row.get("end"),
        source_id=row["id"],
        operator="+".join(dict.fromkeys(one["operator"] for one in rejected)),
        edit=[one["edit"] for one in rejected],
        scores=scores,
        seed=seed,
        licence=row.get("licence"),
    )
