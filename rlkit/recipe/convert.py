"""From the tree of a recipe to its dataclasses: strict types, every problem noted with its place, nothing guessed."""

from __future__ import annotations

import difflib
import math
import re
import types
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from rlkit import plugins
from rlkit.errors import RecipeError
from rlkit.recipe.keys import all_keys, alternatives, bare, default_of, describe, hints, marks, suggestion
from rlkit.recipe.marks import Between, Changes, Kind
from rlkit.recipe.schema import NO_DEFAULT, PlugIn
from rlkit.recipe.text import Scalar, Value, shown

WHOLE = re.compile(r"[+-]?(0|[1-9][0-9_]*)")
NUMBER = re.compile(r"[+-]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][+-]?[0-9]+)?")
NOT_FINITE = re.compile(r"[+-]?\.?(nan|inf|infinity)", re.IGNORECASE)


@dataclass
class Reading:
    """One recipe being read: where relative plug-in paths start, and what was found wrong so far."""

    base: Path
    problems: list[str] = field(default_factory=list)

    def base_of(self, where: str) -> Path:
        """A path is relative to where it was written: the recipe's folder, or the shell's for an override."""
        return Path.cwd() if where.startswith("override ") else self.base


def convert(value: Value, hint: Any, path: str, reading: Reading) -> Any:
    """`value` as the type `hint`; a problem is noted in `reading` and None returned where it is not one."""
    inner = bare(hint)
    kind = next((mark for mark in marks(hint) if isinstance(mark, Kind)), None)
    if get_origin(inner) in (Union, types.UnionType):
        return _convert_union(value, hint, path, reading)
    if kind is not None:
        return _convert_plugin(value, kind, inner, path, reading)
    if any(isinstance(mark, Changes) for mark in marks(hint)):
        return _convert_changes(value, hint, path, reading)
    if is_dataclass(inner):
        return _convert_section(value, inner, path, reading)
    if get_origin(inner) is list:
        if not isinstance(value.data, list):
            return _mismatch(value, hint, path, reading)
        (item,) = get_args(inner)
        return [convert(one, item, f"{path}[{number}]", reading) for number, one in enumerate(value.data)]
    if get_origin(inner) is dict:
        return _convert_mapping(value, inner, path, reading)
    if not isinstance(value.data, Scalar) or (inner is not type(None) and value.data.is_null):
        return _mismatch(value, hint, path, reading)
    return _convert_scalar(value, hint, path, reading)


def _mismatch(value: Value, hint: Any, path: str, reading: Reading, advice: str = "") -> None:
    one = value.data.text if isinstance(value.data, Scalar) else ""
    if not advice and get_origin(bare(hint)) is list and one and not value.data.is_null:
        advice = f" Write [{one}]."
    elif not advice and isinstance(value.data, Scalar) and value.data.is_null:
        advice = " Give a value, or remove the line for the default."
    reading.problems.append(f"{value.where}: '{path}' is {shown(value)}, expected {describe(hint)}.{advice}")


def _convert_union(value: Value, hint: Any, path: str, reading: Reading) -> Any:
    members = alternatives(hint)
    if isinstance(value.data, Scalar) and value.data.is_null and type(None) in members:
        return None
    fitting = [member for member in members if _same_shape(value, member)]
    if not fitting:
        return _mismatch(value, hint, path, reading)
    for member in fitting[:-1]:
        attempt = Reading(reading.base)
        converted = convert(value, member, path, attempt)
        if not attempt.problems:
            return converted
    return convert(value, fitting[-1], path, reading)


def _same_shape(value: Value, hint: Any) -> bool:
    inner = bare(hint)
    if isinstance(value.data, dict):
        return is_dataclass(inner) or get_origin(inner) is dict
    if isinstance(value.data, list):
        return get_origin(inner) is list
    return inner is not type(None) and not is_dataclass(inner) and get_origin(inner) not in (list, dict)


