"""HPSv2.1: cosine of OpenCLIP ViT-H/14 trained on people's choices, Wu et al. 2023, arXiv 2306.09341.

    score = load("cuda")                                     # HPS_v2.1_compressed.pt of xswu/HPSv2
    score(prompts=["a red ball"], completions=[image])       # about 0.2 to 0.35; the paper's tables show it x 100

The file is OpenCLIP's state dict (https://github.com/tgxs002/HPSv2, hpsv2/img_score.py); it is renamed into a
transformers CLIPModel: fused query, key, value split, projections transposed, GELU and not transformers' default
quick GELU. As there, the cosine is not multiplied by the logit scale, and pictures are resized as float tensors.
torchvision before 0.17, with which the checkpoint was trained and published, did so without antialiasing, which is
`antialias=False`; whoever runs the original today gets it with. Deviations: text is cleaned as transformers' tokenizer
does (no ftfy), fp32 unless said otherwise (there, autocast), transparency is dropped (there, it fails), and a video
scores the mean over its frames.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from reward_models.published.checkpoint import (
    CheckpointError,
    dtype_of,
    fetch,
    load_strictly,
    read,
    refuse,
    tokenizer_of,
)
from reward_models.published.clip_pairs import reward
from reward_models.published.pixels import Square

HEAD_WIDTH = {"vision": 80, "text": 64}
"""Per attention head of OpenCLIP's ViT-H-14; the only sizes that the tensors do not tell."""

BLOCK = [  # group 1 is the block's number
    (r"ln_(1|2)\.(weight|bias)", r"layer_norm\2.\3"),
    (r"attn\.out_proj\.(weight|bias)", r"self_attn.out_proj.\2"),
    (r"attn\.(q|k|v)\.(weight|bias)", r"self_attn.\2_proj.\3"),
    (r"mlp\.c_fc\.(weight|bias)", r"mlp.fc1.\2"),
    (r"mlp\.c_proj\.(weight|bias)", r"mlp.fc2.\2"),
]
RULES = [
    *(
        (rf"{tower}\.resblocks\.(\d+)\.{pattern}", rf"{model}.encoder.layers.\1.{new}")
        for tower, model in ((r"visual\.transformer", "vision_model"), ("transformer", "text_model"))
        for pattern, new in BLOCK
    ),
    (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"ln_final\.(weight|bias)", r"text_model.final_layer_norm.\1"),
    (r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"visual\.ln_pre\.(weight|bias)", r"vision_model.pre_layrnorm.\1"),
    (r"visual\.ln_post\.(weight|bias)", r"vision_model.post_layernorm.\1"),
    (r"visual\.proj", "visual_projection.weight"),
    (r"text_projection", "text_projection.weight"),
    (r"attn_mask", None),  # a buffer of zeros and -inf in some of OpenCLIP's files
]


def load(
    device: str = "cpu",
    *,
    model: str = "xswu/HPSv2",
    file: str = "HPS_v2.1_compressed.pt",
    tokenizer: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    revision: str | None = None,
    antialias: bool = True,
    dtype: str = "float32",
    batch_size: int = 16,
    max_frames: int | None = None,
) -> Callable[..., list[float | None]]:
    """`score`, and `score.score_tensors(prompts=, pixels=)` for pixels [batch, 3, H, W] in [0, 1], differentiable.

    `model` is a hub id, a folder, or the file itself; `file="HPS_v2_compressed.pt"` is HPSv2.0. A .pt is read as
    tensors only. `batch_size` counts images; of a video with more than `max_frames`, that many frames count. A prompt
    beyond 77 tokens is cut, with a warning. An empty prompt is scored; None is not. Raises CheckpointError unless the
    file fills the model exactly.
    """
    from transformers import CLIPModel

    path = fetch(model, file, revision)
    state = _as_transformers_splits(read(path), str(path))
    with torch.device(device):
        network = CLIPModel(_config(state, str(path)))
    load_strictly(network, state, source=str(path), rules=RULES)
    network = network.to(dtype_of(dtype)).eval().requires_grad_(False)
    square = Square(network.config.vision_config.image_size, resize="torch", antialias=antialias)
    return reward(network, tokenizer_of(tokenizer), square, lambda x: x, batch_size=batch_size, max_frames=max_frames)


def _as_transformers_splits(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """OpenCLIP's tensors with query, key and value apart and projections as nn.Linear keeps them."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".in_proj_" in name:
            if tensor.shape[0] % 3:
                raise CheckpointError(f"{name} of {source} is {list(tensor.shape)}, expected three equal parts.")
            parts = zip("qkv", tensor.chunk(3), strict=True)
            found |= {name.replace("in_proj_", f"{part}."): value.clone() for part, value in parts}
        else:
            found[name] = tensor.mT.contiguous() if name in ("visual.proj", "text_projection") else tensor
    return found


def _config(state: Mapping[str, Tensor], source: str) -> Any:
    """The CLIPConfig of these tensors. Raises CheckpointError where those that tell the sizes are missing."""
    from transformers import CLIPConfig

    needed = (
        "visual.conv1.weight",
        "visual.positional_embedding",
        "visual.proj",
        "positional_embedding",
        "token_embedding.weight",
        "visual.transformer.resblocks.0.mlp.c_fc.weight",
        "transformer.resblocks.0.mlp.c_fc.weight",
    )
    refuse(source, [name for name in needed if name not in state], [])
    width, _, patch, _ = state["visual.conv1.weight"].shape
    side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5) * patch
    vocabulary, text_width = state["token_embedding.weight"].shape
    shared = {"hidden_act": "gelu", "projection_dim": len(state["visual.proj"])}
    vision = shared | _tower(state, "visual.transformer", width, HEAD_WIDTH["vision"])
    text = shared | _tower(state, "transformer", text_width, HEAD_WIDTH["text"])
    return CLIPConfig(
        projection_dim=shared["projection_dim"],
        vision_config=vision | {"image_size": side, "patch_size": patch},
        text_config=text
        | {
            "vocab_size": vocabulary,
            "max_position_embeddings": len(state["positional_embedding"]),
            "eos_token_id": vocabulary - 1,  # OpenCLIP reads the text at its largest id, the end token
            "bos_token_id": vocabulary - 2,
        },
    )


def _tower(state: Mapping[str, Tensor], prefix: str, width: int, head_width: int) -> dict[str, int]:
    blocks = {name.split(".resblocks.")[1].split(".")[0] for name in state if name.startswith(f"{prefix}.resblocks.")}
    return {
        "hidden_size": width,
        "num_attention_heads": width // head_width,
        "num_hidden_layers": len(blocks),
        "intermediate_size": len(state[f"{prefix}.resblocks.0.mlp.c_fc.weight"]),
    }
