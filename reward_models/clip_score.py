"""CLIPScore: 2.5 max(cos, 0) of a picture and "A photo depicts <text>", Hessel et al. 2021, arXiv 2104.08718.

    score = load("cuda", model="openai/clip-vit-base-patch32")
    score(prompts=["a red ball"], completions=[image])                          # a generator's picture
    score(prompts=["Describe it."], completions=["a red ball"], images=[image])  # a captioner's caption

The reference-free score of https://github.com/jmhessel/clipscore: its w, prefix, truncation and PIL preprocessing. Any
transformers CLIPModel does. Deviations: it may score frames (the mean over frames), and the text is cleaned as
transformers' tokenizer does, without ftfy. Others leave the prefix out, and multiply by 100 (torchmetrics): say
`prefix=""`, `weight=100.0`.
"""

from collections.abc import Callable

from reward_models.published.checkpoint import pretrained, tokenizer_of
from reward_models.published.clip_pairs import POSITION_IDS, reward
from reward_models.published.pixels import Square


def load(
    device: str = "cpu",
    *,
    model: str = "openai/clip-vit-base-patch32",
    revision: str | None = None,
    weight: float = 2.5,
    prefix: str = "A photo depicts ",
    dtype: str = "float32",
    batch_size: int = 32,
    max_frames: int | None = None,
) -> Callable[..., list[float | None]]:
    """`score`, and `score.score_tensors(prompts=, pixels=)` for pixels [batch, 3, H, W] in [0, 1], differentiable.

    `batch_size` counts images; of a video with more than `max_frames`, that many frames count. A prompt beyond 77
    tokens is cut, with a warning. An empty prompt is scored; None is not. Raises CheckpointError unless every tensor
    of the model came from the file.
    """
    from transformers import CLIPModel

    network = pretrained(CLIPModel, model, device=device, dtype=dtype, revision=revision, ignore=[POSITION_IDS])
    return reward(
        network,
        tokenizer_of(model, revision),
        Square(network.config.vision_config.image_size),
        lambda cosine: weight * cosine.clamp(min=0),
        batch_size=batch_size,
        max_frames=max_frames,
        prefix=prefix,
    )
