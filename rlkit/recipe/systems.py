"""The systems of `algorithm: compare`: which recipe each one runs, and what is wrong with them before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rlkit.errors import RecipeError
from rlkit.recipe.contradictions import contradictions
from rlkit.recipe.dotted import changed
from rlkit.recipe.schema import Recipe
from rlkit.recipe.sections_compare import Compare, System

THE_COMPARISONS = (
    "algorithm", "needs", "seed", "out", "variants", "compare", "evaluate.num_clips", "evaluate.split",
    "evaluate.controls", "evaluate.compare_with",
)  # fmt: skip
"""Keys that `set` cannot change: they would make the systems' numbers no longer comparable, or have no effect."""


def seed_of(system: System, seed: int) -> int:
    """The seed a system is trained with where the others take `seed`: its own one, or the same."""
    return system.seeds[0] if system.seeds else seed


def system_recipe(of_file: Recipe, system: System, comparison: Recipe, *, seed: int, start: str | None) -> Recipe:
    """What one system runs: its file's recipe, from `start` (a folder of weights) if given, with its changes.

    What the file needs, its variants and what it is compared with are left out: in a comparison each is a system.
    """
    ours = comparison.evaluate
    shown = replace(
        of_file.evaluate, compare_with={}, num_clips=ours.num_clips, split=ours.split, controls=ours.controls
    )
    model = of_file.model if start is None else replace(of_file.model, id=start, revision=None, init=None)
    one = replace(of_file, needs=[], variants={}, out=None, seed=seed, evaluate=shown, model=model)
    return changed(one, system.set)


def overrides_of(system: System) -> list[str]:
    """How to read a system's file: with a start, or another model, the file's own need not be there."""
    replaced = system.start is not None or "model.id" in system.set
    return ["model.id=null"] if replaced else []


def problems(
    comparison: Recipe,
    read: Callable[[str, Sequence[str]], Sequence[tuple[Path, Recipe, Path]]],
    made: Sequence[Path],
) -> Iterator[tuple[str, str]]:
    """What is wrong with the systems: (dotted key to blame, sentence).

    `read(file, overrides)` gives (file, recipe, run folder) of all that a system's file needs, itself last, and raises
    RecipeError. `made` are the run folders of what the comparison itself needs.
    """
    compare = comparison.compare
    yield from _of_the_whole(comparison)
    files = {name: Path(system.recipe).resolve() for name, system in compare.systems.items()}
    for number, (name, system) in enumerate(compare.systems.items()):
        key = f"compare.systems.{name}"
        above = list(compare.systems)[:number]
        found = [*_start_problems(key, system, above, compare), *_own_problems(key, system, compare)]
        yield from found
        if not files[name].is_file():
            yield f"{key}.recipe", f"'{key}.recipe' is `{system.recipe}`, but there is no such file"
            continue
        try:
            chain = read(system.recipe, overrides_of(system))
        except RecipeError as error:
            yield from ((f"{key}.recipe", f"'{key}': {problem.rstrip('.')}") for problem in error.problems)
            continue
        _, recipe, _ = chain[-1]
        if recipe.algorithm == "compare":
            yield f"{key}.recipe", f"'{key}' runs {system.recipe}, itself a comparison; name the recipes it compares"
        elif not found:
            yield from _model_problems(key, system, chain, files, made)
            whole = system_recipe(recipe, system, comparison, seed=0, start=system.start)
            yield from ((f"{key}.set", f"'{key}': {sentence}") for _, sentence in contradictions(whole))


def _of_the_whole(comparison: Recipe) -> Iterator[tuple[str, str]]:
    compare = comparison.compare
    if not compare.systems:
        yield "compare.systems", "there is nothing to compare; write `systems: {base: {recipe: recipes/base.yaml}}`"
    if not compare.seeds or len(set(compare.seeds)) < len(compare.seeds):
        yield "compare.seeds", f"'compare.seeds' is {compare.seeds}, expected at least one seed, each once"
    if compare.target is not None and compare.target not in compare.systems:
        known = ", ".join(compare.systems)
        yield "compare.target", f"'compare.target' is '{compare.target}', which is no system; the systems are {known}"
    if comparison.evaluate.num_clips == 0:
        yield "evaluate.num_clips", "0 held-out clips leave nothing to compare; give evaluate.num_clips"


def _start_problems(key: str, system: System, above: Sequence[str], compare: Compare) -> Iterator[tuple[str, str]]:
    if system.start is None:
        return
    if system.start not in above:
        later = " It stands below: move it up." if system.start in compare.systems else ""
        known = f"Systems above: {', '.join(above)}." if above else "There is none above."
        yield f"{key}.start", f"'{key}.start' is '{system.start}', which is no system above it.{later} {known}"[:-1]
    if "model.id" in system.set or "model.init" in system.set:
        yield f"{key}.set", f"'{key}' gives both a start and another model under `set`; drop one of the two"


def _own_problems(key: str, system: System, compare: Compare) -> Iterator[tuple[str, str]]:
    for name in system.set:
        if any(name == ours or name.startswith(f"{ours}.") for ours in THE_COMPARISONS):
            yield f"{key}.set", f"'{key}.set' has {name}, which is the comparison's own, the same for every system"
    if system.seeds is not None and len(system.seeds) != 1:
        yield (
            f"{key}.seeds",
            f"'{key}.seeds' is {system.seeds}, expected one seed, for a system trained once for all, or null for those "
            "of the comparison",
        )
    start = compare.systems.get(system.start or "")
    if start is not None and system.seeds and not start.seeds and system.seeds[0] not in compare.seeds:
        yield (
            f"{key}.seeds",
            f"'{key}' is trained with seed {system.seeds[0]} alone, but its start '{system.start}' is trained with "
            f"{compare.seeds}; choose one of those",
        )


def _model_problems(
    key: str,
    system: System,
    chain: Sequence[tuple[Path, Recipe, Path]],
    files: Mapping[str, Path],
    made: Sequence[Path],
) -> Iterator[tuple[str, str]]:
    """A system without a start whose file reads what another recipe makes."""
    _, recipe, _ = chain[-1]
    if recipe.model.id is None:
        return
    weights = Path(recipe.model.id).expanduser().resolve()
    maker = next((file for file, _, out in chain[:-1] if weights.is_relative_to(out)), None)
    if maker is None:
        return
    same = next((name for name, file in files.items() if file == maker), None)
    reads = f"'{key}' runs {system.recipe}, which starts from {recipe.model.id}"
    if same is not None:
        yield (
            f"{key}.start",
            f"{reads}, but here '{same}' is what {maker.name} makes. Write `start: {same}`; for that folder all the "
            f"same, `set: {{model.id: {recipe.model.id}}}`",
        )
    elif not weights.exists() and not any(weights.is_relative_to(out) for out in made):
        yield (
            f"{key}.start",
            f"{reads}, which is not there. Add {maker.name} as a system and name it with `start`, or put it under "
            "`needs` of the comparison",
        )
