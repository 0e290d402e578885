"""Aesthetics of pictures and frames by a trained encoder: one score, any attribute of it, and how sure it is.

    score = load("cpu", model="runs/reward_aesthetic/final")
    score(prompts=[...], completions=[picture, frames])      # overall, limited by the vetoes
    score.judge([picture], faces=[(0.3, 0.1, 0.6, 0.5)])     # every attribute, veto, deviation and route
    score.score_tensors(pixels)                              # differentiable, for generators

Prompts are not looked at: this reward is blind to them and says nothing of consistency.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from reward_models.vision.encoder import VisionReward
from reward_models.vision.heads import OVERALL, Judged
from reward_models.vision.views import Box, frames_of


def load(
    device: str = "cpu",
    *,
    model: str | Path,
    attribute: str | None = None,
    batch_size: int = 32,
    dtype: str = "float32",
) -> "Scorer":
    """The trained reward in the folder `model`; `attribute` is one of its own, null its overall score.

    `batch_size`: items per forward pass. `dtype`: of the weights. Raises FileNotFoundError and ValueError as
    VisionReward.load does, ValueError for an attribute that the model does not have.
    """
    reward = VisionReward.load(model).to(device, getattr(torch, dtype)).requires_grad_(False)
    known = reward.spec.outputs.attributes
    if attribute is not None and attribute not in known:
        raise ValueError(f"{model} has no attribute {attribute!r}; it has {', '.join(known)}.")
    return Scorer(reward, attribute, batch_size)


class Scorer:
    """TRL's reward function around a VisionReward; `overall` is in logits, the others in units of their ratings."""

    def __init__(self, reward: VisionReward, attribute: str | None, batch_size: int) -> None:
        self.reward, self.attribute, self.batch_size = reward, attribute, batch_size

    def __call__(
        self, *, prompts: Sequence[Any], completions: Sequence[Any], faces: Sequence[Box | None] | None = None, **_: Any
    ) -> list[float | None]:
        """A score per completion. None where it is None or text, which a picture's judge cannot see.

        faces: per completion (left, top, right, bottom) in shares of width and height, () where there is no face, None
        where nobody knows.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts and {len(completions)} completions; expected one of each.")
        faces = [None] * len(completions) if faces is None else list(faces)
        seen = [at for at, one in enumerate(completions) if one is not None and not is_text(one)]
        scores: list[float | None] = [None] * len(completions)
        for start in range(0, len(seen), self.batch_size):
            part = seen[start : start + self.batch_size]
            judged = self._judged([completions[at] for at in part], [faces[at] for at in part])
            for at, value in zip(part, self._chosen(judged).tolist(), strict=True):
                scores[at] = value if value == value else None
        return scores

    def score_tensors(
        self,
        pixels: Float[Tensor, "items 3 height width"] | Float[Tensor, "items frames 3 height width"],
        faces: Sequence[Box | None] | None = None,
        prompts: Sequence[Any] | None = None,
    ) -> Float[Tensor, " items"]:
        """Scores with their graph; pixels in [0, 1]. The same numbers as for files with these pixels. `prompts` are not
        read."""
        if pixels.ndim not in (4, 5):
            raise ValueError(f"pixels has shape {tuple(pixels.shape)}; expected [B, 3, H, W] or [B, T, 3, H, W].")
        return self._chosen(self._forward(list(pixels), faces))

    def judge(self, completions: Sequence[Any], faces: Sequence[Box | None] | None = None) -> list[dict[str, Any]]:
        """Per picture: `score`, `attributes`, `deviation` (standard deviation of each attribute), `veto`
        (probabilities), `distribution` (of ratings, worst first) and `route` (share of each expert)."""
        outputs = self.reward.spec.outputs
        told = []
        for start in range(0, len(completions), self.batch_size):
            part = slice(start, start + self.batch_size)
            one = self._judged(completions[part], None if faces is None else faces[part])
            for row in range(len(one.mean)):
                told.append(
                    {
                        "score": one.score[row].item(),
                        "attributes": dict(zip(outputs.attributes, one.mean[row].tolist(), strict=True)),
                        "deviation": dict(
                            zip(outputs.attributes, (one.log_variance[row] / 2).exp().tolist(), strict=True)
                        ),
                        "veto": dict(zip(outputs.vetoes, one.veto[row].sigmoid().tolist(), strict=True)),
                        "distribution": one.distribution[row].exp().tolist(),
                        "route": dict(zip(outputs.experts, one.route[row].tolist(), strict=True)),
                    }
                )
        return told

    @torch.no_grad()
    def _judged(self, pictures: Sequence[Any], faces: Sequence[Box | None] | None) -> Judged:
        return self._forward(pictures, faces)

    def _forward(self, pictures: Sequence[Any], faces: Sequence[Box | None] | None) -> Judged:
        like = next(self.reward.parameters())
        batch = self.reward.views.batch([frames_of(picture) for picture in pictures], faces)
        batch = {name: tensor.to(like.device) for name, tensor in batch.items()}
        pixels = batch.pop("pixel_values").to(like.dtype)
        return self.reward(pixels, batch["view"], batch["time"].to(like.dtype), batch["expert"])

    def _chosen(self, judged: Judged) -> Float[Tensor, " items"]:
        if self.attribute in (None, OVERALL):
            return judged.score.float()
        return judged.mean[:, self.reward.spec.outputs.attributes.index(self.attribute)].float()


def is_text(completion: Any) -> bool:
    """A string, or TRL's messages."""
    return isinstance(completion, str) or (
        isinstance(completion, list) and bool(completion) and isinstance(completion[0], dict)
    )
