"""Measures a captioner on held-out clips: greedy captions against the truth, order by likelihood, controls, skills."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from data_synth.negatives import order_swap
from data_synth.records import make_record
from data_synth.world.captions import PROMPTS, caption
from data_synth.world.clips import events_of
from data_synth.world.script import Event
from rlkit.caption import generate, one_row, rows
from rlkit.caption.clips import Reader
from rlkit.evaluate import caption_metrics
from rlkit.models import Captioner
from rlkit.recipe import Evaluate
from rlkit.running import ranks
from rlkit.running.progress import Progress

Probe = tuple[int, str | None, str, rows.Example]
"""(number of the clip, skill, answer, example)"""


@dataclass
class HeldOut:
    """Held-out clips and their frames, encoded once and asked of every system: `examples[view][i]`.

    Views: `clip`, and for the first clips the controls: `blind` (no video), `shuffled` (frames in another order),
    `other_clip`. The true caption is answer 0 and the same events with two neighbours swapped answer 1, for the order
    by likelihood.
    """

    rows: list[dict[str, Any]]
    examples: dict[str, list[rows.Example]] = field(default_factory=dict)
    probes: list[Probe] = field(default_factory=list)


def hold_out(
    captioner: Captioner, clips: Sequence[Mapping[str, Any]], reader: Reader, settings: Evaluate, language: str
) -> HeldOut:
    """Decode and encode the clips for all views and probes."""
    held = HeldOut([dict(row) for row in clips])
    for view in ("clip", *settings.controls):
        held.examples[view] = [
            rows.encode(captioner, _order_record(row, language), _shown(held.rows, i, view, reader), index=i)
            for i, row in enumerate(held.rows if view == "clip" else held.rows[: settings.control_clips])
        ]
    for i, row in enumerate(held.rows[: settings.probe_clips]):
        media = held.examples["clip"][i].prompt
        for skill, question, answer in row.get("probes", ()):
            record = make_record(question, answer, [], videos=[row["video"]])
            example = rows.encode(captioner, record, _shown(held.rows, i, "clip", reader), index=i)
            for key in example.prompt.keys() - rows.ROW_KEYS:
                example.prompt[key] = media[key]  # one copy of the pixels for all questions
            held.probes.append((i, skill, answer, example))
    return held


def measure(
    captioner: Captioner, held: HeldOut, settings: Evaluate, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """One row per clip: `id`, `caption`, its `told` events, and every metric as a number.

    The processes of the run share the clips; each of them returns all rows.
    """
    size = settings.per_device_eval_batch_size
    said_of = _speaker(captioner, settings, progress)
    texts = {view: ranks.spread(said_of, examples) for view, examples in held.examples.items()}
    likely = ranks.spread(lambda part: order_by_likelihood(captioner, part, batch_size=size), held.examples["clip"])
    skills = asked(captioner, held.probes, settings, progress)
    measured = []
    for i, row in enumerate(held.rows):
        text = texts["clip"][i]
        line: dict[str, Any] = {"id": row["id"], "caption": text, "told": [], "order_likelihood": likely[i]}
        if row.get("events") is None:  # a folder's captions come without a list of events
            line |= {"length_words": caption_metrics.length_words(text), "repetition": caption_metrics.repetition(text)}
            measured.append(line)
            continue
        truth = [Event(*event) for event in row["events"]]
        told, extra = events_of(text)
        line["told"] = [list(event) for event in told]
        line |= caption_metrics.score(truth, told, extra, text)
        for view in held.examples:
            if view != "clip" and i < len(texts[view]):
                line[f"{view}_order_exact"] = caption_metrics.order_exact(truth, events_of(texts[view][i])[0])
        measured.append(line | skills.get(i, {}))
    return measured


def asked(
    captioner: Captioner, probes: Sequence[Probe], settings: Evaluate, progress: Progress | None = None
) -> dict[int, dict[str, float]]:
    """By clip, the share of its questions answered right, but for case and the stop (`skill_probe`), and each
    skill's own."""
    answers = ranks.spread(_speaker(captioner, settings, progress), [probe[3] for probe in probes])
    found: dict[int, dict[str, list[float]]] = {}
    for (clip, skill, answer, _), said in zip(probes, answers, strict=True):
        right = found.setdefault(clip, {})
        for name in ("skill_probe", *([f"skill_{skill}"] if skill else [])):
            right.setdefault(name, []).append(float(_plain(said) == _plain(answer)))
    return {clip: {name: sum(one) / len(one) for name, one in right.items()} for clip, right in found.items()}


def _plain(answer: str) -> str:
    return answer.strip().rstrip(".!。").casefold()


def _speaker(
    captioner: Captioner, settings: Evaluate, progress: Progress | None
) -> Callable[[Sequence[rows.Example]], list[str]]:
    """What the captioner says, greedily, to examples."""
    options = {"max_new_tokens": settings.max_new_tokens, "batch_size": settings.per_device_eval_batch_size}
    return lambda part: [one[0] for one in generate.captions(captioner, part, progress=progress, **options)]


@torch.no_grad()
def order_by_likelihood(captioner: Captioner, examples: Sequence[rows.Example], *, batch_size: int) -> list[float]:
    """1.0 where the true order is more likely than the swapped one, 0.5 for a tie, NaN without a swapped one."""
    found: list[float] = []
    captioner.model.eval()
    for start in range(0, len(examples), batch_size):
        batch = rows.batch_of(captioner, examples[start : start + batch_size])
        log_probs, _ = one_row.log_probs(captioner, batch)
        total = torch.nn.functional.pad(log_probs.sum(-1), (0, 1))  # room for a second answer where no row has one
        better = torch.sign(total[:, 0] - total[:, 1]) / 2 + 0.5
        has_two = batch["answer_mask"].sum(1) > 1
        found += better.masked_fill(~has_two, torch.nan).tolist()
    return found


def _order_record(row: Mapping[str, Any], language: str) -> dict[str, Any]:
    """The true caption beside the same with two neighbouring events swapped, where that can be done."""
    if row.get("events") is None:
        swapped = order_swap.corrupt(row["true_caption"])
        wrong = [] if swapped is None else [("order_swap", swapped.text)]
        return make_record(PROMPTS[language], row["true_caption"], wrong, videos=[row["video"]], **_piece(row))
    events = [Event(*event) for event in row["events"]]
    swapped = list(events)
    at = random.Random(row["id"]).randrange(len(events) - 1) if len(events) > 1 else 0
    swapped[at : at + 2] = swapped[at : at + 2][::-1]
    wrong = [("order_swap", caption(swapped, language))]
    return make_record(PROMPTS[language], caption(events, language), wrong, videos=[row["video"]])


def _piece(row: Mapping[str, Any]) -> dict[str, Any]:
    """The seconds of the video that a row is about."""
    return {"start": row.get("start"), "end": row.get("end")}


def _shown(held: Sequence[Mapping[str, Any]], index: int, view: str, reader: Reader):
    """The frames a view shows for a clip; None hides them."""
    if view == "blind":
        return None
    row = held[(index + 1) % len(held)] if view == "other_clip" else held[index]
    clip = reader.clip(row["video"], row.get("start"), row.get("end"))
    return rows.shuffled(clip, seed=index) if view == "shuffled" else clip