def _convert_section(value: Value, section: type, path: str, reading: Reading) -> Any:
    if not isinstance(value.data, dict):
        empty = isinstance(value.data, Scalar) and value.data.is_null
        advice = " Indent its keys beneath it, or remove the line." if empty else ""
        return _mismatch(value, section, path, reading, advice)
    known = hints(section)
    given: dict[str, Any] = {}
    for name, entry in value.data.items():
        dotted = f"{path}.{name}" if path else name
        if name not in known:
            reading.problems.append(f"{entry.where}: unknown key '{dotted}'. {suggestion(path, name)}")
            continue
        given[name] = convert(entry, known[name], dotted, reading)
    defaults = {one.name: default_of(one) for one in fields(section)}
    for name in NO_DEFAULT if not path else ():
        if name not in given:
            reading.problems.append(f"{value.where}: the key '{name}' is missing. It is {describe(known[name])}.")
    return section(**(defaults | given))


def _convert_mapping(value: Value, hint: Any, path: str, reading: Reading) -> Any:
    if not isinstance(value.data, dict):
        return _mismatch(value, hint, path, reading)
    key_hint, value_hint = get_args(hint)
    for name, entry in value.data.items():
        if get_origin(key_hint) is Literal and name not in get_args(key_hint):
            advice = _choice_advice(name, key_hint)
            reading.problems.append(f"{entry.where}: '{name}' is not known to '{path}'. {advice}")
    return {name: convert(entry, value_hint, f"{path}.{name}", reading) for name, entry in value.data.items()}


def _convert_changes(value: Value, hint: Any, path: str, reading: Reading) -> Any:
    if not isinstance(value.data, dict):
        return _mismatch(value, hint, path, reading)
    keys, given = all_keys(), {}
    for name, entry in value.data.items():
        if name in keys and keys[name].section is None:
            given[name] = convert(entry, keys[name].hint, name, reading)
        else:
            close = difflib.get_close_matches(name, keys, n=1, cutoff=0.6)
            advice = f" Did you mean '{close[0]}'?" if close else " Write it as train.learning_rate."
            if name in keys:  # a section
                inner = next(key for key in keys if key.startswith(f"{name}."))
                advice = f" It is a section: name its keys, such as {inner}."
            reading.problems.append(f"{entry.where}: '{name}' in '{path}' is no key of a recipe.{advice}")
    return given


def _convert_scalar(value: Value, hint: Any, path: str, reading: Reading) -> Any:
    inner, scalar = bare(hint), value.data
    if get_origin(inner) is Literal:
        choice = next((choice for choice in get_args(inner) if str(choice) == scalar.text), None)
        if choice is None:
            advice = _choice_advice(scalar.text, inner)
            reading.problems.append(f"{value.where}: '{path}' is {shown(value)}. {advice}")
        return choice
    if inner is str:
        return _convert_text(value, hint, path, reading)
    if scalar.quoted:
        return _mismatch(value, hint, path, reading, " Remove the quotes.")
    if inner is bool:
        if scalar.text.lower() in ("true", "false"):
            return scalar.text.lower() == "true"
        meant = {"yes": "true", "on": "true", "no": "false", "off": "false", "1": "true", "0": "false"}.get(
            scalar.text.lower()
        )
        return _mismatch(value, hint, path, reading, f" Write {meant}." if meant else "")
    return _convert_number(value, hint, path, reading)


def _convert_text(value: Value, hint: Any, path: str, reading: Reading) -> str | None:
    scalar = value.data
    looks_other = NUMBER.fullmatch(scalar.text) or scalar.text.lower() in ("true", "false")
    if looks_other and not scalar.quoted:
        return _mismatch(value, hint, path, reading, f' If that is meant as text, quote it: "{scalar.text}".')
    if not scalar.text.strip():
        return _mismatch(value, hint, path, reading, " It is blank.")
    return scalar.text


def _convert_number(value: Value, hint: Any, path: str, reading: Reading) -> int | float | None:
    text, inner = value.data.text, bare(hint)
    if NOT_FINITE.fullmatch(text):
        return _mismatch(value, hint, path, reading, " Numbers here are finite.")
    if not NUMBER.fullmatch(text) or len(text) > 40:
        return _mismatch(value, hint, path, reading)
    number = float(text.replace("_", ""))
    if inner is int:
        if not WHOLE.fullmatch(text):
            whole = number.is_integer() and abs(number) < 1e15
            return _mismatch(value, hint, path, reading, f" Write {int(number)}." if whole else "")
        number = int(text.replace("_", ""))
    between = next((mark for mark in marks(hint) if isinstance(mark, Between)), Between(None, None))
    low = between.low if between.low is not None else -math.inf
    high = between.high if between.high is not None else math.inf
    if not low <= number <= high or math.isinf(number):
        allowed = f"from {low:g} to {high:g}"
        reading.problems.append(f"{value.where}: '{path}' is {shown(value)}, outside the allowed range {allowed}.")
        return None
    return number


