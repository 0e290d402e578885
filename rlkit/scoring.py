"""The rewards of a run: loaded by name, path or address, asked for all completions at once; what has no score is
NaN."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import reward_models
from rlkit import plugins
from rlkit.errors import ModelError
from rlkit.recipe import REWARD, PlugIn
from rlkit.running import ranks


class Rewards:
    """Some rewards with their weights."""

    def __init__(self, named: Sequence[PlugIn], supplied: Mapping[str, Any] | None = None) -> None:
        """`supplied` are options of ours, for the rewards whose `load` names them: behaviour such as a parser, which a
        reward may not import. Raises ModelError for a reward that cannot be loaded."""
        self.names = _names(named)
        self.weights = [one.weight for one in named]
        self.scores = []
        for one in named:
            try:
                options = {**_wanted(one.name, supplied or {}), **one.options}
                self.scores.append(reward_models.load(one.name, device=str(ranks.device()), **options))
            except (ValueError, FileNotFoundError, ImportError) as error:
                raise ModelError(f"the reward {one.name} cannot be loaded: {error}") from error

    def __len__(self) -> int:
        return len(self.scores)

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[Any], columns: Mapping[str, Sequence[Any]] | None = None
    ) -> Float[Tensor, "batch rewards"]:
        """Scores, NaN for None and for what is no finite number; `columns` go to every reward. Raises ModelError for
        another number of scores."""
        given = []
        for name, score in zip(self.names, self.scores, strict=True):
            found = score(prompts=list(prompts), completions=list(completions), **(columns or {}))
            if len(found) != len(completions):
                raise ModelError(f"the reward {name} gave {len(found)} scores for {len(completions)} completions.")
            values = [math.nan if value is None else float(value) for value in found]
            given.append([value if math.isfinite(value) else math.nan for value in values])
        return torch.tensor(given).reshape(len(self.scores), len(completions)).T

    def differentiable(self) -> list[Callable[..., Tensor]]:
        """score_tensors of every reward. Raises ModelError for a reward without it."""
        found = []
        for name, score in zip(self.names, self.scores, strict=True):
            try:
                found.append(score.score_tensors)
            except AttributeError:
                raise ModelError(
                    f"the reward {name} has no differentiable path (score_tensors); take another, or an algorithm that "
                    "needs none, like nft."
                ) from None
        return found

    def tensors(
        self, prompts: Sequence[str], pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch rewards"]:
        """Scores with their graph, for pixels in [0, 1]; NaN where there is none. Raises ModelError as above."""
        columns = [score(prompts=list(prompts), pixels=pixels).float() for score in self.differentiable()]
        return torch.stack(columns, 1)

    def total(self, scores: Float[Tensor, "batch rewards"]) -> Float[Tensor, " batch"]:
        """The weighted mean of each picture's scores, to be reported; NaN where one of them is missing."""
        weights = scores.new_tensor(self.weights)
        return (scores * weights).sum(1) / weights.abs().sum()


def _wanted(name: str, supplied: Mapping[str, Any]) -> dict[str, Any]:
    """Those of our options that the `load` of a reward names; a trained one in a folder has its own."""
    if not supplied or (Path(name) / reward_models.MANIFEST).is_file():
        return {}
    return {key: supplied[key] for key in inspect.signature(plugins.load(REWARD, name)).parameters if key in supplied}


def _names(named: Sequence[PlugIn]) -> list[str]:
    """A name for each, numbered where one comes twice."""
    short = [Path(one.name).stem for one in named]
    return [name if short.count(name) == 1 else f"{name}_{short[:at].count(name) + 1}" for at, name in enumerate(short)]
