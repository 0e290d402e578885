"""Does a score rest on what it should: the prompt, the completion, the clip or picture a caption is about?

Evidence is everything a row has but the completion: prompt and columns. Each good completion is scored with its own and
with other rows' evidence; of a reward that reads it, the own one scores higher.
"""

import numpy as np

from reward_models.probes.bench import SAME, Bench, t_of
from reward_models.probes.report import Finding, at_least, at_most, not_applicable

DROP = 0.2
"""Spreads the mean score must fall by with foreign evidence. ImageReward-like scores fall by more than 1; mixtures of
taste and fit by less, but below 0.2 four in nine foreign prompts would be preferred to the own one."""
SURE = 3.0
"""Student's t from which a mean change is no accident: one-sided p = 0.005 for 16 items; some 20 probes ask. An
exchange meets each row three times and counts it as three, so there p is about 0.05 at worst, beside DROP."""
YES = 0.6
"""Share of foreign rows that may reach the median score of the own ones; a guess has 0.5."""
FIXED = 0.05
"""Share of rows whose score must change at least when the completion does."""


def prompt_exchanged(bench: Bench) -> Finding:
    """Good completions under other rows' prompts (captions: prompts, clips and all columns)."""
    own, other = bench.with_other_evidence
    skip = _unconditional(bench, own)
    if skip:
        return skip
    drops = (own - other) / bench.spread
    return _drop(
        drops,
        "Completions score higher with their own prompt than with others'.",
        "Completions score as high with a foreign prompt: it is ignored, or arguments are swapped. Check which tensor "
        "is the text's. If the reward is meant to ignore prompts, say conditional=False.",
    )


def completion_used(bench: Bench) -> Finding:
    """Other rows' completions under the same prompt: some score must change."""
    own, other = bench.exchanged([], own_completion=False)
    if not len(own):
        return not_applicable("all completions are equal.")
    return at_least(
        float(np.mean(np.abs(own - other) > SAME * bench.spread)),
        FIXED,
        "Another completion has another score.",
        "Under the same prompt every completion scores alike: the reward does not look at it.",
    )


def media_used(bench: Bench) -> Finding:
    """Good captions with other rows' clips and pictures, all else kept."""
    own, other = bench.with_other_media
    if not len(own):
        return not_applicable("there are no clips or pictures (columns videos, images) that differ.")
    if not bench.reads_media:
        gone = {name: [None] * len(bench.items) for name in ("videos", "images") if name in bench.items.columns}
        withheld = bool(np.isnan(bench(bench.items.with_columns(**gone))).any())
        if withheld:
            return Finding(
                "fail", "Asks for the clip or picture (None without it) and does not look at it: any other one will do."
            )
        return not_applicable("the reward does not ask for clips or pictures; see prompt_exchanged for what it reads.")
    return _drop(
        (own - other) / bench.spread,
        "Captions score higher with their own clip than with others'.",
        "Captions score as high with a foreign clip or picture: it matters, but not as evidence.",
    )


def says_yes(bench: Bench) -> Finding:
    """How many foreign rows reach the score of half of the own ones."""
    own, other = bench.with_other_evidence
    skip = _unconditional(bench, own)
    if skip:
        return skip
    return at_most(
        float(np.mean(other >= np.median(own))),
        YES,
        "Few completions of other prompts reach the middle of the right ones.",
        "Says yes to nearly everything: completions of other prompts score as the right ones do. Train or prompt it "
        "with more wrong ones, and use the probability of yes instead of the answer.",
    )


def _drop(drops: np.ndarray, good: str, bad: str) -> Finding:
    mean, sure = float(np.mean(drops)), t_of(drops) >= SURE
    return at_least(mean if sure else min(mean, 0.0), DROP, good, bad, mean=mean, share=float(np.mean(drops > SAME)))


def _unconditional(bench: Bench, own: np.ndarray) -> Finding | None:
    if bench.conditional is False:
        return not_applicable("declared to ignore prompts (conditional=False).")
    if not len(own):
        return not_applicable("all prompts are equal, and so are the other columns.")
    if bench.conditional == "auto" and not bench.reads_evidence:
        return not_applicable(
            "reads nothing but the completion. If it should read the prompt or the clip, say conditional=True."
        )
    return None
