"""What can be said of a recipe's key beside its type: bounds, the kind of file it names, a path that must exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both included; None means unbounded."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class Kind:
    """Marks a key whose value names a file: `name` is `folder/name.py`, `./own.py` is the user's.

    `entry` is the function in that file whose keyword-only arguments are the options. `common` are options that every
    plug-in of this kind takes from us, `supplied` arguments that we pass and the recipe may not. `built_in` names need
    no file: the algorithm makes them itself.
    """

    folder: str
    entry: str
    common: tuple[str, ...] = ()
    supplied: tuple[str, ...] = ()
    built_in: tuple[str, ...] = ()


@dataclass(frozen=True)
class OnDisk:
    """Marks a key that names a file or folder, which must exist before the run unless a recipe in `needs` makes it.

    A model may also be a hub id (`org/name`), which is not looked up; so may data, a file or folder otherwise.
    """

    what: Literal["file", "folder", "file or folder", "model", "data"]


@dataclass(frozen=True)
class Changes:
    """Marks a mapping of dotted recipe keys to the other values they get; each is checked as the key itself."""


ALGORITHM = Kind("rlkit/train", "run")
NEGATIVE = Kind("data_synth/negatives", "corrupt", common=("weight",), supplied=("seed",), built_in=("own_samples",))
REWARD = Kind("reward_models", "load", common=("weight",), supplied=("device", "parse"))
FAMILY = Kind("rlkit/models", "positions")
