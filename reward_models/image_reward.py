"""ImageReward: BLIP reads the prompt while it looks at the picture, Xu et al. 2023, arXiv 2304.05977.

    score = load("cuda")                                       # ImageReward.pt of THUDM/ImageReward
    score(prompts=["a red ball"], completions=[image])         # about 0 +- 1 over its authors' pictures

ViT-L/16 sees the picture, BERT with cross-attention reads the prompt, and five linear layers, without activations
between, turn its first token into a number, from which the published mean is taken and divided by the deviation
(https://github.com/THUDM/ImageReward, ImageReward/ImageReward.py). The file's tensors are renamed into transformers'
BlipVisionModel and BlipTextModel, with the original's epsilon 1e-6 in the ViT, where transformers has 1e-5.
Deviations: prompts are padded to the longest and not to 35 tokens (the mask makes both equal), the head runs in fp32,
and a video scores the mean over its frames.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reward_models.published.checkpoint import dtype_of, fetch, load_strictly, read, refuse, tokenizer_of
from reward_models.published.clip_pairs import Scores, same_length
from reward_models.published.inputs import mean_over_frames, rows, tokens
from reward_models.published.pixels import Pixels, Square

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw scores over the authors' data; in their source, not in their file."""
LIMIT = 35
"""Tokens of the prompt that are read, the two that mark begin and end included."""
HEAD_WIDTH = 64
"""Per attention head, of ViT-L and BERT base alike; the only size that the tensors do not tell."""
WIDTHS = (1024, 128, 64, 16, 1)
LAYERS = (0, 2, 4, 6, 7)
"""Of the linear layers in the original's nn.Sequential; dropouts stand between."""

RULES = [
    (r"blip\.visual_encoder\.cls_token", "vision.embeddings.class_embedding"),
    (r"blip\.visual_encoder\.pos_embed", "vision.embeddings.position_embedding"),
    (r"blip\.visual_encoder\.patch_embed\.proj\.(.*)", r"vision.embeddings.patch_embedding.\1"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.norm(1|2)\.(.*)", r"vision.encoder.layers.\1.layer_norm\2.\3"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.(.*)", r"vision.encoder.layers.\1.self_attn.qkv.\2"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.(.*)", r"vision.encoder.layers.\1.self_attn.projection.\2"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.mlp\.(fc1|fc2)\.(.*)", r"vision.encoder.layers.\1.mlp.\2.\3"),
    (r"blip\.visual_encoder\.norm\.(.*)", r"vision.post_layernorm.\1"),
    (r"blip\.text_encoder\.embeddings\.position_ids", None),  # 0, 1, 2, ...
    (r"blip\.text_encoder\.(.*)", r"text.\1"),
    (r"blip\.(vision|text)_proj\.(weight|bias)", None),  # BLIP's contrastive heads, which the score does not use
    *((rf"mlp\.layers\.{index}\.(weight|bias)", rf"head.{place}.\1") for place, index in enumerate(LAYERS)),
]


class ImageReward(nn.Module):
    """The three parts, in the sizes of a state dict with the original's names."""

    def __init__(self, state: Mapping[str, Tensor], source: str):
        from transformers import BlipTextModel, BlipVisionModel

        super().__init__()
        vision, text = _configs(state, source)
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.head = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise((text.hidden_size, *WIDTHS)))

    def forward(
        self,
        pixels: Pixels,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"],
    ) -> Float[Tensor, " batch"]:
        """The standardised score of each picture and prompt."""
        seen = self.vision(pixel_values=pixels.to(self.vision.dtype)).last_hidden_state
        read = self.text(input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=seen)
        value = read.last_hidden_state[:, 0].float()
        for layer in self.head:
            value = layer(value)
        return (value[:, 0] - MEAN) / STD


def load(
    device: str = "cpu",
    *,
    model: str = "THUDM/ImageReward",
    file: str = "ImageReward.pt",
    tokenizer: str = "google-bert/bert-base-uncased",
    revision: str | None = None,
    dtype: str = "float32",
    batch_size: int = 16,
    max_frames: int | None = None,
) -> Callable[..., list[float | None]]:
    """`score`, and `score.score_tensors(prompts=, pixels=)` for pixels [batch, 3, H, W] in [0, 1], differentiable.

    `model` is a hub id, a folder, or the file itself; a .pt is read as tensors only. `batch_size` counts images; of a
    video with more than `max_frames`, that many frames count. A prompt beyond 35 tokens is cut, with a warning. An
    empty prompt is scored; None is not. Raises CheckpointError unless the file fills the model exactly.
    """
    path = fetch(model, file, revision)
    state = read(path)
    with torch.device(device):
        network = ImageReward(state, str(path))
    load_strictly(network, state, source=str(path), rules=RULES)
    network = network.to(dtype_of(dtype)).eval().requires_grad_(False)
    network.head.float()
    words = tokenizer_of(tokenizer)
    square = Square(network.vision.config.image_size)

    def of_pixels(texts: Sequence[str], pixels: Pixels) -> Scores:
        encoded = tokens(words, texts, LIMIT).to(device)
        return network(pixels.to(device), encoded["input_ids"], encoded["attention_mask"])

    def score(
        *, prompts: Sequence[Any], completions: Sequence[Any], images: Any = None, videos: Any = None, **_: Any
    ) -> list[float | None]:
        return mean_over_frames(
            lambda texts, pictures: of_pixels(texts, square.images(pictures)),
            rows(prompts, completions, images=images, videos=videos),
            batch_size=batch_size,
            max_frames=max_frames,
        )

    def score_tensors(*, prompts: Sequence[str], pixels: Pixels) -> Scores:
        return of_pixels(prompts, square.tensors(same_length(prompts, pixels)))

    score.score_tensors = score_tensors
    return score


def _configs(state: Mapping[str, Tensor], source: str) -> tuple[Any, Any]:
    """BlipVisionConfig and BlipTextConfig of these tensors. Raises CheckpointError where those telling sizes lack."""
    from transformers import BlipTextConfig, BlipVisionConfig

    def shape(name: str) -> torch.Size:
        refuse(source, [] if name in state else [name], [])
        return state[name].shape

    def blocks(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})

    patch = shape("blip.visual_encoder.patch_embed.proj.weight")[-1]
    _, positions, width = shape("blip.visual_encoder.pos_embed")
    vision = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=shape("blip.visual_encoder.blocks.0.mlp.fc1.weight")[0],
        num_hidden_layers=blocks("blip.visual_encoder.blocks."),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=round((positions - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    vocabulary, text_width = shape("blip.text_encoder.embeddings.word_embeddings.weight")
    text = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=text_width,
        encoder_hidden_size=width,
        intermediate_size=shape("blip.text_encoder.encoder.layer.0.intermediate.dense.weight")[0],
        num_hidden_layers=blocks("blip.text_encoder.encoder.layer."),
        num_attention_heads=text_width // HEAD_WIDTH,
        max_position_embeddings=shape("blip.text_encoder.embeddings.position_embeddings.weight")[0],
        is_decoder=True,  # gives it cross-attention; it still reads in both directions
    )
    return vision, text