def _choice_advice(name: str, hint: Any) -> str:
    choices = [str(choice) for choice in get_args(hint)]
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return (f"Did you mean '{close[0]}'? " if close else "") + f"Choices: {', '.join(choices)}."


def _convert_plugin(value: Value, kind: Kind, inner: Any, path: str, reading: Reading) -> PlugIn | str | None:
    """A plug-in by name, or by name with options as a mapping of one key; for a key of type str, the name alone."""
    name, entries = value.data, {}
    if isinstance(value.data, dict) and inner is PlugIn and len(value.data) == 1:
        ((text, below),) = value.data.items()
        name = Scalar(text, False)
        if not isinstance(below.data, dict):
            advice = f" Write `{{{text}: {{option: value}}}}`, or `{text}` alone."
            return _mismatch(below, dict[str, Any], f"{path}.{text}", reading, advice)
        entries = below.data
    if not isinstance(name, Scalar) or name.is_null:
        several = isinstance(value.data, dict) and len(value.data) > 1
        advice = " Each item of the list holds one name; options stand indented beneath it." if several else ""
        reading.problems.append(f"{value.where}: '{path}' is {shown(value)}, expected the name of a file.{advice}")
        return None
    try:
        file = plugins.locate(kind, name.text, reading.base_of(value.where))
        known = {} if file is None else plugins.options(file, kind)
    except RecipeError as error:
        reading.problems.append(f"{value.where}: '{path}' is `{name.text}`: {error}.".replace("..", "."))
        return None
    named = str(file) if file is not None and plugins.is_path(name.text) else name.text
    if inner is str:
        return named
    return _with_options(named, entries, known, kind, path, value, reading)


def _with_options(
    name: str,
    entries: dict[str, Value],
    known: dict[str, plugins.Option],
    kind: Kind,
    path: str,
    value: Value,
    reading: Reading,
) -> PlugIn:
    """The plug-in with its options converted to the types of its entry function's keyword-only arguments."""
    short = Path(name).name
    common = {"weight": hints(PlugIn)["weight"]} if "weight" in kind.common else {}
    accepted = common | {option: spec.hint for option, spec in known.items()}
    given = {}
    for option, entry in entries.items():
        dotted = f"{path}.{short}.{option}"
        if option not in accepted:
            close = difflib.get_close_matches(option, accepted, n=1, cutoff=0.6)
            advice = f"Did you mean '{close[0]}'?" if close else f"It takes: {', '.join(accepted) or 'no options'}."
            reading.problems.append(f"{entry.where}: {short} has no option '{option}'. {advice}")
        elif accepted[option] is None:
            given[option] = plain(entry)
        else:
            given[option] = convert(entry, accepted[option], dotted, reading)
    for option, spec in known.items():
        if spec.required and option not in entries:
            reading.problems.append(
                f"{value.where}: {short} needs the option '{option}'. Write `{{{short}: {{{option}: ...}}}}`."
            )
    weight = given.pop("weight", 1.0) if "weight" in common else 1.0
    return PlugIn(name, weight if weight is not None else 1.0, given)


def plain(value: Value) -> Any:
    """A value without a declared type, read as YAML 1.2 would: numbers, true, false, null, text, lists, sections."""
    if isinstance(value.data, dict):
        return {name: plain(entry) for name, entry in value.data.items()}
    if isinstance(value.data, list):
        return [plain(entry) for entry in value.data]
    text = value.data.text
    if value.data.quoted:
        return text
    if value.data.is_null:
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if WHOLE.fullmatch(text):
        return int(text.replace("_", ""))
    return float(text.replace("_", "")) if NUMBER.fullmatch(text) else text
