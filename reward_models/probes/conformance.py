"""Does a reward keep the contract of reward_models? Signature, answers, missing and odd items, loading.

Each function takes a Bench and returns a Finding.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from reward_models.completions import text_of
from reward_models.probes.bench import SAME, Bench, differences
from reward_models.probes.items import MEDIA, Items, copied, digest, like
from reward_models.probes.report import Finding, ProbeError, at_least, at_most, not_applicable

NEIGHBOUR = 0.1
"""Spreads a score may move because of its batch: another kernel or more padding does so little, a leak more."""
FEW = 8
"""Rows in the batches around a missing or odd item."""
OPTIONAL = ("fps",)
"""Columns that a reward may fill in by itself, so that a score without them is fine."""


def signature(bench: Bench) -> Finding:
    """Keyword-only `prompts`, `completions`, and further columns."""
    try:
        parameters = list(inspect.signature(bench.score).parameters.values())
    except (TypeError, ValueError):
        return not_applicable("score does not tell its arguments (built in C).")
    names = {one.name for one in parameters}
    any_name = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    positional = [
        one.name
        for one in parameters
        if one.kind not in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    ]
    wrong = []
    if positional:
        wrong.append(f"{', '.join(positional)} can be given by position, so that two may be swapped: put `*` first")
    if not any_name:
        wrong.append("it does not take further columns, which trainers pass: add `**_`")
        wrong += [f"it has no `{name}`" for name in ("prompts", "completions") if name not in names]
    if wrong:
        return Finding("fail", f"score({', '.join(map(str, parameters))}): {'; '.join(wrong)}.")
    return Finding("pass", "Keyword-only, and takes any further column.")


def answers(bench: Bench) -> Finding:
    """A list of float | None of the right length; that it scores most items at all."""
    if bench.first_failure:
        return Finding("fail", f"The first call {bench.first_failure}")
    share = float(np.mean(~np.isnan(bench.base)))
    return at_least(
        share,
        0.5,
        "A list with one float or None for each completion.",
        "Most items have no score, so that the other probes say little. Give items with the columns that the reward "
        "needs (items=, or --data).",
    )


def finite(bench: Bench) -> Finding:
    """NaN and infinity in no call of the whole check."""
    found = sorted({str(one) for one in bench.odd_numbers})
    return at_most(
        len(bench.odd_numbers),
        0,
        "No call returned NaN or infinity.",
        f"Returned {', '.join(found)}. It would poison the mean of a group: return None for what has no score.",
    )


def deterministic(bench: Bench) -> Finding:
    """The same batch twice."""
    return at_most(
        float(np.max(bench.moved(bench.items), initial=0.0)),
        SAME,
        "The same batch twice gives the same scores.",
        "The same batch twice gives different scores: sampling, dropout (call .eval()), or a random crop.",
    )


def stateless(bench: Bench) -> Finding:
    """The first batch once more, after all other calls."""
    return at_most(
        float(np.max(bench.moved(bench.items), initial=0.0)),
        SAME,
        "Scores do not depend on what was scored before.",
        "After other calls the same batch has other scores: the reward keeps a state (running mean, cache by a key "
        "that is not unique). Normalise in the trainer, not here.",
    )


def inputs_unchanged(bench: Bench) -> Finding:
    """Prompts, completions and columns are the same before and after."""
    given = {"prompts": bench.items.prompts, "completions": bench.items.completions, **bench.items.columns}
    given = {name: copied(list(values)) for name, values in given.items()}
    before = {name: digest(values) for name, values in given.items()}
    bench.within(lambda: bench.score(**given))
    changed = [name for name, values in given.items() if digest(values) != before[name]]
    if changed:
        return Finding("fail", f"Changes {', '.join(changed)} in place; the next reward would see that: copy first.")
    return Finding("pass", "Leaves its inputs as they were.")


def missing(bench: Bench) -> Finding:
    """None in place of a picture, clip or other column: None, or the score that does not need it."""
    rows = bench.items.rows(range(min(FEW, len(bench.items))))
    before, gone = bench(rows), list(range(0, len(rows), 2))
    groups = [("completions",)] if rows.kind != "text" else []
    groups += [tuple(name for name in MEDIA if name in rows.columns)]
    groups += [(name,) for name in rows.columns if name not in (*MEDIA, *OPTIONAL)]
    wrong, withheld = [], []
    for group in filter(None, groups):
        after = bench(_without(rows, group, gone))
        kept = [i for i in range(len(rows)) if i not in gone]
        if np.max(differences(before[kept], after[kept], bench.spread), initial=0.0) > NEIGHBOUR:
            wrong.append(f"without {' and '.join(group)} in some rows, the others have another score")
        numbers = [i for i in gone if not np.isnan(after[i])]
        same = all(abs(after[i] - before[i]) <= SAME * bench.spread for i in numbers)
        if numbers and (group == ("completions",) or not same):
            wrong.append(f"scores rows without {' and '.join(group)}, the first with {after[numbers[0]]:.4g}")
        elif not numbers:
            withheld.append(" and ".join(group))
    if wrong:
        return Finding("fail", f"{'; '.join(wrong)}. What is missing has no score: None, which trainers mask; never 0.")
    return Finding("pass", f"Rows without {', '.join(withheld) or 'any one column'} have None or keep their score.")


def odd_items(bench: Bench) -> Finding:
    """Unusual but legal items, one at a time among good ones: a score or None, and nobody else's changes."""
    rows = bench.items.rows(range(min(FEW, len(bench.items))))
    before, place = bench(rows), len(rows) // 2
    others = [i for i in range(len(rows)) if i != place]
    wrong, named = [], _odd(rows.kind, rows.completions[place])
    for what, completion in named:
        mixed = rows.with_completions([completion if i == place else one for i, one in enumerate(rows.completions)])
        try:
            after = bench(mixed)
            if np.max(differences(before[others], after[others], bench.spread), initial=0.0) > NEIGHBOUR:
                wrong.append(f"{what}: the other items' scores change")
        except ProbeError as failed:
            wrong.append(f"{what}: {failed}")
    if wrong:
        return Finding(
            "fail",
            f"{'; '.join(wrong)}. One item must not cost the others their score: handle it alone, None if it has none.",
            len(wrong),
            "at most",
            0,
        )
    return Finding("pass", f"Takes {', '.join(what for what, _ in named)}.", 0, "at most", 0)


