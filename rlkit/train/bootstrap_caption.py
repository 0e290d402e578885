"""A captioner that learns on from its own judged captions: few corrected ones, many clips without, in rounds.

The loop is that of RAFT (https://huggingface.co/papers/2304.06767): draw several captions of each clip, keep the best
one by a judge, train on these. To keep the best of all and nothing else drifts to what is easy to get right: short
captions, and the same ones (https://huggingface.co/papers/2407.09499). Hence, in `ours`: corrected captions in every
batch, one caption a clip, a quota for each number of events told, copies and near-duplicates left out, a judge that no
caption is chosen by, an end when it no longer rises, and the best round saved. `naive`, from the same first round and
seeds, does without all of it. `few` is the first round: the corrected captions alone.

Deviations: RAFT keeps the best caption of every clip; here it also has to reach a bar, and of those the best share is
kept. A round goes on from the weights of the one before, as in RAFT; bootstrap_caption.restart trains each from
model.id again, as ReST-EM does (https://huggingface.co/papers/2312.06585).

An algorithm of its own beside `bootstrap`: what is drawn, judged, trained and measured is another thing for captions;
what is the same is in rlkit/bootstrap.

Folders: few-seed<k>/round-1   ours-seed<k>/round-2 ...   naive-seed<k>/round-2 ...
ledger.parquet holds a row for each caption: where it came from, how it was judged, and why it was kept or not.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rlkit.bootstrap.ledger import LINEAGE, lineage, write_table
from rlkit.bootstrap.rounds import Course, go_on
from rlkit.caption import clips
from rlkit.caption.bootstrap.rounds import Loop, Round
from rlkit.caption.bootstrap.start import Start, prepare
from rlkit.evaluate.held_out import Evaluation
from rlkit.evaluate.retained import BEFORE
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder, write_folder, write_text
from rlkit.running.progress import Progress, quiet
from rlkit.running.tracking import Tracker, open_tracker, write_jsonl

FEW, OURS, NAIVE = "few", "ours", "naive"
LEDGER = pa.schema(
    [
        *LINEAGE,
        ("clip", pa.string()),
        ("text", pa.string()),
        ("truth", pa.float64()),  # of rendered clips, in [0, 1]; nothing is chosen by it unless it is the judge
    ]
)


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Rounds of every seed and system, a ledger, a captioner, results. See recipes/bootstrap_caption.yaml."""
    quiet()
    seeds = recipe.bootstrap_caption.seeds or [recipe.seed]
    lines: list[dict[str, Any]] = []
    found: dict[str, list[Course[Round]]] = {}
    measured: list[Evaluation] = []
    with Progress(folder.path.name) as progress:
        tracker = open_tracker(recipe.train.report_to, folder, name=folder.path.name, config={}, progress=progress)
        start = prepare(recipe, clips.collect(recipe, folder, progress), progress)
        for seed in seeds:
            evaluation = Evaluation(start.found, recipe, folder, tracker, progress)
            if measured:
                evaluation.held = measured[0].held
            else:
                for other, run_folder in recipe.evaluate.compare_with.items():
                    evaluation.add_run(other, Path(run_folder))
            seeded = start.seeded(seed)
            for name, course in one_seed(seeded, folder, evaluation, tracker, progress).items():
                found.setdefault(name, []).append(course)
                lines += [row for one in course.rounds for row in of_round(seeded, name, one)]
            measured.append(evaluation)
        if folder.main:
            write_table(folder.path / "ledger.parquet", lines, LEDGER)
            keep(folder, found[OURS][0].last, measured[0])
        ranks.wait()
        cost = {
            "train_seconds": seconds_of(found),
            "clips": len(start.unlabelled),
            "quarantined": start.found.quarantined,
        }
        measured[0].finish(cost, more=told(found, seeds), seeds=measured[1:])
        tracker.finish()


