"""One caption row -> its candidates for rejected answers: a pure function of the row and the options."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from data_synth import personal
from data_synth.events import Caption, Negative, en_spacy, parse
from data_synth.making import mirror
from data_synth.making.options import Operator, Options
from data_synth.negatives import cli, order_swap
from data_synth.sources import CaptionRow

TRIES = 2
"""Repetitions after which an operator has nothing new to say of a caption."""


def make(row: CaptionRow, options: Options) -> dict[str, Any]:
    """Candidates of a row: `{"id", "parent", "caption", "masked", "found": [...], "refused": [operator, ...]}`.

    Each of `found` has text, kind, operator, seed, edit and why. Operators are drawn by weight, with replacement, until
    `options.wanted` different texts are found; one that returns None is not asked again.
    """
    mask = _mask(options)
    caption, masked = mask(row.caption)
    sentences = [mask(sentence)[0] for sentence in row.sentences] if row.sentences else None
    if sentences and masked:  # the whole and its sentences must stay one text
        gap = "" if caption and "".join(row.sentences or ()) == row.caption else " "
        caption = gap.join(sentences)
    found, refused = _candidates(row.id, caption, sentences, options)
    imported = [
        {"text": mask(text)[0], "kind": kind, "operator": "imported", "seed": None, "edit": {}, "why": "", "weight": w}
        for kind, text, w in row.imported
    ]
    return {
        "id": row.id,
        "parent": row.content_id,
        "caption": caption,
        "masked": masked,
        "found": [*imported, *found],
        "refused": refused,
    }


def _candidates(
    identity: str, caption: str, sentences: list[str] | None, options: Options
) -> tuple[list[dict[str, Any]], list[str]]:
    parsed = parse(caption, None, options.parser)
    draw = random.Random(f"{options.seed} {identity}")
    left_out = mirror.KINDS if mirror.wanted(options) else ()  # those are made by the shard, not by the row
    open_ = {one.name: one for one in options.operators if one.weight > 0 and one.name not in left_out}
    sources = {name: _negatives(one, parsed, sentences, options) for name, one in open_.items()}
    found: dict[str, dict[str, Any]] = {}
    refused = []
    while open_ and len(found) < options.wanted:
        name = draw.choices(list(open_), [one.weight for one in open_.values()])[0]
        negative = next(sources[name], None)
        if negative is None:
            refused += [] if any(one["operator"] == name for one in found.values()) else [name]
            del open_[name]
            continue
        if negative[1].text != caption:
            found.setdefault(negative[1].text, _candidate(name, *negative))
    return list(found.values()), sorted(refused)


def _candidate(name: str, seed: int, negative: Negative) -> dict[str, Any]:
    return {
        "text": negative.text,
        "kind": negative.kind,
        "operator": name,
        "seed": seed,
        "edit": negative.edit,
        "why": negative.why,
    }


def _negatives(
    operator: Operator, parsed: Caption, sentences: list[str] | None, options: Options
) -> Iterator[tuple[int, Negative]]:
    """What an operator makes of a caption, a seed after the other, until it repeats itself TRIES times."""
    if operator.name == "order_swap" and sentences:
        swaps = list(order_swap.sentence_pairs(sentences, options.parser))
        random.Random(f"{options.seed} {parsed.text}").shuffle(swaps)
        yield from ((options.seed, negative) for negative in swaps)
        return
    corrupt = load(operator.name)
    seen: set[str] = set()
    misses, number = 0, options.seed
    while misses < TRIES:
        negative = corrupt(parsed, seed=number, **operator.options)
        if negative is None:
            return
        if negative.text in seen:
            misses += 1
        else:
            seen.add(negative.text)
            yield number, negative
        number += 1


@lru_cache(maxsize=64)
def load(name: str) -> Callable[..., Negative | None]:
    """The `corrupt` function of an operator; imported once per process."""
    return cli.load(name)


def read_ahead(rows: Sequence[CaptionRow], options: Options) -> None:
    """Let spaCy read the texts of rows in one go, which is twice as fast as one by one; nothing for other parsers."""
    if cli.parser_used(options.parser, "en") == "spacy":
        texts = (order_swap.to_confirm(row.sentences) if row.sentences else [row.caption] for row in rows)
        en_spacy.read_ahead(text for some in texts for text in some if text.isascii())


def _mask(options: Options) -> Callable[[str], tuple[str, dict[str, int]]]:
    if options.personal_data == "keep":
        return lambda text: (text, {})
    return lambda text: personal.mask(text, names=options.personal_data == "mask_names")
