"""PickScore: exp(logit scale) x cosine of CLIP ViT-H/14 trained on people's picks, Kirstain et al., arXiv 2305.01569.

    score = load("cuda")
    score(prompts=["a red ball"], completions=[image])     # about 15 to 25

As in https://github.com/yuvalkirstain/PickScore before its softmax over the pictures of one prompt, so that a picture's
score does not depend on the others. The logit scale belongs to the score (without it everything shrinks by some 100),
and a file without it is refused, where transformers (5.23) leaves in its place what the memory held. Differences of two
scores are log-odds that people pick the first. Deviation: a video scores the mean over its frames.
"""

from collections.abc import Callable

from reward_models.published.checkpoint import pretrained, tokenizer_of
from reward_models.published.clip_pairs import POSITION_IDS, reward
from reward_models.published.pixels import Square


def load(
    device: str = "cpu",
    *,
    model: str = "yuvalkirstain/PickScore_v1",
    tokenizer: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    revision: str | None = None,
    dtype: str = "float32",
    batch_size: int = 16,
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
        tokenizer_of(tokenizer),
        Square(network.config.vision_config.image_size, crop="floor"),  # transformers' processor crops so
        lambda cosine: network.logit_scale.float().exp() * cosine,
        batch_size=batch_size,
        max_frames=max_frames,
    )
