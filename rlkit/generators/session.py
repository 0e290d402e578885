"""The shell of a run that trains a generator: load, train, save, measure what it was and what it became, report.

An algorithm's file holds an `Algorithm`, made from a `Session`, and calls `run`; the loop itself is rlkit/engine.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from torch import Tensor

from rlkit import engine
from rlkit.errors import ModelError
from rlkit.evaluate import by_steps, intervals, retained_prompts
from rlkit.evaluate.generator import Measure, Sampled, at_scale, constant
from rlkit.evaluate.retained import scales
from rlkit.generators import gallery
from rlkit.generators.guard import Guard
from rlkit.generators.prompts import Embeddings, Prompts, read_prompts
from rlkit.generators.replay import replay
from rlkit.models import adapter_scale
from rlkit.models import generator as pipelines
from rlkit.models.generator import EMA, REFERENCE, Generator
from rlkit.recipe import Recipe
from rlkit.report.compare_table import differences
from rlkit.report.finish import finish
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress, quiet
from rlkit.running.tracking import Tracker, open_tracker, write_jsonl
from rlkit.scoring import Rewards


@dataclass(frozen=True)
class Session:
    """What every algorithm works with."""

    recipe: Recipe
    generator: Generator
    prompts: Prompts
    embeddings: Embeddings
    rewards: Rewards
    held_out: Rewards


class Algorithm(Protocol):
    """What an algorithm's file gives."""

    stage: str
    """What the progress display says, e.g. "NFT on 4,000 prompts"."""
    forward_passes: int
    """Of all processes so far; a backward pass counts like a forward one."""

    def losses(self, step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
        """The micro-batches of an optimiser step, of this process; see engine.Losses."""

    def after_step(self, steps: int) -> None:
        """Called when `steps` steps have been taken: companions follow."""

    def cost(self) -> dict[str, Any]:
        """What results.json is to hold under `cost` beside the seconds."""

    def state_dict(self) -> dict[str, Any]:
        """What it must remember beside weights, as JSON takes it."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


def load(recipe: Recipe, prediction: Literal["flow", "epsilon"] | None, keep: Sequence[str]) -> Generator:
    """The generator of model.id with companions, the reference always among them.

    Raises ModelError for a model that predicts something else than `prediction` (None: either will do).
    """
    model = recipe.model
    keep = keep if model.lora is not None else (REFERENCE, *keep)
    generator = pipelines.load(
        model.id, lora=model.lora, keep=keep, dtype=model.dtype, revision=model.revision, device=ranks.device()
    )
    require(recipe, generator, prediction)
    if ranks.sharded():
        generator.shard()
    return generator


def require(recipe: Recipe, generator: Generator, prediction: Literal["flow", "epsilon"] | None) -> None:
    """Raise ModelError for a generator that predicts something else."""
    if prediction not in (None, generator.family.PREDICTION):
        wanted, found = ("flow", "noise") if prediction == "flow" else ("epsilon", "a velocity")
        raise ModelError(f"{recipe.algorithm} trains {wanted} models; {generator.family.PIPELINE} predicts {found}.")


def open_session(recipe: Recipe, generator: Generator) -> Session:
    """Prompts, embeddings and rewards beside the generator. Raises DataError and ModelError for what cannot be had."""
    prompts, embeddings = read_prompts(recipe), Embeddings(generator, recipe.data.cache_gib)
    judges = Rewards(recipe.rewards), Rewards(recipe.evaluate.held_out_rewards)
    return Session(recipe, generator, prompts, embeddings, *judges)


def run(
    recipe: Recipe,
    folder: RunFolder,
    start: Callable[[Recipe], Generator],
    algorithm: Callable[[Session], Algorithm],
    *,
    systems: Mapping[str, str],
    sampled: Mapping[str, Sampled] | None = None,
) -> None:
    """Train by `algorithm` what `start` loads, save it, and measure `systems` on held-out prompts.

    `systems` maps a title in the results to whose weights it has, e.g. {"base": REFERENCE, "nft": EMA}; the last one is
    what was trained and is saved. `sampled` says of some of them how they draw, where that is not as the recipe says.
    """
    quiet()
    sampled = sampled or {}
    with Progress(folder.path.name, stages=stages_of(recipe, systems)) as progress:
        tracker = open_tracker(recipe.train.report_to, folder, name=folder.path.name, config={}, progress=progress)
        session = open_session(recipe, start(recipe))
        trains = algorithm(session)
        trained, name = list(systems.items())[-1]
        watched = (session, trains, name, sampled.get(trained), folder, tracker, progress)
        guard = guard_of(*watched) if len(systems) > 1 else None
        old = replay(session, folder)
        losses = trains.losses if old is None else old.beside(trains)
        seconds = engine.train(
            session.generator, recipe, folder, tracker, progress, losses,
            stage=trains.stage, after_step=trains.after_step, memory=trains, guard=guard,
        )  # fmt: skip
        scale = scales(recipe)[0]
        if scale != 1:
            weights = session.generator.weights(name)
            session.generator.load_weights(adapter_scale.times(weights, scale), name)
        pipelines.save(session.generator, folder.final, name)
        drawn = _drawn(session, systems, sampled, folder, progress)
        headline = (list(systems)[-2:][0], trained)  # what came just before what was trained
        shown = recipe.generation.gallery_prompts
        gallery.publish(folder, tracker, drawn, headline, first=shown, step=recipe.train.max_steps)
        rows = {title: one.rows for title, one in drawn.items()}
        found = {title: intervals.summarise(of_system) for title, of_system in rows.items()}
        for title in found:
            learnt = title == trained or title.startswith(f"{trained} x")
            found[title]["forward_passes"] = constant(float(trains.forward_passes) if learnt else 0.0, 1)
        results: dict[str, Any] = {"systems": found, "measured_on": "held-out prompts"}
        if len(systems) > 1:
            results["differences"] = differences({title: [of_system] for title, of_system in rows.items()})
            results["headline"] = list(headline)
        if recipe.generation.compare_steps:
            results["by_steps"] = by_steps.compared(session, systems, sampled, progress)
        if recipe.retain is not None:
            results["retained"] = retained_prompts.retained(session, headline, systems, sampled, progress)
        if guard is not None:
            results["guard"] = guard.results()
        results["cost"] = {"train_seconds": {trained: seconds}, **trains.cost()}
        if folder.main:
            keep_rows(folder, rows[trained], float(trains.forward_passes), seconds)
        finish(folder, results)
        tracker.finish()


def _drawn(
    session: Session,
    systems: Mapping[str, str],
    sampled: Mapping[str, Sampled],
    folder: RunFolder,
    progress: Progress,
) -> dict[str, gallery.Drawn]:
    """Rows and pictures of every system, and of the start with the best of evaluate.best_of pictures; what a reference
    exists for is compared with it."""
    judges = session.rewards, session.held_out
    measure = Measure(session.prompts.held_out, *judges, session.embeddings, session.recipe)
    ratio = REFERENCE in systems.values()
    found = {
        title: replace(measure, sampled=sampled.get(title)).drawn(
            session.generator, name, folder, progress, title=title, ratio=ratio
        )
        for title, name in systems.items()
    }
    trained, name = list(systems.items())[-1]
    first, *others = scales(session.recipe)
    for scale in others:
        title = f"{trained} x{scale:g}"
        with at_scale(session.generator, name, scale / first):
            found[title] = replace(measure, sampled=sampled.get(trained)).drawn(
                session.generator, name, folder, progress, title=title, ratio=ratio
            )
    if best_of := session.recipe.evaluate.best_of:
        title, name = f"best_of_{best_of}", next(iter(systems.values()))
        found[title] = measure.drawn(
            session.generator, name, folder, progress, title=title, ratio=ratio, best_of=best_of
        )
    return found


def guard_of(
    session: Session,
    trains: Algorithm,
    name: str,
    sampled: Sampled | None,
    folder: RunFolder,
    tracker: Tracker,
    progress: Progress,
) -> Guard | None:
    """The guard of the weights `name`; None where guard.every is 0."""
    settings = session.recipe.guard
    if not settings.every:
        return None
    judges = session.rewards, session.held_out
    measure = Measure(session.prompts.guard, *judges, session.embeddings, session.recipe, settings.num_samples, sampled)
    return Guard(measure, session.generator, name, folder, tracker, progress, lambda: trains.forward_passes)


def keep_rows(folder: RunFolder, rows: Sequence[Mapping[str, Any]], passes: float, seconds: float) -> None:
    """What a comparison reads of a run: a row a prompt of what was trained, and what it took."""
    folder.write_json("cost.json", {"train_seconds": round(seconds, 1)})
    kept = [{"id": row["clip"]} | {key: row[key] for key in row if key != "clip"} for row in rows]
    write_jsonl(folder.path / "evaluation.jsonl", [row | {"forward_passes": passes} for row in kept])


def stages_of(recipe: Recipe, systems: Mapping[str, str]) -> int:
    """Training, a drawing of each system and scale, the best of several, a stage for each number of steps compared, and
    what `retain` draws."""
    drawings = len(systems) * (1 + len(recipe.generation.compare_steps)) + len(scales(recipe)) - 1
    return 1 + drawings + bool(recipe.evaluate.best_of) + retained_prompts.stages(recipe)


def before_and_after(title: str) -> dict[str, str]:
    """The systems of an algorithm that starts from a trained generator and saves the running average."""
    return {"base": REFERENCE, title: EMA}
