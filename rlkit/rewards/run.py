"""A reward with heads on a vision encoder, from labels to results: see recipes/reward_aesthetic.yaml."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_synth.gallery import dataset
from reward_models.aesthetic import Scorer
from reward_models.vision.encoder import VisionReward
from rlkit.evaluate.intervals import Interval
from rlkit.recipe import Recipe
from rlkit.report.finish import finish
from rlkit.rewards import gallery, held_out, measure, photos, trainer
from rlkit.rewards.dataset import Featured, Groups
from rlkit.rewards.labels import Group, check, read_labels
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress, quiet
from rlkit.running.tracking import Tracker, open_tracker, write_jsonl

BATCH = 64  # pictures per forward pass when measuring


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Collect labels, train the heads and what `model.vision` says, measure beside a start that learnt nothing."""
    quiet()
    more = bool(recipe.reward.photo_cuts) + len(photos.folds_of(recipe))
    with Progress(folder.path.name, stages=4 + more) as progress:
        tracker = open_tracker(recipe.train.report_to, folder, name=folder.path.name, config={}, progress=progress)
        reward = fresh(recipe)
        train, rest = labelled(recipe, folder, reward, progress)
        settings = recipe.reward
        examples = Groups(
            train,
            reward.views,
            reward.spec.outputs,
            seed=recipe.seed,
            crops=settings.train_crops,
            items=settings.train_items,
        )
        if trainer.frozen(reward):
            examples = trainer.featured(reward, examples, progress)
        if not trainer.goes_on(recipe.model):
            trainer.standardise(reward, examples)
        stage = f"reward: training on {len(train):,} groups of {sum(len(one.items) for one in train):,} pictures"
        seconds = trainer.train(reward, recipe, examples, folder, tracker, progress, stage=stage)
        if folder.main:
            reward.save(folder.final)
        ranks.wait()
        folds = photo_folds(recipe, examples, folder, tracker, progress)
        start = fresh(recipe)
        if not trainer.goes_on(recipe.model):
            trainer.standardise(start, examples)
        systems = evaluate({"untrained": start.eval(), "reward": reward}, folds, rest, recipe, folder, progress)
        cost = {"train_seconds": {"reward": seconds}, "groups": len(train)}
        results = {"systems": systems, "measured_on": "held-out pictures", "cost": cost}
        finish(folder, results, cards=False)
        tracker.finish()


def fresh(recipe: Recipe) -> VisionReward:
    """What the recipe starts from."""
    return trainer.load(recipe.model, recipe.reward, frames=recipe.data.num_frames, seed=recipe.seed)


def photo_folds(
    recipe: Recipe, examples: Groups | Featured, folder: RunFolder, tracker: Tracker, progress: Progress
) -> dict[str, VisionReward]:
    """Scene of a photo -> a judge trained as the reward was, on all but that scene's fold."""
    found: dict[str, VisionReward] = {}
    scenes = photos.scenes(recipe.data) if recipe.reward.photo_cuts else []
    for number, left_out in enumerate(photos.folds_of(recipe)):
        kept = [at for at, group in enumerate(examples.groups) if photos.scene_of(group) not in left_out]
        some, judge = examples.part(kept), fresh(recipe)
        if not trainer.goes_on(recipe.model):
            trainer.standardise(judge, some)
        part = folder.part(f"folds/{number}")
        names = ", ".join(scenes[scene] for scene in sorted(left_out))
        stage = f"fold {number + 1}: training without {names}"
        trainer.train(judge, recipe, some, part, tracker.part(f"fold{number}", part), progress, stage=stage)
        found |= {scenes[scene]: judge.eval() for scene in left_out}
    return found


def labelled(
    recipe: Recipe, folder: RunFolder, reward: VisionReward, progress: Progress
) -> tuple[list[Group], list[Group]]:
    """(groups to train on, held-out groups; none of the gallery's, which are rendered when they are measured).

    Raises DataError where no label can be used. What is set aside goes to rejected_rows.jsonl.
    """
    data, outputs = recipe.data, reward.spec.outputs
    if data.source == "gallery":
        rendered = gallery.pictures(data, "train", data.num_clips, progress)
        found = gallery.groups(rendered, cache_gib=data.cache_gib)
        if recipe.reward.photo_cuts:
            cuts = photos.cuts(data, recipe.reward.photo_cuts, progress)
            found += gallery.groups(cuts, cache_gib=data.cache_gib / 2)
    else:
        progress.stage(f"reading the labels in {data.folder}")
        source = Path(data.folder)
        lines = Path(recipe.reward.labels) if recipe.reward.labels else source / "labels.jsonl"
        if recipe.reward.labels is None and not lines.is_file() and _is_gallery(source):
            found = gallery.groups(source, cache_gib=data.cache_gib)
        else:
            found, rejected = read_labels(lines, outputs)
            if rejected and folder.main:
                write_jsonl(folder.path / "rejected_rows.jsonl", rejected)
                progress.note(f"{len(rejected)} lines set aside: {folder.path}/rejected_rows.jsonl")
    for group in found:
        check(group, outputs)
    if data.source == "gallery":
        return found, []
    return held_out.split(found[: data.num_clips], recipe.evaluate.num_clips)


def _is_gallery(folder: Path) -> bool:
    return any((folder / dataset.GALLERY_NAME).with_suffix(suffix).is_file() for suffix in (".parquet", ".jsonl"))


def evaluate(
    rewards: dict[str, VisionReward],
    folds: dict[str, VisionReward],
    rest: Sequence[Group],
    recipe: Recipe,
    folder: RunFolder,
    progress: Progress,
) -> dict[str, dict[str, Interval]]:
    """System -> metrics; on a photo the reward is the judge of `folds` that has not seen its scene, where there are
    any. Of the gallery every score is written to samples/scores.jsonl, to be looked into."""
    scorers = {name: Scorer(one, None, BATCH) for name, one in rewards.items()}
    if recipe.data.source != "gallery":
        progress.stage(f"scoring {len(rest):,} held-out groups", total=len(scorers) * len(rest))
        return {name: held_out.summary(scorer, rest, progress.advance) for name, scorer in scorers.items()}
    count, split = recipe.evaluate.num_clips, recipe.evaluate.split
    source = photos.folder_of(recipe.data)
    real = len(measure.chosen(source, count)) if split == "test" and count else 0
    progress.stage(f"scoring {count + real:,} held-out pictures and their versions", total=count + real)
    systems: dict[str, measure.Score] = {"laplacian": measure.laplacian}
    systems |= {name: _as_score(scorer) for name, scorer in scorers.items()}
    rows: list[dict[str, Any]] = []
    if folder.main and count:
        size = recipe.data.frame_size or gallery.SIZE
        held = measure.rendered(count, seed=gallery.seed_of(recipe.data, split), size=size)
        rows = measure.scored(held, systems, progress.advance)
        for scene, versions in measure.photographs(source, count) if real else ():
            judges = dict(systems)
            if folds:
                judges["reward"] = _as_score(Scorer(folds[scene], None, BATCH))
            rows += measure.scored([versions], judges, progress.advance)
        write_jsonl(folder.samples / "scores.jsonl", rows)
    rows = ranks.gathered(rows)[0]
    return {name: measure.summary(rows, name) for name in systems} if rows else {}


def _as_score(scorer: Scorer) -> measure.Score:
    def score(pictures: Sequence[np.ndarray], faces: Sequence[Any]) -> list[float]:
        return scorer(prompts=[None] * len(pictures), completions=pictures, faces=faces)

    return score
