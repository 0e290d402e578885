"""Reads a recipe from disk with its overrides and the recipes it needs, and writes one back, launchable."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rlkit import plugins
from rlkit.errors import RecipeError
from rlkit.recipe import systems
from rlkit.recipe.contradictions import contradictions
from rlkit.recipe.convert import Reading, convert
from rlkit.recipe.dotted import value_at
from rlkit.recipe.keys import all_keys, alternatives, marks, suggestion
from rlkit.recipe.marks import OnDisk
from rlkit.recipe.schema import PlugIn, Recipe
from rlkit.recipe.text import FOOTER, HEADER, Value, parse, read_tree

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Step:
    """One recipe of a chain: `path` of the file, the run's `name`, and `out`, the absolute path of its run folder."""

    path: Path
    recipe: Recipe
    name: str
    out: Path


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path`, checked with all it needs; raises RecipeError with every problem."""
    return load_chain(path, overrides)[-1].recipe


def load_chain(path: str | Path, overrides: Sequence[str] = ()) -> list[Step]:
    """The recipes that `path` needs, in the order they must run, and itself last. Overrides apply to it alone.

    Raises RecipeError with every problem of every recipe in the chain, each with file and line.
    """
    return _chain(path, overrides, in_comparison=False)


def _chain(path: str | Path, overrides: Sequence[str], *, in_comparison: bool) -> list[Step]:
    chain: list[Step] = []
    problems: list[str] = []
    _follow(Path(path), overrides, chain, problems, [], in_comparison)
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    return chain


def _follow(
    path: Path, overrides: Sequence[str], chain: list[Step], problems: list[str], above: list[Path], in_comparison: bool
) -> None:
    """Read one recipe and, before it, what it needs; `in_comparison` where it is a system of one, which has none."""
    if any(step.path == path.resolve() for step in chain):
        return
    name = plugins.shown_path(path)
    try:
        tree, found = read_tree(path, name)
    except RecipeError as error:
        problems += error.problems
        return
    found += apply_overrides(tree, overrides)
    reading = Reading(path.resolve().parent, found)
    recipe = convert(tree, Recipe, "", reading)
    needs = _needs(tree, recipe, reading, [*above, path.resolve()])
    for needed in needs:
        _follow(needed, (), chain, problems, [*above, path.resolve()], in_comparison)
    recipe = replace(recipe, needs=[str(needed) for needed in needs])
    step = Step(path.resolve(), recipe, run_name(path), run_folder_of(path, recipe))
    if not found:
        found += [f"{place(tree, key)}: {sentence}." for key, sentence in contradictions(recipe)]
    made = [one.out for one in chain]
    if not found and recipe.algorithm == "compare" and not in_comparison:
        found += [f"{place(tree, key)}: {sentence}." for key, sentence in systems.problems(recipe, _read, made)]
    found += _missing_files(tree, recipe, made)
    problems += found
    chain.append(step)


def _read(path: str, overrides: Sequence[str]) -> list[tuple[Path, Recipe, Path]]:
    return [(step.path, step.recipe, step.out) for step in _chain(path, overrides, in_comparison=True)]


def _needs(tree: Value, recipe: Recipe, reading: Reading, above: list[Path]) -> list[Path]:
    """Absolute paths of the needed recipes; a missing one, or one that leads back here, is a problem."""
    listed = tree.data.get("needs")
    paths = []
    if listed is None or not isinstance(listed.data, list):
        return paths  # another type is a problem already noted
    for text, value in zip(recipe.needs, listed.data, strict=True):
        if text is None:
            continue
        path = (reading.base_of(value.where) / text).resolve()
        if path in above:
            circle = " -> ".join([*(one.name for one in above[above.index(path) :]), path.name])
            reading.problems.append(f"{value.where}: 'needs' goes in a circle: {circle}. Remove one of them.")
        elif not path.is_file():
            base = plugins.shown_path(reading.base_of(value.where))
            reading.problems.append(f"{value.where}: 'needs' names {text}, but there is no such file in {base}.")
        else:
            paths.append(path)
    return paths


def run_name(path: Path) -> str:
    """Name of a recipe's run: that of the file, or of the run folder for the copy a run keeps of its recipe."""
    return path.resolve().parent.name if _is_run_copy(path) else path.stem


def run_folder_of(path: Path, recipe: Recipe) -> Path:
    """Absolute path of a recipe's run folder; for the copy in a run folder, that folder."""
    if recipe.out is not None:
        return Path(recipe.out).expanduser().resolve()
    return path.resolve().parent if _is_run_copy(path) else Path.cwd() / "runs" / path.stem


def _is_run_copy(path: Path) -> bool:
    return path.name == "recipe.yaml" and (path.resolve().parent / "env.json").is_file()


def apply_overrides(tree: Value, overrides: Sequence[str]) -> list[str]:
    """Puts `a.b=value` arguments into the tree, each with its own text as its place; returns the problems."""
    problems: list[str] = []
    for text in overrides:
        key, equals, written = text.partition("=")
        where = f"override {text}"
        if not equals or not key or key.startswith("-"):
            advice = f" Write {key.lstrip('-')}=..." if key.startswith("-") else ""
            problems.append(f"{where}: expected key=value, for example train.learning_rate=2e-6.{advice}")
            continue
        try:
            wrapped, found = parse(f"{key}: {written}\n" if written else f"{key}: ''\n", where)
        except RecipeError as error:
            problems += [f"{where}: the value is not readable as YAML. Quote it."] if error.problems else []
            continue
        problems += [f"{where}: {problem.rpartition(': ')[2]}" for problem in found]
        value = wrapped.data.get(key)
        if value is None or len(wrapped.data) != 1:
            problems.append(f"{where}: expected key=value, for example train.learning_rate=2e-6.")
            continue
        _relocate(value, where)
        problems += _put(tree, key, value, where)
    return problems


def _relocate(value: Value, where: str) -> None:
    value.where = where
    below = value.data if isinstance(value.data, list) else value.data.values() if isinstance(value.data, dict) else ()
    for one in below:
        _relocate(one, where)


def _put(tree: Value, key: str, value: Value, where: str) -> list[str]:
    *sections, name = key.split(".")
    at, path = tree, ""
    for section in sections:
        path = f"{path}.{section}" if path else section
        if path not in all_keys():
            parent, _, last = path.rpartition(".")
            return [f"{where}: unknown key '{path}'. {suggestion(parent, last)}"]
        entry = at.data.setdefault(section, Value(where, {}))
        if not isinstance(entry.data, dict):
            entry.data = {}
        at = entry
    at.data[name] = value
    return []


def place(tree: Value, key: str) -> str:
    """Where a dotted key was written, or the nearest section above it that was."""
    at = tree
    for name in key.split("."):
        if not isinstance(at.data, dict) or name not in at.data:
            break
        at = at.data[name]
    return at.where


def _missing_files(tree: Value, recipe: Recipe, made: list[Path]) -> list[str]:
    """Problems of the keys that name a file or folder which is not there and which no needed recipe makes."""
    problems = []
    for key in all_keys().values():
        mark = next((one for hint in alternatives(key.hint) for one in marks(hint) if isinstance(one, OnDisk)), None)
        text = value_at(recipe, key.path) if mark is not None else None
        if not isinstance(text, str):
            continue
        path = Path(text).expanduser()
        if mark.what == "model" and not (text.startswith((".", "/", "~")) or text.count("/") > 1):
            continue
        if mark.what == "data" and HUB_ID.fullmatch(text) and not Path(text).suffix:
            continue
        exists = {"file": path.is_file(), "folder": path.is_dir()}.get(mark.what, path.exists())
        if not exists and not any(path.resolve().is_relative_to(folder) for folder in made):
            what = {"model": "folder", "data": "file or folder"}.get(mark.what, mark.what)
            advice = " A recipe that makes it belongs under `needs`." if mark.what == "model" else ""
            problems.append(f"{place(tree, key.path)}: '{key.path}' is `{text}`, but there is no such {what}.{advice}")
    return problems


def as_dict(recipe: Recipe, base: Path | None = None) -> dict[str, Any]:
    """The recipe as plain values, defaults written out; paths of recipes and plug-ins become relative to `base`."""
    tree = _plain(recipe, base)
    tree["needs"] = [_relative(path, base) for path in recipe.needs]
    if plugins.is_path(recipe.algorithm):
        tree["algorithm"] = _relative(recipe.algorithm, base)
    return tree


def _plain(value: Any, base: Path | None) -> Any:
    if isinstance(value, PlugIn):
        name = _relative(value.name, base) if plugins.is_path(value.name) else value.name
        below = ({"weight": value.weight} if value.weight != 1.0 else {}) | value.options
        return {name: below} if below else name
    if is_dataclass(value):
        return {one.name: _plain(vars(value)[one.name], base) for one in fields(value)}
    if isinstance(value, list):
        return [_plain(one, base) for one in value]
    return {key: _plain(one, base) for key, one in value.items()} if isinstance(value, dict) else value


def _relative(path: str, base: Path | None) -> str:
    if base is None:
        return path
    relative = Path(os.path.relpath(path, base)).as_posix()
    return relative if relative.startswith(".") else f"./{relative}"


def launchable(recipe: Recipe, folder: Path, comment: str) -> str:
    """Text of a recipe file in `folder` that runs this recipe again: all keys written out, with header and footer."""
    body = yaml.safe_dump(as_dict(recipe, folder) | {"out": None}, sort_keys=False, allow_unicode=True, width=110)
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return f"{head}{HEADER}\n{body}{FOOTER}\n"
