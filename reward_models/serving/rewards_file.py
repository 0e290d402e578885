"""rewards.yaml, the list of rewards that a server loads; read strictly, all mistakes at once.

aesthetic:
  reward: runs/reward_aesthetic/final    # a name (`rlkit ls rewards`), a .py file, or the folder of a trained one
  device: cuda:0                         # default cpu
  weight: 0.7                            # in the sum of all rewards, default 1
order:
  reward: ./my_order.py                  # paths are relative to this file
  options: {parse: english}              # keyword arguments of its `load`
"""

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, FiniteFloat, TypeAdapter, ValidationError

import reward_models
from reward_models import Score


class Entry(BaseModel):
    """One reward of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reward: str
    options: dict[str, Any] = {}
    device: str = "cpu"
    weight: FiniteFloat = 1.0


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def read_rewards(path: str | Path) -> dict[str, Entry]:
    """name -> entry; a relative path of a reward is completed from the folder of the file.

    Raises ValueError that lists every mistake as `file: key: what was found`.
    """
    path = Path(path)
    try:
        tree = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)  # noqa: S506 (a SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); expected a YAML file of rewards.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not the YAML expected: {' '.join(str(error).split())}.") from None
    if not isinstance(tree, dict) or not tree:
        raise ValueError(f"{path}: found {type(tree).__name__}; expected a section per reward, `name: {{reward: ..}}`.")
    try:
        entries = TypeAdapter(dict[str, Entry]).validate_python(tree, strict=True)
    except ValidationError as error:
        raise ValueError("\n".join(f"{path}: {_sentence(one)}" for one in error.errors())) from None
    return {name: entry.model_copy(update={"reward": _complete(entry.reward, path)}) for name, entry in entries.items()}


def load_rewards(entries: dict[str, Entry]) -> dict[str, Score]:
    """name -> the reward, loaded on its device. Raises ValueError that says which one could not be loaded, and why."""
    rewards = {}
    for name, entry in entries.items():
        try:
            rewards[name] = reward_models.load(entry.reward, device=entry.device, **entry.options)
        except Exception as error:  # `load` of a reward is anybody's code
            raise ValueError(f"{name}: cannot load {entry.reward} ({type(error).__name__}: {error})") from error
    return rewards


def _complete(reward: str, path: Path) -> str:
    return reward if reward.isidentifier() else str((path.parent / Path(reward).expanduser()).resolve())


def _sentence(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = list(Entry.model_fields)
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"{place}: no such key. " + (f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}.")
    if problem["type"] == "missing":
        return f"{place}: is missing; a reward's name, .py file or folder."
    return f"{place}: {problem['msg']}; found {str(problem['input'])[:60]!r}."
