"""Systems side by side: each is a recipe from a start with some keys changed, over several seeds, on the same clips.

A system starts from its recipe's own model or from another system's final weights; its run folder is
`<out>/<system>-seed<k>`, so that a comparison that was stopped goes on and every number can be traced to its run. With
compare.workers, several are trained at once in processes of their own, whose words go to `<out>/<system>-seed<k>.log`.
What cannot run is said when the recipe is read (rlkit/recipe/systems.py).
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlkit import plugins
from rlkit.errors import RlkitError
from rlkit.evaluate import intervals, passes
from rlkit.evaluate.held_out import metric_rows, read_rows
from rlkit.recipe import ALGORITHM, Compare, Recipe
from rlkit.recipe.file import Step, load
from rlkit.recipe.systems import overrides_of, seed_of, system_recipe
from rlkit.report.compare_table import differences, markdown
from rlkit.report.finish import finish
from rlkit.run import decide, explain, say, settle
from rlkit.running import interrupt, ranks
from rlkit.running.folder import RunFolder, lock, write_text
from rlkit.running.workers import Job, end_with_parent, run_jobs


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Run every system for every seed, then pool clips and seeds into one table; see recipes/compare_caption.yaml."""
    compare = recipe.compare
    if compare.workers > 1:
        side_by_side(recipe, folder)
    rows: dict[str, list[list[dict[str, Any]]]] = {}
    seconds: dict[str, list[float]] = {}
    curves: dict[str, list[list[passes.Point]]] = {}
    told: dict[str, Any] = {}
    for seed in compare.seeds:
        for name, system in compare.systems.items():
            one = folder_of(folder, compare, name, seed)
            if system.seeds and name in rows:
                continue  # trained once, for all seeds
            run_system(one_recipe(recipe, folder, name, seed), one, name, main=folder.main)
            rows.setdefault(name, []).append(metric_rows(read_rows(one / "evaluation.jsonl")))
            curves.setdefault(name, []).append(passes.curve(one))
            told = RunFolder(one).results()
            seconds.setdefault(name, []).append(json.loads((one / "cost.json").read_text())["train_seconds"])
    shown = {name: by_seed for name, by_seed in rows.items() if not compare.systems[name].hidden}
    results = {
        "systems": {name: intervals.pool_seeds(by_seed) for name, by_seed in shown.items()},
        "differences": differences(shown),
        "cost": {"train_seconds": seconds, "seeds": list(compare.seeds)},
    }
    if "measured_on" in told:
        results["measured_on"] = told["measured_on"]
    if compare.target is not None:
        results["curves"] = {name: curves[name] for name in shown}
        for name, found in passes.to_target({name: curves[name] for name in shown}, compare.target).items():
            results["systems"][name]["passes_to_target"] = found
    if folder.main:
        write_text(folder.path / "table.md", markdown(results["systems"], paired=results["differences"]))
    finish(folder, results, cards=False)


def folder_of(folder: RunFolder, compare: Compare, name: str, seed: int) -> Path:
    """The run folder of one system where the comparison has reached `seed`."""
    return folder.path / f"{name}-seed{seed_of(compare.systems[name], seed)}"


def one_recipe(recipe: Recipe, folder: RunFolder, name: str, seed: int) -> Recipe:
    """The recipe of one system and seed: its file's, from the final weights of its start, with its changes."""
    system = recipe.compare.systems[name]
    seed = seed_of(system, seed)
    start = None
    if system.start is not None:
        start = os.path.relpath(folder_of(folder, recipe.compare, system.start, seed) / "final")
    of_file = load(system.recipe, overrides_of(system))
    return system_recipe(of_file, system, recipe, seed=seed, start=start)


def run_system(recipe: Recipe, out: Path, name: str, *, main: bool) -> None:
    """Run one system in its folder, or take it over where it is finished."""
    step = Step(out / "recipe.yaml", recipe, name, out)
    if decide(step) == "finished":
        return
    settle(step)
    plugins.load(ALGORITHM, recipe.algorithm)(recipe, RunFolder(out, main))
    ranks.wait()


def side_by_side(recipe: Recipe, folder: RunFolder) -> None:
    """Train what is not finished in compare.workers processes. Raises RlkitError where this is one of several."""
    compare, jobs = recipe.compare, {}
    if ranks.count() > 1:
        raise RlkitError("compare.workers starts processes of its own; launch it with one (--num_processes 1)")
    for seed in compare.seeds:
        for name, system in compare.systems.items():
            out = folder_of(folder, compare, name, seed)
            after = None
            if system.start is not None:
                after = folder_of(folder, compare, system.start, seed_of(system, seed)).name
            command = [sys.executable, "-m", "rlkit.train.compare", str(folder.path / "recipe.yaml"), name, str(seed)]
            if not RunFolder(out).finished:
                jobs.setdefault(out.name, Job(command, folder.path / f"{out.name}.log", after))
    where = plugins.shown_path(folder.path)
    say(f"{len(jobs)} systems to train, {compare.workers} at once; each writes to its .log in {where}")
    run_jobs(jobs, compare.workers, say)


def main(argv: Sequence[str]) -> int:
    """Train one system of a comparison: the comparison's recipe.yaml, the system's name, the comparison's seed."""
    path, name, seed = Path(argv[0]), argv[1], int(argv[2])
    recipe, folder = load(path), RunFolder(path.parent)
    one = one_recipe(recipe, folder, name, seed)
    try:
        with interrupt.caught():
            out = folder_of(folder, recipe.compare, name, seed)
            out.mkdir(parents=True, exist_ok=True)
            with lock(out):
                run_system(one, out, name, main=True)
    except interrupt.Interrupted as stop:
        return stop.exit_code
    except Exception as error:
        sentence = explain(error, one.train, folder.path)
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1:]))
