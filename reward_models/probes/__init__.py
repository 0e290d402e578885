"""Can a reward be trusted to steer training? Probes for its contract, its evidence, and what it can be hacked with.

    report = check(functools.partial(reward_models.load, "runs/reward_aesthetic/final"), kind="image")
    print(report)                  # a table; report.to_json(), report.failed, report.exit_code

A probe changes items in a way whose effect on a good reward is known, and compares. A pass is no proof: it says that
these changes, on these items, do no harm. Files: conformance.py (the contract of reward_models), metamorphic.py (what
must not matter), evidence.py (what must matter), picture_hacks.py and caption_hacks.py (what must not pay), embedded.py
(the items a check has by itself), reading.py (your own). Thresholds stand with their reasons at the top of each file.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

from reward_models.probes import caption_hacks, conformance, evidence, metamorphic, picture_hacks
from reward_models.probes.bench import Bench, Score
from reward_models.probes.embedded import embedded
from reward_models.probes.items import KINDS, Items, Kind
from reward_models.probes.reading import read_items
from reward_models.probes.report import Finding, ProbeError, Report, not_applicable

__all__ = ["PROBES", "Finding", "Items", "Report", "check", "embedded", "read_items"]

LEAST_ITEMS = 8
"""Fewer rows than this show nothing: the t of a rise could hardly pass its bound."""


class Probe(NamedTuple):
    """One question. `kinds`: of completions it can be asked of. `relative`: needs scores that differ."""

    name: str
    ask: Callable[[Bench], Finding]
    kinds: Collection[Kind] = KINDS
    relative: bool = True


PICTURES: Collection[Kind] = ("image", "video")
TEXT: Collection[Kind] = ("text",)
PROBES: tuple[Probe, ...] = (
    Probe("signature", conformance.signature, relative=False),
    Probe("answers", conformance.answers, relative=False),
    Probe("varies", conformance.varies, relative=False),
    Probe("deterministic", conformance.deterministic, relative=False),
    Probe("inputs_unchanged", conformance.inputs_unchanged, relative=False),
    Probe("loaded", conformance.loaded, relative=False),
    Probe("batch_size", metamorphic.batch_size, relative=False),
    Probe("permutation", metamorphic.permutation, relative=False),
    Probe("neighbours", metamorphic.neighbours, relative=False),
    Probe("padding", metamorphic.padding, relative=False),
    Probe("dtype", metamorphic.dtype),
    Probe("jpeg", metamorphic.jpeg),
    Probe("half_size", metamorphic.half_size),
    Probe("double_size", metamorphic.double_size),
    Probe("frame_rate", metamorphic.frame_rate, ("text", "video")),
    Probe("typography", metamorphic.typography, TEXT),
    Probe("synonyms", metamorphic.synonyms, TEXT),
    Probe("truncation", metamorphic.truncation, TEXT),
    Probe("prompt_exchanged", evidence.prompt_exchanged),
    Probe("completion_used", evidence.completion_used),
    Probe("media_used", evidence.media_used, TEXT),
    Probe("says_yes", evidence.says_yes),
    *(Probe(name, partial(picture_hacks.picture_change, name=name), PICTURES) for name in picture_hacks.CHANGES),
    Probe("text_overlay", picture_hacks.text_overlay, PICTURES),
    Probe("frozen", picture_hacks.frozen, ("video",)),
    Probe("repeated", caption_hacks.repeated, TEXT),
    Probe("filled", caption_hacks.filled, TEXT),
    Probe("keyword_stuffing", caption_hacks.keyword_stuffing, TEXT),
    Probe("praise", caption_hacks.praise, TEXT),
    Probe("half_told", caption_hacks.half_told, TEXT),
    Probe("empty", caption_hacks.empty, TEXT),
    Probe("length", caption_hacks.length, TEXT),
    Probe("missing", conformance.missing, relative=False),
    Probe("odd_items", conformance.odd_items, relative=False),
    Probe("stateless", conformance.stateless, relative=False),
    Probe("finite", conformance.finite, relative=False),
    Probe("deadline", conformance.deadline, relative=False),
)
"""In the order they are asked: the last three look back at all calls before."""


def check(
    load: Callable[..., Score],
    *,
    kind: Kind,
    items: Items | None = None,
    conditional: bool | Literal["auto"] = "auto",
    deadline_s: float = 300.0,
    only: Collection[str] | None = None,
) -> Report:
    """Ask every probe that applies of the reward that `load()` gives. `load` is called twice, and once more with
    dtype="bfloat16" if it takes that; one of these later loads at a time is in memory beside the first.

    kind: of the completions. items: what to score (default: `embedded(kind)`). conditional: whether the reward should
    read the prompt (for captions: prompt, clip and columns); "auto" asks only rewards that do. deadline_s: seconds one
    call may take, after which nothing more is asked. only: names of the probes to ask (default: all).

    A reward that raises fails the probe that made it raise, and the others go on. What `load` itself raises is raised.
    Raises ValueError for fewer than 8 items, items of another kind, and names of no probe.
    """
    items = embedded(kind) if items is None else items
    unknown = sorted(set(only or ()) - {probe.name for probe in PROBES})
    if unknown:
        raise ValueError(f"no probe {', '.join(unknown)}; there are {', '.join(probe.name for probe in PROBES)}.")
    if items.kind != kind or len(items) < LEAST_ITEMS:
        raise ValueError(f"found {len(items)} items of kind {items.kind}; expected {kind}, and at least {LEAST_ITEMS}.")
    bench = Bench(load, items, conditional, deadline_s)
    asked = [probe for probe in PROBES if kind in probe.kinds and (only is None or probe.name in only)]
    return Report(kind, len(items), [replace(_ask(probe, bench), name=probe.name) for probe in asked])


def _ask(probe: Probe, bench: Bench) -> Finding:
    if bench.hung and probe.name != "deadline":
        return not_applicable("not asked: an earlier call still runs, past the deadline.")
    if bench.first_failure and probe.name not in ("signature", "answers", "finite", "deadline"):
        return not_applicable("the items could not be scored at all; see `answers`.")
    try:
        if probe.relative and not bench.spread:
            return not_applicable("the scores do not differ; see `varies`.")
        return probe.ask(bench)
    except ProbeError as failed:
        return Finding("fail", f"{str(failed)[:1].upper()}{str(failed)[1:]}")
