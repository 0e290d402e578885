"""Preference training and RL for models that describe video and models that generate it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

__version__ = "0.1.0"

LAZY = ("advantages", "losses", "sde")


def main(name: str) -> None:
    """Last line of a recipe: runs the recipe that was launched.

    Returns at once unless `name` is `__main__`: worker processes that are spawned import the recipe again under
    another name and must not start a second run.
    """
    if name != "__main__":
        return
    from rlkit.run import main as run

    run(sys.modules["__main__"].__file__, sys.argv[1:])


def __getattr__(name: str) -> ModuleType:
    """`rlkit.losses` and its like, imported when first used: they need torch, which takes seconds."""
    if name in LAZY:
        return importlib.import_module(f"rlkit.{name}")
    raise AttributeError(f"module 'rlkit' has no attribute {name!r}")
