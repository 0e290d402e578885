"""A name in a recipe is a file: where the file is, which options its entry function takes, and the function itself."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlkit.errors import RecipeError
from rlkit.recipe.marks import Kind

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Option:
    """A keyword-only argument of an entry function; `hint` is None where its annotation is not a plain type."""

    hint: Any
    required: bool


def is_path(name: str) -> bool:
    """Whether a plug-in is named by the path of a file rather than by the name of one of ours."""
    return "/" in name or "\\" in name or name.endswith(".py")


def available(kind: Kind) -> list[str]:
    """Names of the plug-ins of a kind that are there: files with its entry function, and its built-in names."""
    marker = f"def {kind.entry}("
    files = sorted((ROOT / kind.folder).glob("[!_]*.py"))
    return [*kind.built_in, *(file.stem for file in files if marker in file.read_text(encoding="utf-8"))]


def locate(kind: Kind, name: str, base: Path) -> Path | None:
    """File of the plug-in `name`; a path is relative to `base`. None for a built-in name. Raises RecipeError, without
    a place."""
    if name in kind.built_in:
        return None
    if is_path(name):
        path = (base / Path(name).expanduser()).resolve()
        if not path.is_file():
            raise RecipeError(f"no file {name} in {shown_path(base)}. Give the path from there")
        return path
    names = available(kind)
    if name in names:
        return ROOT / kind.folder / f"{name}.py"
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    advice = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(names) or 'none yet'}."
    raise RecipeError(f"no file {kind.folder}/{name}.py. {advice} Your own is a path, ./{name}.py")


def options(path: Path, kind: Kind) -> dict[str, Option]:
    """Keyword-only arguments of the entry function in `path`, read from its source without running it.

    Raises RecipeError where the file is not Python or has no such function.
    """
    name = shown_path(path)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise RecipeError(f"{name}:{error.lineno} is not valid Python: {error.msg}") from None
    except (UnicodeDecodeError, ValueError):
        raise RecipeError(f"{name} is not UTF-8 text; save it as UTF-8") from None
    entry = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == kind.entry), None)
    if entry is None:
        raise RecipeError(f"{name} has no function `{kind.entry}` at its top level; that is what the recipe would call")
    pairs = zip(entry.args.kwonlyargs, entry.args.kw_defaults, strict=True)
    return {
        argument.arg: Option(_plain_type(argument.annotation), default is None)
        for argument, default in pairs
        if argument.arg not in kind.supplied
    }


def _plain_type(node: ast.expr | None) -> Any:
    """The type an annotation stands for, where it is made of int, float, str, bool, None, list, dict, Literal and |;
    else None."""
    try:
        return _read_type(node)
    except KeyError:
        return None


def _read_type(node: ast.expr | None) -> Any:
    names = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict, "Literal": Literal}
    if isinstance(node, ast.Constant) and node.value is None:
        return type(None)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _read_type(ast.parse(node.value, mode="eval").body)
    if isinstance(node, ast.Name) and node.id in ("int", "float", "str", "bool"):
        return names[node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _read_type(node.left) | _read_type(node.right)
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return Literal[tuple(ast.literal_eval(one) for one in inner)]
        return names[node.value.id][tuple(_read_type(one) for one in inner)]
    raise KeyError(ast.dump(node) if node is not None else "no annotation")


def load(kind: Kind, name: str) -> Callable[..., Any]:
    """The entry function of a plug-in, imported now. `name` as a loaded recipe has it: ours, or an absolute path."""
    if not is_path(name):
        return vars(importlib.import_module(f"{kind.folder.replace('/', '.')}.{name}"))[kind.entry]
    path = Path(name)
    module_name = f"rlkit_own_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses in the file look their own module up
    spec.loader.exec_module(module)
    return vars(module)[kind.entry]


def shown_path(path: Path) -> str:
    """A path for people: from the working directory where it lies beneath it, else as it is."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
