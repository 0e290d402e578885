"""What there is: recipes, runs and plug-ins with their first line, the reference of keys, and the difference of two
runs."""

from __future__ import annotations

import ast
import json
import os
import re
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

from rlkit import plugins
from rlkit.errors import RecipeError, RunFolderError
from rlkit.recipe import ALGORITHM, FAMILY, NEGATIVE, REWARD
from rlkit.recipe.file import as_dict, load
from rlkit.recipe.keys import Key, all_keys, describe, suggestion
from rlkit.recipe.schema import NO_DEFAULT, LossName
from rlkit.recipe.text import FOOTER, HEADER, is_launchable
from rlkit.running.folder import flat, lock

KINDS = {"algorithms": ALGORITHM, "negatives": NEGATIVE, "models": FAMILY, "rewards": REWARD}


def rows(what: str) -> list[tuple[str, str]]:
    """(name, one line) of everything of that sort."""
    if what == "recipes":
        return [(path.stem, _comment(path)) for path in recipe_files()]
    if what == "runs":
        return [(str(path.parent), _run_line(path.parent)) for path in sorted(Path("runs").glob("*/recipe.yaml"))]
    if what == "losses":
        return _losses()
    kind = KINDS[what]
    found = [(name, "made by the algorithm itself, from the model's samples") for name in kind.built_in]
    files = [plugins.ROOT / kind.folder / f"{name}.py" for name in plugins.available(kind) if name not in kind.built_in]
    return found + [(path.stem, _first_line(path)) for path in files]


def recipe_files() -> list[Path]:
    """Recipes of the working directory's recipes/, else of the one beside the package."""
    here = sorted(Path("recipes").glob("*.yaml"))
    return here or sorted((plugins.ROOT / "recipes").glob("*.yaml"))


def _comment(path: Path) -> str:
    """The first two comment lines above a recipe: what it is, and how long it takes where."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line for line in lines[: lines.index(HEADER) if HEADER in lines else 1] if line.startswith("#")]
    return "\n".join(line.lstrip("#! ").strip() for line in head[:2])


def _run_line(folder: Path) -> str:
    results = folder / "results.json"
    if results.is_file() and json.loads(results.read_text(encoding="utf-8")).get("complete"):
        return "finished"
    try:
        lock(folder).close()
    except RunFolderError:
        return "running"
    checkpoints = sorted(int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoints/checkpoint-*"))
    return f"stopped after step {checkpoints[-1]}" if checkpoints else "not finished"


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _losses() -> list[tuple[str, str]]:
    tree = ast.parse((plugins.ROOT / "rlkit" / "losses" / "preference.py").read_text(encoding="utf-8"))
    docs = {node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.FunctionDef)}
    return [(name, docs.get(name, "").partition("\n")[0]) for name in LossName.__args__]


def copy_recipe(name: str, target: Path) -> None:
    """Copy a recipe to `target`, keeping comments; adds header and footer where missing, and mends relative `needs`."""
    source = Path(name)
    if not source.is_file():
        known = {path.stem: path for path in recipe_files()}
        if name.removesuffix(".yaml") not in known:
            raise RecipeError(f"no recipe '{name}'. There are: {', '.join(known) or 'none here'}; or give a path.")
        source = known[name.removesuffix(".yaml")]
    if target.exists():
        raise RecipeError(f"{target}: exists already and is left as it is. Choose another name.")
    if target.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"{target}: a recipe's name ends in .yaml.")
    text = source.read_text(encoding="utf-8")
    text = text.replace(f"recipes/{source.name}", target.as_posix())
    text = framed(_moved_needs(text, source.resolve().parent, target.resolve().parent))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def framed(text: str) -> str:
    """The text with header and footer, put beneath the comments at its top; unchanged where it has them."""
    if is_launchable(text):
        return text
    lines = text.splitlines()
    first = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return "\n".join([*lines[:first], HEADER, *lines[first:], FOOTER]) + "\n"


def _moved_needs(text: str, source: Path, target: Path) -> str:
    """Relative paths of the `needs` line as seen from the new folder."""

    def moved(match: re.Match[str]) -> str:
        path = Path(os.path.relpath(source / match[0], target)).as_posix()
        return path

    def line(match: re.Match[str]) -> str:
        return re.sub(r"[\w./-]+\.ya?ml", moved, match[0])

    return text if source == target else re.sub(r"(?m)^needs:.*(?:\n[ ]*- .*)*", line, text)


def reference(key: str) -> str:
    """The help text of a key, of a section, or the list of sections."""
    keys = all_keys()
    if not key:
        top = [one for one in keys.values() if not one.parent]
        lines = [f"{one.name:<15} {one.doc}" for one in top]
        return "\n".join([*lines, "", "rlkit help SECTION or SECTION.KEY says more."])
    found = [keys[key]] if key in keys else [one for one in keys.values() if one.name == key]
    if not found:
        section, _, name = key.rpartition(".")
        raise RecipeError(f"no key '{key}'. {suggestion(section if section in keys else '', name)}")
    return "\n\n".join(_entry(one) for one in found)


def _entry(key: Key) -> str:
    below = [one for one in all_keys().values() if one.parent == key.path]
    default = "none; it must be given" if key.path in NO_DEFAULT else _default(key.default)
    head = key.path if below else f"{key.path}: {describe(key.hint)}\ndefault: {default}"
    text = "\n".join([head, *textwrap.wrap(key.doc, 100)])
    if not below:
        return text
    lines = [
        f"  {one.name} = {_default(one.default)}\n" + textwrap.indent(textwrap.fill(one.doc, 92), "      ")
        for one in below
    ]
    return "\n".join([text, *lines])


def _default(value: Any) -> str:
    if isinstance(value, str | int | float | bool | list | dict) or value is None:
        return json.dumps(value)
    return "a section of " + ", ".join(one.name for one in fields(value))


def run_differences(first: Path, second: Path) -> list[str]:
    """Lines that say which keys and which results differ between two run folders."""
    one, two = (flat(as_dict(load(folder / "recipe.yaml"))) for folder in (first, second))
    keys = [key for key in one | two if one.get(key) != two.get(key)]
    lines = [f"{key}: {json.dumps(one.get(key))} | {json.dumps(two.get(key))}" for key in keys]
    left, right = (_systems(folder) for folder in (first, second))
    for system in [name for name in left if name in right]:
        for metric in [name for name in left[system] if name in right[system]]:
            a, b = left[system][metric], right[system][metric]
            if a != b:
                lines.append(f"{system}.{metric}: {_interval(a)} | {_interval(b)}")
    return lines


def _systems(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8")).get("systems", {}) if path.is_file() else {}


def _interval(figure: dict[str, Any] | float) -> str:
    if isinstance(figure, dict) and figure.get("value") is not None:
        around = f" [{figure['low']:.3g}, {figure['high']:.3g}]" if figure.get("low") is not None else ""
        return f"{figure['value']:.3g}{around}"
    return json.dumps(figure)