def one_seed(
    start: Start, folder: RunFolder, evaluation: Evaluation, tracker: Tracker, progress: Progress
) -> dict[str, Course[Round]]:
    """All systems of one seed, measured."""
    seed, loop = start.recipe.seed, Loop(start, tracker, progress)
    few = folder.part(f"{FEW}-seed{seed}")
    start_of(evaluation, loop, few.part("round-1"))
    first = loop.round(None, f"round 1, seed {seed}", few.part("round-1"), naive=False)
    measure(evaluation, loop, FEW, first)
    systems = {}
    for name in [NAIVE, OURS] if start.recipe.bootstrap_caption.naive else [OURS]:
        systems[name] = one_system(loop, name, first, folder.part(f"{name}-seed{seed}"), tracker)
        last = systems[name].last.folder
        if start.recipe.retain is not None and folder.main:
            write_text(last.path / BEFORE, (first.folder.path / BEFORE).read_text(encoding="utf-8"))  # one start
        measure(evaluation, loop, name, systems[name].last)
    return systems


def start_of(evaluation: Evaluation, loop: Loop, folder: RunFolder) -> None:
    """What the captioner knew before any round, where the recipe says `retain`."""
    if loop.start.recipe.retain is not None and not (folder.path / BEFORE).is_file():
        evaluation.retained.before(FEW, loop.fresh(None), folder)


def one_system(loop: Loop, name: str, first: Round, folder: RunFolder, tracker: Tracker) -> Course[Round]:
    """The rounds of one system after the first, which all share."""
    own, seed, naive = loop.start.recipe.bootstrap_caption, loop.start.recipe.seed, name == NAIVE
    folder.resume_at(None)  # its curve follows from the rounds' files
    tracker = tracker.part(folder.path.name, folder)

    def seen(one: Round) -> Round:
        tracker.log({key: value for key, value in one.told().items() if key != "round"}, one.number)
        return one

    def after(before: Round) -> Round:
        number = before.number + 1
        return seen(
            loop.round(before, f"round {number} of {name}, seed {seed}", folder.part(f"round-{number}"), naive=naive)
        )

    start = seen(loop.decided(1, first.folder, first.rows, first.trained, first.looked, naive=naive))
    found = go_on(
        start, after, naive=naive, rounds=own.rounds, patience=own.patience, max_diversity_drop=own.max_diversity_drop
    )
    if found.stopped:
        loop.progress.note(f"{name}: {found.stopped}; the weights of round {found.last.number} are kept")
    return found


def measure(evaluation: Evaluation, loop: Loop, name: str, one: Round) -> None:
    """A round's captioner on the held-out clips; its rows lie in the round's folder."""
    if not evaluation.read(name, one.folder):
        evaluation.add(name, loop.use(one.folder), one.folder, seconds=one.trained["seconds"])


def keep(folder: RunFolder, one: Round, evaluation: Evaluation) -> None:
    """The round's captioner and its measurement as those of the run."""
    write_folder(folder.final, lambda aside: shutil.copytree(one.folder.final, aside))
    folder.write_json("cost.json", {"train_seconds": one.trained["seconds"]})
    write_jsonl(folder.path / "evaluation.jsonl", evaluation.systems[OURS])


# ---- what is told ---------------------------------------------------------------------------------------------------


def of_round(start: Start, name: str, one: Round) -> list[dict[str, Any]]:
    """The ledger's rows of one round."""
    originals = [row["id"] for row in start.originals]
    near = 1 - start.recipe.bootstrap_caption.near_duplicate
    return [
        lineage(start.recipe.seed, name, one, at, rewards=start.jury.names, originals=originals, near=near)
        | {key: row[key] for key in ("clip", "text", "truth")}
        for at, row in enumerate(one.rows)
    ]


def told(found: Mapping[str, Sequence[Course[Round]]], seeds: Sequence[int]) -> dict[str, Any]:
    """What results.json says of the rounds."""
    return {
        "headline": [FEW, OURS],
        "rounds": {
            name: {
                str(seed): [one.told() for one in course.rounds] for seed, course in zip(seeds, of_seeds, strict=True)
            }
            for name, of_seeds in found.items()
        },
        "kept_round": {name: [course.last.number for course in of_seeds] for name, of_seeds in found.items()},
        "stopped": {name: [course.stopped for course in of_seeds] for name, of_seeds in found.items()},
    }


def seconds_of(found: Mapping[str, Sequence[Course[Round]]]) -> dict[str, float]:
    """Seconds of training of each system, the shared first round counted in each."""
    return {
        name: sum(one.trained["seconds"] for course in of_seeds for one in course.rounds)
        for name, of_seeds in found.items()
    }
