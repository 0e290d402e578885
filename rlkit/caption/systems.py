"""A run and its variants: each a system trained from the same clips and measured beside the others."""

from collections.abc import Callable
from pathlib import Path

from rlkit.caption import clips
from rlkit.evaluate import held_out
from rlkit.evaluate.held_out import Evaluation
from rlkit.recipe import Recipe
from rlkit.recipe.dotted import changed
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress, quiet
from rlkit.running.tracking import open_tracker


def run_systems(recipe: Recipe, folder: RunFolder, one_system: Callable[..., float], *, name: str, stages: int) -> None:
    """Train and measure the recipe as system `name` in `folder`, then each variant in `variants/`; write the results.

    `one_system(recipe, folder, found, evaluation, tracker, progress, name=...)` gives its seconds of training and goes
    through `stages` stages of the progress display.
    """
    quiet()
    stages += held_out.stages(recipe)
    with Progress(folder.path.name, stages=clips.stages(recipe) + stages * (1 + len(recipe.variants))) as progress:
        found = clips.collect(recipe, folder, progress)
        tracker = open_tracker(recipe.train.report_to, folder, name=folder.path.name, config={}, progress=progress)
        evaluation = Evaluation(found, recipe, folder, tracker, progress)
        for other, run_folder in recipe.evaluate.compare_with.items():
            evaluation.add_run(other, Path(run_folder))
        seconds = {name: one_system(recipe, folder, found, evaluation, tracker, progress, name=name)}
        for variant, changes in recipe.variants.items():
            part = folder.part(f"variants/{variant}")
            seconds[variant] = one_system(
                changed(recipe, changes), part, found, evaluation, tracker.part(variant, part), progress, name=variant
            )
        clips_used = {"clips": len(found.train)} if recipe.data.source != "pairs" else {}
        cost = {"train_seconds": seconds, **clips_used, "quarantined": found.quarantined}
        evaluation.finish(cost, headline=name)
        tracker.finish()
