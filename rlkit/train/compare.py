"""Systems side by side: each is a recipe from a start with some keys changed, over several seeds, on the same clips.

A system starts from its recipe's own model or from another system's final weights; its run folder is
`<out>/<system>-seed<k>`, so that a comparison that was stopped goes on and every number can be traced to its run.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlkit import plugins
from rlkit.errors import RecipeError
from rlkit.evaluate import intervals
from rlkit.evaluate.held_out import metric_rows, read_rows
from rlkit.recipe import ALGORITHM, Recipe, System
from rlkit.recipe.file import Step, load
from rlkit.report.compare_table import differences, markdown
from rlkit.report.page import write_report
from rlkit.run import settle
from rlkit.running.folder import RunFolder, prepare, write_text
from rlkit.running.progress import last_screen
from rlkit.train.dpo import changed


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Run every system for every seed, then pool clips and seeds into one table; see recipes/compare_caption.yaml."""
    rows: dict[str, list[list[dict[str, Any]]]] = {}
    seconds: dict[str, list[float]] = {}
    finals: dict[tuple[str, int], Path] = {}
    for seed in recipe.compare.seeds:
        for name, system in recipe.compare.systems.items():
            one = folder.path / f"{name}-seed{seed}"
            finals[name, seed] = one / "final"
            run_system(system_recipe(name, system, recipe, seed, finals), one, name, main=folder.main)
            rows.setdefault(name, []).append(metric_rows(read_rows(one / "evaluation.jsonl")))
            seconds.setdefault(name, []).append(json.loads((one / "cost.json").read_text())["train_seconds"])
    hidden = [name for name, system in recipe.compare.systems.items() if system.hidden]
    shown = {name: by_seed for name, by_seed in rows.items() if name not in hidden}
    results = {
        "systems": {name: intervals.pool_seeds(by_seed) for name, by_seed in shown.items()},
        "differences": differences(shown),
        "cost": {"train_seconds": seconds, "seeds": list(recipe.compare.seeds)},
    }
    if folder.main:
        write_text(folder.path / "table.md", markdown(results["systems"], paired=results["differences"]))
    folder.finish(results)
    if folder.main:
        write_report(folder.path)
    last_screen(results, folder.path)


def system_recipe(
    name: str, system: System, recipe: Recipe, seed: int, finals: Mapping[tuple[str, int], Path]
) -> Recipe:
    """The recipe of one system and seed: its file's, from its start, with its changes."""
    base = Path(system.recipe)
    one = load(base)
    one = replace(one, needs=[], variants={}, seed=seed, evaluate=replace(one.evaluate, compare_with={}))
    if system.start is not None:
        if (system.start, seed) not in finals:
            raise RecipeError(f"compare.systems.{name}: start is '{system.start}', which is no system above it.")
        start = os.path.relpath(finals[system.start, seed])
        one = replace(one, model=replace(one.model, id=start, init=None))
    shared = {"evaluate.num_clips": recipe.evaluate.num_clips, "evaluate.controls": recipe.evaluate.controls}
    return changed(one, shared | system.set)


def run_system(recipe: Recipe, out: Path, name: str, *, main: bool) -> None:
    """Run one system in its folder, or take it over where it is finished."""
    step = Step(out / "recipe.yaml", recipe, name, out)
    found, state = prepare(step, main)
    if state == "finished":
        return
    settle(step)
    plugins.load(ALGORITHM, recipe.algorithm)(recipe, found)