def deadline(bench: Bench) -> Finding:
    """No call of the whole check ran past the deadline."""
    if bench.hung:
        return Finding(
            "fail",
            "A call was still running at the deadline. Put a time limit on what the reward waits for; None if late.",
            bench.slowest,
            "at most",
            bench.deadline_s,
        )
    return at_most(bench.slowest, bench.deadline_s, "Seconds of the slowest call of all probes.", "Too slow.")


def loaded(bench: Bench) -> Finding:
    """Two independent loads give equal scores."""
    return at_most(
        float(np.max(bench.moved(bench.items, bench.reloaded()), initial=0.0)),
        SAME,
        "Two independent loads score alike.",
        "Two loads score differently: some weights are random (a head that the file does not hold, or under another "
        "name). Compare the keys of the checkpoint with the model's and refuse to load with any missing.",
    )


def varies(bench: Bench) -> Finding:
    """Scores differ between items."""
    scored = bench.base[~np.isnan(bench.base)]
    return at_least(
        len(np.unique(scored)) if bench.spread else min(len(scored), 1),
        2,
        "Different items have different scores.",
        "All items have the same score: it teaches nothing. An output that is saturated, or a parser that never "
        "matches?",
    )


def _without(rows: Items, group: Sequence[str], gone: Sequence[int]) -> Items:
    def emptied(values: Sequence[Any]) -> list[Any]:
        return [None if i in gone else one for i, one in enumerate(values)]

    if group == ("completions",):
        return rows.with_completions(emptied(rows.completions))
    return rows.with_columns(**{name: emptied(rows.columns[name]) for name in group})


def _odd(kind: str, good: Any) -> list[tuple[str, Any]]:
    if kind == "text":
        text = text_of(good)
        other = [{"role": "assistant", "content": text}] if isinstance(good, str) else text
        return [
            ("an empty caption", like(good, "")),
            ("a caption of blanks", like(good, " \n\t ")),
            ("a caption in Chinese with an emoji", like(good, "一个红色的球向左移动。🎬")),
            ("a caption of 2,000 words", like(good, " ".join(["word"] * 2_000))),
            ("the other form (text, messages)", other),
        ]
    if kind == "image":
        return [
            ("a grey picture (mode L)", good.convert("L")),
            ("one with transparency (RGBA)", good.convert("RGBA")),
            ("one with a palette (P)", good.convert("P")),
            ("a tall one (40 x 400)", good.resize((40, 400), Image.Resampling.BICUBIC)),
            ("a black one", Image.new("RGB", good.size)),
        ]
    height, width = good.shape[1:3]
    return [
        ("a clip of one frame", good[:1].copy()),
        ("a clip twice as long", np.concatenate([good, good[::-1]])),
        ("a clip of odd size", good[:, : height // 2 * 2 - 1, : width // 2 * 2 - 1].copy()),
        ("a black clip", np.zeros_like(good)),
    ]
