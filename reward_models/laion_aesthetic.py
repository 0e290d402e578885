"""LAION's aesthetic predictors, which look at pictures alone: v2 (about 1 to 10) and v2.5 (5.5 and above is very good).

    score = load("cuda", model="sac+logos+ava1-l14-linearMSE.pth")
    score(prompts=[None], completions=[image])

v2: five linear layers, without activations between, on the normalised embedding of OpenAI's CLIP ViT-L/14
(https://github.com/christophschuhmann/improved-aesthetic-predictor, simple_inference.py; Schuhmann et al. 2022,
arXiv 2210.08402). v2.5: five linear layers on the normalised pooled output of SigLIP so400m/384
(https://github.com/discus0434/aesthetic-predictor-v2-5). Neither reads the prompt. Deviations: the head runs in fp32,
and a video scores the mean over its frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from reward_models.published.checkpoint import CheckpointError, fetch, load_strictly, pretrained, read
from reward_models.published.clip_pairs import POSITION_IDS, Scores
from reward_models.published.inputs import mean_over_frames, rows
from reward_models.published.pixels import Pixels, Square

WIDTHS = (1024, 128, 64, 16, 1)


@dataclass(frozen=True)
class Version:
    """What differs between the two: where the linear layers stand in the file, and whose embedding they read."""

    prefix: str
    indices: tuple[int, ...]
    """In the nn.Sequential of the original; its dropouts stand between."""
    encoder: str
    home: str
    """Where its file is published."""


VERSIONS = {
    "v2": Version(
        "layers",
        (0, 2, 4, 6, 7),
        "openai/clip-vit-large-patch14",
        "sac+logos+ava1-l14-linearMSE.pth of https://github.com/christophschuhmann/improved-aesthetic-predictor",
    ),
    "v2.5": Version(
        "scoring_head",
        (0, 2, 4, 6, 8),
        "google/siglip-so400m-patch14-384",
        "models/aesthetic_predictor_v2_5.pth of https://github.com/discus0434/aesthetic-predictor-v2-5",
    ),
}


def load(
    device: str = "cpu",
    *,
    model: str,
    file: str = "",
    version: str = "v2",
    encoder: str | None = None,
    revision: str | None = None,
    dtype: str = "float32",
    batch_size: int = 32,
    max_frames: int | None = None,
) -> Callable[..., list[float | None]]:
    """`score`, and `score.score_tensors(pixels=)` for pixels [batch, 3, H, W] in [0, 1], differentiable.

    `model` is the file of the head, or the folder or hub id that holds it as `file` (trl-lib/ddpo-aesthetic-predictor
    keeps v2 as aesthetic-model.pth), of which `revision` is; `encoder` replaces the version's own. `batch_size` counts
    images; of a video with more than `max_frames`, that many frames count. Raises CheckpointError unless every tensor
    of both came from their files, ValueError for an unknown version.
    """
    if version not in VERSIONS:
        raise ValueError(f"version is {version!r}, expected one of {', '.join(VERSIONS)}.")
    told = VERSIONS[version]
    if not Path(model).is_file() and not file:
        raise CheckpointError(
            f"{model} is not a file; say with file= which of its files is the head. {version} is {told.home}."
        )
    path = fetch(model, file, revision)
    network, square = _encoder(version, encoder or told.encoder, device, dtype)
    head = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise((_embedding_width(network, version), *WIDTHS)))
    rules = [(rf"{told.prefix}\.{index}\.(weight|bias)", rf"{place}.\1") for place, index in enumerate(told.indices)]
    load_strictly(head, read(path), source=str(path), rules=rules)
    head = head.to(device).requires_grad_(False)

    def of_pixels(pixels: Pixels) -> Scores:
        value = F.normalize(_embedding(network, version, pixels.to(network.device, network.dtype)).float(), dim=-1)
        for layer in head:
            value = layer(value)
        return value[:, 0]

    def score(
        *, prompts: Sequence[Any], completions: Sequence[Any], images: Any = None, videos: Any = None, **_: Any
    ) -> list[float | None]:
        asked = rows(prompts, completions, images=images, videos=videos, needs_text=False)
        return mean_over_frames(
            lambda _texts, pictures: of_pixels(square.images(pictures)),
            asked,
            batch_size=batch_size,
            max_frames=max_frames,
        )

    def score_tensors(*, pixels: Pixels, prompts: Sequence[Any] | None = None) -> Scores:
        return of_pixels(square.tensors(pixels))

    score.score_tensors = score_tensors
    return score


def _encoder(version: str, model: str, device: str, dtype: str) -> tuple[nn.Module, Square]:
    from transformers import CLIPVisionModelWithProjection, SiglipVisionModel

    if version == "v2":
        unread = [POSITION_IDS, r"text_model\..*", r"text_projection\.weight", "logit_scale"]
        network = pretrained(CLIPVisionModelWithProjection, model, device=device, dtype=dtype, ignore=unread)
        return network, Square(network.config.image_size)
    unread = [POSITION_IDS, r"text_model\..*", "logit_scale", "logit_bias"]
    network = pretrained(SiglipVisionModel, model, device=device, dtype=dtype, ignore=unread)
    half = (0.5, 0.5, 0.5)
    return network, Square(network.config.image_size, half, half, crop="squash")


def _embedding_width(network: nn.Module, version: str) -> int:
    return network.config.projection_dim if version == "v2" else network.config.hidden_size


def _embedding(network: nn.Module, version: str, pixels: Tensor) -> Tensor:
    seen = network(pixel_values=pixels)
    return seen.image_embeds if version == "v2" else seen.pooler_output
