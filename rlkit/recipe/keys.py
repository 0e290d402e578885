"""Every key of a recipe by its dotted path, with type, default and docstring: for suggestions and `rlkit help`."""

from __future__ import annotations

import ast
import difflib
import functools
import types
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rlkit.recipe import schema
from rlkit.recipe.marks import Between, Changes, Kind, OnDisk
from rlkit.recipe.schema import PlugIn


@dataclass(frozen=True)
class Key:
    """One key: `path` is dotted (`train.learning_rate`), `section` says whether keys lie beneath it."""

    path: str
    hint: Any
    default: Any
    doc: str
    section: type | None

    @property
    def name(self) -> str:
        """The last part of the dotted key."""
        return self.path.rpartition(".")[2]

    @property
    def parent(self) -> str:
        """The dotted key of the section it stands in."""
        return self.path.rpartition(".")[0]


@functools.cache
def hints(section: type) -> dict[str, Any]:
    """Type hints of a section, with their Annotated marks."""
    return get_type_hints(section, include_extras=True)


@functools.cache
def all_keys() -> dict[str, Key]:
    """Every key of a recipe, in the order of schema.py."""
    return {key.path: key for key in _keys_of(schema.Recipe, "")}


def _keys_of(section: type, prefix: str) -> list[Key]:
    found = []
    docs = _docstrings()[section.__name__]
    for one in fields(section):
        path = f"{prefix}{one.name}"
        hint = hints(section)[one.name]
        inner = section_of(hint)
        found.append(Key(path, hint, default_of(one), docs.get(one.name, ""), inner))
        if inner is not None:
            found += _keys_of(inner, f"{path}.")
    return found


def default_of(one: Field) -> Any:
    """Default of a dataclass field."""
    return one.default_factory() if one.default_factory is not MISSING else one.default


def section_of(hint: Any) -> type | None:
    """The dataclass under a key whose value is a section (`Lora | None` gives Lora); None for plain values and
    plug-ins."""
    for option in alternatives(hint):
        if is_dataclass(option) and option is not PlugIn:
            return option
    return None


def bare(hint: Any) -> Any:
    """The hint without its Annotated marks."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def marks(hint: Any) -> tuple[Any, ...]:
    """The Annotated marks of a hint: Between, Kind, OnDisk."""
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def alternatives(hint: Any) -> list[Any]:
    """The members of `A | B`, marks kept on each; a hint that is no union is its own only member."""
    inner, own = bare(hint), marks(hint)
    if get_origin(inner) not in (Union, types.UnionType):
        return [hint]
    return [Annotated[(member, *own)] if own and member is not type(None) else member for member in get_args(inner)]


@functools.cache
def _docstrings() -> dict[str, dict[str, str]]:
    """Attribute docstrings of the sections: {class: {key: text}}. Python does not keep them, so the source is read."""
    docs: dict[str, dict[str, str]] = {}
    own = Path(schema.__file__)
    files = [own, *sorted(own.parent.glob("sections_*.py"))]
    for node in (node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body):
        if not isinstance(node, ast.ClassDef):
            continue
        docs[node.name] = {}
        for line, following in zip(node.body, node.body[1:], strict=False):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if isinstance(line, ast.AnnAssign) and is_text:
                docs[node.name][line.target.id] = " ".join(str(following.value.value).split())
    return docs


def describe(hint: Any) -> str:
    """What a key takes, in words: `a whole number of at least 1`, `one of sdpa, eager`, `a list of text`."""
    members = alternatives(hint)
    if len(members) > 1:
        return " or ".join(describe(member) for member in members)
    inner, own = bare(hint), marks(hint)
    kind = next((mark for mark in own if isinstance(mark, Kind)), None)
    if kind is not None:
        return f"the name of a file in {kind.folder} or a path like ./mine.py"
    if inner is type(None):
        return "null"
    if get_origin(inner) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(inner))
    if get_origin(inner) is list:
        return f"a list, each {describe(get_args(inner)[0])}"
    if get_origin(inner) is dict:
        keys, values = get_args(inner)
        if values is Any:
            changes = any(isinstance(mark, Changes) for mark in own)
            return "a section of dotted keys with other values" if changes else "a section of options"
        return f"a section of `name: value` lines, each name {describe(keys)}, each value {describe(values)}"
    if is_dataclass(inner):
        return "a section with " + ", ".join(one.name for one in fields(inner)[:6])
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[inner]
    if any(isinstance(mark, OnDisk) for mark in own):
        words = f"the path of a {next(mark.what for mark in own if isinstance(mark, OnDisk))}"
    return words + _range_words(next((mark for mark in own if isinstance(mark, Between)), None))


def _range_words(between: Between | None) -> str:
    if between is None:
        return ""
    low, high = (f"{bound:g}" if bound is not None else None for bound in (between.low, between.high))
    if high is None or between.high >= 1e6:
        return f" of at least {low}"
    return f" from {low} to {high}"


OFTEN_CALLED = {
    "eval_steps": "guards.every",
    "lr": "train.learning_rate",
    "batch_size": "train.per_device_train_batch_size",
    "per_device_batch_size": "train.per_device_train_batch_size",
    "gradient_accumulation": "train.gradient_accumulation_steps",
    "accumulation": "train.gradient_accumulation_steps",
    "steps": "train.max_steps",
    "epochs": "train.num_train_epochs",
    "warmup_ratio": "train.warmup_steps",
    "scheduler": "train.lr_scheduler_type",
    "model_name_or_path": "model.id",
    "torch_dtype": "model.dtype",
    "loss_type": "loss.types",
    "loss_weights": "loss.types",
    "lora_r": "model.lora.r",
    "lora_rank": "model.lora.r",
    "rank": "model.lora.r",
    "alpha": "model.lora.lora_alpha",
    "k": "num_negatives",
    "num_generations": "grpo.num_generations",
    "max_new_tokens": "evaluate.max_new_tokens",
    "output_dir": "out",
    "depends_on": "needs",
    "data_seed": "seed",
}
"""Names from other tools, for the suggestion under an unknown key."""


def suggestion(section: str, name: str) -> str:
    """What to say under an unknown key `name` in `section` ("" at the top): where it belongs or what was meant."""
    keys = all_keys()
    siblings = [key.name for key in keys.values() if key.parent == section]
    if "." in name and name in keys:
        return f"In a file that is a section: `{name.replace('.', ': {')}: ...{'}' * name.count('.')}`."
    called = OFTEN_CALLED.get(name)
    if called is not None and called in keys:
        return f"It is called '{keys[called].name}' here{_place(keys[called], section)}."
    elsewhere = next((key for key in keys.values() if key.name == name), None)
    if elsewhere is not None:
        return f"It belongs{_place(elsewhere, section).removeprefix(',')}."
    close = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    far = difflib.get_close_matches(name, [key.name for key in keys.values()], n=1, cutoff=0.75)
    if far:
        meant = next(key for key in keys.values() if key.name == far[0])
        return f"Did you mean '{meant.name}'{_place(meant, section)}?"
    return f"Keys {'of ' + section if section else 'at the top'}: {', '.join(siblings)}."


def _place(key: Key, section: str) -> str:
    if key.parent == section:
        return ""
    return (
        f", under `{key.parent.replace('.', ': ')}:` ({key.path})"
        if key.parent
        else ", at the top, outside any section"
    )
