"""Preference pairs from captions, without a model: negatives, balancing, splits, audit and card (data_synth/making).

The run folder is the data set. Launched again it goes on where it was killed; finished, `rlkit data rebuild` brings it
up to date with changed captions.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_synth.making import Built, Operator, Options, build
from data_synth.making.intake import fingerprint
from data_synth.making.report import write_report
from data_synth.sources import read_captions
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress, quiet

STAGES = {"make": "making candidates", "fit": "fitting blind probes", "finish": "writing pairs"}


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Make the pairs, audit them, write the card; see recipes/pairs_caption.yaml."""
    quiet()
    started = time.monotonic()
    with Progress(folder.path.name, stages=len(STAGES)) as progress:
        built = make(recipe, folder.path, progress, rank=ranks.number(), world=ranks.count())
    if built is None:
        return
    began = time.monotonic()
    found = write_report(folder.path, seed=recipe.seed)
    built.seconds["report"] = round(time.monotonic() - began, 2)
    folder.finish(results(built, found, time.monotonic() - started))
    print(summary(built, found, folder.path, recipe.data.folder), flush=True)


def make(recipe: Recipe, out: Path, progress: Progress | None, *, rank: int = 0, world: int = 1) -> Built | None:
    """The pairs of a recipe in `out`; this rank's share of them."""
    source, clips = recipe.data.captions, recipe.data.folder
    stages: list[str] = []

    def show(stage: str, done: int, total: int) -> None:
        if progress is not None and total and stage not in stages:
            stages.append(stage)
            progress.stage(STAGES[stage], total)
        elif progress is not None and done:
            progress.advance()

    return build(
        lambda: read_captions(source, clips, media_folder=out / "media"),
        out,
        options_of(recipe),
        source=fingerprint(source, clips),
        rank=rank,
        world=world,
        workers=recipe.pairs.workers,
        engine=recipe.pairs.engine,
        progress=show,
    )


def options_of(recipe: Recipe) -> Options:
    """The recipe's keys as data_synth takes them."""
    making = recipe.pairs
    return Options(
        operators=[Operator(one.name, one.weight, one.options) for one in recipe.negatives],
        num_negatives=recipe.num_negatives,
        seed=recipe.seed,
        questions=dict(making.question),
        parser=making.parser,
        balance=making.balance,
        splits=dict(making.splits),
        near_duplicate=making.near_duplicate,
        rows_per_shard=making.rows_per_shard,
        personal_data=making.personal_data,
        licence=making.licence,
        consent=making.consent,
    )


def results(built: Built, audit: dict[str, Any], seconds: float) -> dict[str, Any]:
    """results.json: rows = pairs + quarantined + without_negative; `cost` has the seconds of each stage too."""
    names = ("length", "surface", "ngram", "position", "blind")
    blind = {name: audit["overall"][name] for name in names if name in audit["overall"]}
    counts = asdict(built)
    cost = {"seconds": round(seconds, 1), "stages": counts.pop("seconds")}
    return {"counts": counts, "audit": blind, "leaks": audit["leaks"], "cost": cost}


def summary(built: Built, audit: dict[str, Any], out: Path, clips: str | None) -> str:
    """What a person wants to know at the end. clips: the folder of the media."""
    of_clips = f" data.folder={clips}" if clips else ""
    lines = [
        f"{out}: {built.pairs:,} pairs from {built.rows:,} captions; {built.quarantined:,} could not be used and "
        f"{built.without_negative:,} gave no negative (rejected_rows.jsonl says why).",
    ]
    if "blind" in audit["overall"]:
        low, high = audit["overall"]["intervals"]["blind"]
        lines.append(f"told without looking: {audit['overall']['blind']:.1%} ({low:.1%} to {high:.1%}), 50 % is none")
    lines += audit["leaks"][:3]
    lines += [
        f"  judge by eye:  rlkit review {out}",
        f"  train:         rlkit run recipes/dpo_caption_folder.yaml data.source=pairs data.pairs={out}{of_clips}",
    ]
    return "\n".join(lines)
