"""LoRA files in kohya's format, for ComfyUI, AUTOMATIC1111 and the tools of kohya-ss, from PEFT's names.

Every layer is `name.lora_down.weight`, `name.lora_up.weight` and `name.alpha`. Names: diffusers' own for UNets
(sd-scripts), the original repository's for FLUX (sd-scripts) and Wan (musubi-tuner). The original FLUX fuses q, k and v
(and, in single blocks, the MLP) into one layer; its LoRA stacks the parts' down matrices and puts their up matrices on
a block diagonal, which is exact, and which sd-scripts and diffusers recognise and take apart again.

Deviation from diffusers' convert_state_dict_to_kohya: it writes alpha = rank whatever lora_alpha was.
"""

import re
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from data_synth.whole import whole
from rlkit.errors import ModelError
from rlkit.models.adapters import lora_weights
from rlkit.models.generator import ADAPTER, POLICY, Generator

Layer = tuple[Tensor, Tensor]
"""(down [rank, in], up [out, rank])"""

FLUX_DOUBLE = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "txt_mod_lin": ("norm1_context.linear",),
}
FLUX_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm.linear",),
}
WAN_BLOCK = {
    **{
        f"self_attn_{short}": (f"attn1.{name}",)
        for short, name in zip("qkvo", ("to_q", "to_k", "to_v", "to_out.0"), strict=True)
    },
    **{
        f"cross_attn_{short}": (f"attn2.{name}",)
        for short, name in zip("qkvo", ("to_q", "to_k", "to_v", "to_out.0"), strict=True)
    },
    "ffn_0": ("ffn.net.0.proj",),
    "ffn_2": ("ffn.net.2",),
}


def save_kohya(generator: Generator, path: Path, name: str = POLICY) -> None:
    """Write policy, old or ema as a kohya LoRA; stock pipe.load_lora_weights(path) reads it, too.

    Raises ModelError for full fine-tuning, for SD3 (whose kohya names diffusers cannot read back, so they could not be
    checked), and for trained layers that the format has no name for.
    """
    weights = lora_weights(generator, name)
    rank = generator.denoiser.peft_config[ADAPTER].r
    family = generator.family.PIPELINE
    if family in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        layers = {f"lora_unet_{key.replace('.', '_')}": layer for key, layer in _layers(weights).items()}
    elif family == "FluxPipeline":
        layers = _flux(_layers(weights), generator.denoiser)
    elif family == "WanPipeline":
        layers = _wan(_layers(weights), generator.denoiser)
    else:
        raise ModelError(f"{family} has no kohya format that diffusers reads; use the diffusers LoRA that was saved.")
    tensors = {}
    for key, (down, up) in layers.items():
        tensors |= {f"{key}.lora_down.weight": down.contiguous(), f"{key}.lora_up.weight": up.contiguous()}
        tensors[f"{key}.alpha"] = torch.tensor(float(len(down)))  # the scale is in `up` already
    header = {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
    }
    with whole(path) as file:
        file.write(save(tensors, header))


def _layers(weights: dict[str, Tensor]) -> dict[str, Layer]:
    """Module name -> its two matrices."""
    downs = {key.removesuffix(".lora_A.weight"): value for key, value in weights.items() if ".lora_A." in key}
    return {key: (down, weights[f"{key}.lora_B.weight"]) for key, down in downs.items()}


def _flux(layers: dict[str, Layer], denoiser: nn.Module) -> dict[str, Layer]:
    """Blocks under the original repository's names."""
    left, result = dict(layers), {}
    for blocks, short, parts in (
        ("transformer_blocks", "double_blocks", FLUX_DOUBLE),
        ("single_transformer_blocks", "single_blocks", FLUX_SINGLE),
    ):
        for number in _blocks(layers, blocks):
            result |= _named(left, denoiser, f"{blocks}.{number}", f"lora_unet_{short}_{number}", parts)
    return _all_named(left, result, "FLUX")


def _wan(layers: dict[str, Layer], denoiser: nn.Module) -> dict[str, Layer]:
    """Every linear layer of every block, trained or not (zeros): diffusers' reader asks for all of them."""
    left, result = dict(layers), {}
    for number in range(len(denoiser.blocks)):
        prefix = f"blocks.{number}"
        result |= _named(
            left, denoiser, prefix, f"lora_unet_blocks_{number}", WAN_BLOCK, fill=next(iter(layers.values()))
        )
    return _all_named(left, result, "Wan")


def _blocks(layers: dict[str, Layer], blocks: str) -> list[int]:
    found = (re.match(rf"{blocks}\.(\d+)\.", name) for name in layers)
    return sorted({int(match[1]) for match in found if match})


def _named(
    left: dict[str, Layer],
    denoiser: nn.Module,
    prefix: str,
    target: str,
    parts: dict[str, tuple[str, ...]],
    fill: Layer | None = None,
) -> dict[str, Layer]:
    """One block's layers under their new names; what is used is taken out of `left`.

    Parts of a fused layer that were not trained are zeros of the rank of the others, and so are, with `fill`, whole
    layers that were not.
    """
    result = {}
    for short, names in parts.items():
        given = {name: left.pop(f"{prefix}.{name}") for name in names if f"{prefix}.{name}" in left}
        if not given and fill is None:
            continue
        down, _ = next(iter(given.values()), fill)
        pieces = [given.get(name) or _zeros(denoiser.get_submodule(f"{prefix}.{name}"), down) for name in names]
        result[f"{target}_{short}"] = (
            torch.cat([piece[0] for piece in pieces]),
            torch.block_diag(*(piece[1] for piece in pieces)),
        )
    return result


def _zeros(layer: nn.Module, like: Tensor) -> Layer:
    """A LoRA of `like`'s rank that does nothing."""
    return like.new_zeros(len(like), layer.in_features), like.new_zeros(layer.out_features, len(like))


def _all_named(left: dict[str, Layer], result: dict[str, Layer], family: str) -> dict[str, Layer]:
    if left:
        raise ModelError(f"kohya's {family} format has no name for {len(left)} trained layers, e.g. {min(left)}.")
    return result
