"""A LoRA of a few pictures that learns on from its own samples: draw many, judge them, keep some, train again.

The loop is that of RAFT (https://huggingface.co/papers/2304.06767) and The Chosen One
(https://huggingface.co/papers/2311.10093), with DreamBooth's prior preservation
(https://huggingface.co/papers/2208.12242). To keep the best of all samples and nothing else tilts the model towards
what is rewarded most, round by round, until little else is left (https://huggingface.co/papers/2407.09499); real data
in the mixture bounds that. Hence, in `ours`: a quota per cluster of alike samples, originals in every batch, copies and
near-duplicates left out, a judge that no sample is chosen by, an end when it no longer rises, and the best round saved.
`naive`, from the same first round, prompts and seeds, does without all of it.

Deviation: RAFT keeps the best of each prompt; here it is the best of each cluster, since there is one sample a prompt.
A round goes on from the weights of the one before, as in RAFT: few steps a round then suffice, and the drift that this
allows is bounded by originals, prior and rollback. bootstrap.restart trains each from the base model again, as ReST-EM
does (https://huggingface.co/papers/2312.06585): what a round learnt wrong is then only in its samples, which were
judged; max_steps must teach the whole look anew.

seed<k> of a run, in its folder:   seed<k>/prior   start-seed<k>/round-1   ours-seed<k>/round-2 ...   naive-seed<k>/...
ledger.parquet holds a row for each sample: where it came from, how it was judged, and why it was kept or not.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from rlkit import gates
from rlkit.bootstrap.ledger import lineage as lineage_of
from rlkit.bootstrap.ledger import write_table
from rlkit.bootstrap.rounds import Course, go_on
from rlkit.evaluate import intervals
from rlkit.evaluate.generator import Measure, constant
from rlkit.evaluate.intervals import Interval
from rlkit.generators import reward_gate
from rlkit.generators.bootstrap import ledger
from rlkit.generators.bootstrap.rounds import Loop, Round
from rlkit.generators.bootstrap.start import Start, prepare
from rlkit.generators.gallery import save_grid
from rlkit.models import generator as pipelines
from rlkit.models.generator import POLICY, REFERENCE
from rlkit.recipe import Recipe
from rlkit.report.compare_table import differences
from rlkit.report.finish import finish
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress, quiet
from rlkit.running.tracking import Tracker, open_tracker

OURS, NAIVE = "ours", "naive"
ACROSS = 8  # pictures in a row of a gallery
SHOWN = 32  # kept samples in the gallery of a round


@dataclass
class System(Course[Round]):
    """The rounds of one system and seed; `last` is the best of ours, the last of naive."""

    prior: dict[str, list[dict[str, Any]]]
    """Rows of plain prompts, of the `base` model and of `last`; empty lists without rewards."""


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Rounds of every seed and system, a ledger, a LoRA, results. See recipes/bootstrap_lora.yaml."""
    quiet()
    seeds = recipe.bootstrap.seeds or [recipe.seed]
    found: dict[str, list[System]] = {}
    starts: dict[str, Any] = {}
    lines: list[dict[str, Any]] = []
    with Progress(folder.path.name) as progress:
        tracker = open_tracker(recipe.train.report_to, folder, name=folder.path.name, config={}, progress=progress)
        for seed in seeds:
            start, systems = one_seed(replace(recipe, seed=seed), folder, tracker, progress)
            for name, system in systems.items():
                found.setdefault(name, []).append(system)
                lines += [row for one in system.rounds for row in lineage(start, name, one, folder.path)]
            starts[str(seed)] = {"judge_auc": start.auc, "copy_distance": start.near, "set_aside": start.set_aside}
            if seed == seeds[0]:
                pipelines.save(start.session.generator, folder.final, POLICY)  # ours is used last
        results = summary(found, seeds) | {"starts": starts}
        if folder.main:
            write_table(folder.path / "ledger.parquet", lines, ledger.LEDGER)
            publish(folder, tracker, {name: of_seeds[0] for name, of_seeds in found.items()}, seeds[0])
        finish(folder, results)
        tracker.finish()


def one_seed(
    recipe: Recipe, folder: RunFolder, tracker: Tracker, progress: Progress
) -> tuple[Start, dict[str, System]]:
    """All systems of one seed; the generator is left with the best weights of ours."""
    from accelerate.utils import set_seed

    set_seed(recipe.seed)  # of the fresh adapter
    start = prepare(recipe, folder.part(f"seed{recipe.seed}"), progress)
    if start.set_aside:
        progress.note(f"{start.set_aside} of data.folder could not be used; see rejected_rows.jsonl")
    loop = Loop(start, tracker, progress)
    title = f"round 1 of seed {recipe.seed}"
    first = loop.round(None, title, _part(folder, "start", recipe.seed, 1), naive=False)
    pass_gate(loop, first, folder.part(f"seed{recipe.seed}"))
    systems = {}
    for name in [NAIVE, OURS] if recipe.bootstrap.naive else [OURS]:
        own = folder.part(f"{name}-seed{recipe.seed}")
        own.resume_at(None)  # its curve follows from the rounds' files
        systems[name] = one_system(loop, name, first, folder, tracker.part(own.path.name, own))
    loop.use(systems[OURS].last.folder)
    return start, dict(sorted(systems.items(), reverse=True))


