"""Dotted keys of a recipe that was read: the value of one, and a recipe with other values for some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlkit.recipe.keys import hints, section_of
from rlkit.recipe.schema import Recipe


def value_at(recipe: Recipe, path: str) -> Any:
    """Value of a dotted key; None beneath a section that is null."""
    at: Any = recipe
    for name in path.split("."):
        if at is None:
            return None
        at = vars(at)[name]
    return at


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values for some dotted keys; a null section that a key lies in is made, with defaults."""
    for key, value in changes.items():
        recipe = _with(recipe, key, value)
    return recipe


def _with(section: Any, key: str, value: Any) -> Any:
    head, _, rest = key.partition(".")
    if not rest:
        return replace(section, **{head: value})
    below = vars(section)[head]
    if below is None:
        below = section_of(hints(type(section))[head])()
    return replace(section, **{head: _with(below, rest, value)})
