"""Scores that are a function of CLIP's cosine between a text and a picture; shared by the files named after them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from reward_models.published.inputs import mean_over_frames, rows, tokens
from reward_models.published.pixels import Pixels, Square

Scores = Float[Tensor, " batch"]
CONTEXT = 77
"""Tokens that CLIP reads, the two that mark begin and end included."""
POSITION_IDS = r"(.*\.)?position_ids"
"""A buffer in older files that holds 0, 1, 2, ...; no weight."""


def reward(
    model: nn.Module,
    tokenizer: Any,
    square: Square,
    finish: Callable[[Scores], Scores],
    *,
    batch_size: int,
    max_frames: int | None,
    prefix: str = "",
) -> Callable[..., list[float | None]]:
    """`score` with `score.score_tensors` from a CLIPModel; `finish` turns cosines into scores, both in fp32."""

    def of_pixels(texts: Sequence[str], pixels: Pixels) -> Scores:
        unique = list(dict.fromkeys(texts))
        encoded = tokens(tokenizer, [prefix + text for text in unique], CONTEXT).to(model.device)
        read = model.get_text_features(
            input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]
        ).pooler_output
        seen = model.get_image_features(pixel_values=pixels.to(model.device, model.dtype)).pooler_output
        read = F.normalize(read.float(), dim=-1)[[unique.index(text) for text in texts]]
        return finish((read * F.normalize(seen.float(), dim=-1)).sum(-1))

    def score(
        *, prompts: Sequence[Any], completions: Sequence[Any], images: Any = None, videos: Any = None, **_: Any
    ) -> list[float | None]:
        asked = rows(prompts, completions, images=images, videos=videos)
        return mean_over_frames(
            lambda texts, pictures: of_pixels(texts, square.images(pictures)),
            asked,
            batch_size=batch_size,
            max_frames=max_frames,
        )

    def score_tensors(*, prompts: Sequence[str], pixels: Pixels) -> Scores:
        return of_pixels(prompts, square.tensors(same_length(prompts, pixels)))

    score.score_tensors = score_tensors
    return score


def same_length(prompts: Sequence[Any], pixels: Pixels) -> Pixels:
    """The pixels. Raises ValueError where there is not one of them for each prompt."""
    if len(prompts) != len(pixels):
        raise ValueError(f"{len(prompts)} prompts and {len(pixels)} pictures, expected one picture for each prompt.")
    return pixels