def pass_gate(loop: Loop, first: Round, folder: RunFolder) -> None:
    """What the rewards keep of the first round has to please the held-out judge more than its samples do on the whole.
    Raises GateError where it does not and sampling.gate is stop."""
    start = loop.start
    if gates.passed(start.recipe, folder) or not first.kept:
        return
    prompts = [row["prompt"] for row in first.rows]
    pictures = [Image.fromarray(ledger.pixels(row)) for row in first.rows]
    held_out = start.held_out.total(start.held_out(prompts, pictures)).tolist()
    about = f"{len(first.kept)} of {len(first.rows)} samples of the first round chosen by the rewards"
    chosen = [one.kept for one in first.decisions]
    gate = reward_gate.of_samples(held_out, chosen, prompts, about)
    advice = "Give rewards that see what you want, more samples (bootstrap.num_samples), or a larger likeness_weight"
    gates.settle("reward", " + ".join(start.rewards.names), gate, advice, start.recipe, folder, loop.progress)


def one_system(loop: Loop, name: str, first: Round, folder: RunFolder, tracker: Tracker) -> System:
    """The rounds of one system after the first, which all share."""
    own, seed, naive = loop.start.recipe.bootstrap, loop.start.recipe.seed, name == NAIVE

    def after(before: Round) -> Round:
        title = f"round {before.number + 1} of {name}, seed {seed}"
        one = loop.round(before, title, _part(folder, name, seed, before.number + 1), naive=naive)
        _log(tracker, one)
        return one

    start = loop.decided(1, first.folder, first.rows, first.trained, first.looked, naive=naive)
    _log(tracker, start)
    found = go_on(
        start, after, naive=naive, rounds=own.rounds, patience=own.patience, max_diversity_drop=own.max_diversity_drop
    )
    if found.stopped:
        loop.progress.note(f"{name}: {found.stopped}; the weights of round {found.last.number} are kept")
    prior = _prior(loop, found.last, folder.part(f"{name}-seed{seed}"))
    return System(found.rounds, found.last, found.stopped, prior)


def _log(tracker: Tracker, one: Round) -> None:
    tracker.log({name: value for name, value in one.told().items() if name != "round"}, one.number)


def _part(folder: RunFolder, name: str, seed: int, number: int) -> RunFolder:
    return folder.part(f"{name}-seed{seed}").part(f"round-{number}")


def _prior(loop: Loop, last: Round, part: RunFolder) -> dict[str, list[dict[str, Any]]]:
    """What the guard's prompts give without the trigger, by the base model and with the LoRA: what was lost."""
    start, path = loop.start, part.path / "prior.json"
    if not len(start.session.rewards):
        return {"base": [], "last": []}
    if not path.is_file():
        loop.use(last.folder)
        prompts = start.session.prompts.guard
        session = start.session
        measure = Measure(
            prompts, session.rewards, session.held_out, session.embeddings, start.recipe,
            start.recipe.guard.num_samples,
        )  # fmt: skip
        loop.progress.stage(f"{part.path.name}: plain prompts", 2 * len(prompts))

        def seen(numbers: Sequence[int], name: str) -> list[dict[str, Any]]:
            found = [measure.of_prompt(start.session.generator, name, number, ratio=False)[0] for number in numbers]
            loop.progress.advance(len(numbers))
            return found

        numbers = list(range(len(prompts)))
        rows = {
            title: ranks.spread(lambda some, name=name: seen(some, name), numbers)
            for title, name in (("base", REFERENCE), ("last", POLICY))
        }
        part.write_json("prior.json", rows)
        ranks.wait()
    return json.loads(path.read_text(encoding="utf-8"))


# ---- what is told ---------------------------------------------------------------------------------------------------


def lineage(start: Start, name: str, one: Round, run_folder: Path) -> list[dict[str, Any]]:
    """The ledger's rows of one round."""
    size, rows = start.recipe.bootstrap.rows_per_shard, []
    originals = [original.name for original in start.originals]
    for at, row in enumerate(one.rows):
        shard = one.folder.path / ledger.SHARD_NAME.format(row["number"] // size)
        common = lineage_of(
            start.recipe.seed, name, one, at, rewards=start.rewards.names, originals=originals, near=start.near
        )
        rows.append(common | {"prompt": row["prompt"], "shard": shard.relative_to(run_folder).as_posix()})
    return rows


def summary(found: Mapping[str, Sequence[System]], seeds: Sequence[int]) -> dict[str, Any]:
    """results.json: `<metric>_first` is of the round that all systems share, `_last` of the one that is kept."""
    systems: dict[str, dict[str, Interval]] = {}
    rows = {name: [_rows(one) for one in of_seeds] for name, of_seeds in found.items()}
    for name, of_seeds in found.items():
        told = intervals.pool_seeds(rows[name])
        for when, pick in (("first", lambda one: one.rounds[0]), ("last", lambda one: one.last)):
            accepted = [[{f"acceptance_{when}": float(d.accepted)} for d in pick(one).decisions] for one in of_seeds]
            told |= intervals.pool_seeds(accepted)
            told[f"diversity_{when}"] = _over([pick(one).looked["diversity"] for one in of_seeds])
        told["copies"] = constant(sum(r.told()["copies_kept"] for one in of_seeds for r in one.rounds), len(of_seeds))
        if of_seeds[0].prior["base"]:
            prior = [_paired(one.prior["base"], one.prior["last"], "prior", ("reward",)) for one in of_seeds]
            told |= intervals.pool_seeds(prior)
        told["forward_passes"] = _over([sum(r.trained["forward_passes"] for r in one.rounds) for one in of_seeds])
        systems[name] = told
    results: dict[str, Any] = {"systems": systems, "measured_on": "held-out prompts and samples"}
    if len(systems) > 1:
        results["differences"] = differences(rows)
        results["headline"] = [NAIVE, OURS]
    results["rounds"] = {
        name: {str(seed): [r.told() for r in one.rounds] for seed, one in zip(seeds, of_seeds, strict=True)}
        for name, of_seeds in found.items()
    }
    results["kept_round"] = {name: [one.last.number for one in of_seeds] for name, of_seeds in found.items()}
    results["stopped"] = {name: [one.stopped for one in of_seeds] for name, of_seeds in found.items()}
    seconds = {name: [sum(r.trained["seconds"] for r in one.rounds) for one in of] for name, of in found.items()}
    missing = sum(r.told()["missing_rewards"] for of_seeds in found.values() for one in of_seeds for r in one.rounds)
    results["cost"] = {"train_seconds": {name: sum(of) for name, of in seconds.items()}, "missing_rewards": missing}
    return results


def _rows(one: System) -> list[dict[str, Any]]:
    """A row a held-out prompt: reward and held-out judge, first and last."""
    return _paired(one.rounds[0].looked["rows"], one.last.looked["rows"], "", ("reward", "held_out"))


def _paired(
    first: Sequence[Mapping[str, Any]], last: Sequence[Mapping[str, Any]], prefix: str, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of the same prompts before and after, side by side."""
    return [
        {"clip": before["clip"]}
        | {
            "_".join(filter(None, (prefix, name, when))): row[name]
            for when, row in (("first", before), ("last", after))
            for name in names
            if name in row
        }
        for before, after in zip(first, last, strict=True)
    ]


def _over(values: Sequence[float]) -> Interval:
    """What is one number a seed: the mean, the least and the most."""
    mean = sum(values) / len(values)
    return {"value": mean, "low": min(values), "high": max(values), "n": len(values), "excluded": 0}


def publish(folder: RunFolder, tracker: Tracker, systems: Mapping[str, System], seed: int) -> None:
    """The first held-out prompts after the first round and the last, and what each round kept, for the report."""
    rows: list[dict[str, Any]] = []
    after = {"start": next(iter(systems.values())).rounds[0]} | {name: one.last for name, one in systems.items()}
    for number in range(len(list(after["start"].folder.samples.glob("*.png")))):
        prompts = after["start"].looked["rows"]
        row: dict[str, Any] = {"kind": "first", "number": number, "prompt": prompts[number]["clip"], "pictures": {}}
        for name, one in after.items():
            path = one.folder.samples / f"{number:02}.png"
            row["pictures"][name] = path.relative_to(folder.path).as_posix()
            for key in ("reward", "held_out"):
                row.setdefault(key, {})[name] = one.looked["rows"][number][key]
        rows.append(row)
    for number in range(1, max(len(one.rounds) for one in systems.values()) + 1):
        row = {"kind": "kept", "number": number, "prompt": f"round {number}", "pictures": {}}
        for name, one in systems.items():
            if number <= len(one.rounds) and one.rounds[number - 1].kept:
                path = folder.samples / f"{name}-seed{seed}-round-{number}.png"
                save_grid(path, _grid(one.rounds[number - 1]))
                row["pictures"][name] = path.relative_to(folder.path).as_posix()
        rows.append(row)
    tracker.pictures(rows, len(rows))


def _grid(one: Round) -> list[list[Image.Image]]:
    """The kept samples, cluster by cluster."""
    order = sorted(one.kept, key=lambda at: (one.decisions[at].cluster, -one.totals[at]))[:SHOWN]
    shown = [Image.fromarray(ledger.pixels(one.rows[at])) for at in order]
    return [shown[at : at + ACROSS] for at in range(0, len(shown), ACROSS)]
