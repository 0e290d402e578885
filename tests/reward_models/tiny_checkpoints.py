"""Tiny random checkpoints of the published rewards, in the layout of the real ones: names, prefixes, file formats.

Each builder writes into a folder and returns the options of that reward's `load`. Weights are large enough that scores
of different pictures and texts differ well above rounding.
"""

import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SiglipConfig,
    SiglipModel,
    T5Config,
    T5ForConditionalGeneration,
)

from reward_models.clip_flant5 import AFTER, BEFORE
from reward_models.published.video_reward_prompt import TEMPLATE
from reward_models.vqa_score import QUESTION
from rlkit.models import tiny

PROMPTS = ["a red ball on a table", "two dogs run in the snow", "", "an old boat at night, oil on canvas"]
SIZES = [(40, 40), (57, 41), (30, 64), (28, 28)]
"""Width and height; sides that leave odd rests when cropped are among them."""


def picture(seed: int, width: int = 48, height: int = 48) -> Image.Image:
    """Soft random colours: smooth enough that two resizing libraries agree to a level or two."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def pictures() -> list[Image.Image]:
    return [picture(seed, *size) for seed, size in enumerate(SIZES)]


def clip_frames(seed: int, count: int, height: int = 48, width: int = 48) -> np.ndarray:
    return np.stack([np.asarray(picture(100 * seed + index, width, height)) for index in range(count)])


def clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-level tokenizer without merges: its letters, its letters that end a word, begin and end last."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={name: index for index, name in enumerate(names)}, merges=[])
    tokenizer.save_pretrained(folder)
    return tokenizer


def hf_clip(folder: Path, *, hidden_act: str = "gelu", seed: int = 0) -> dict[str, Any]:
    """An ordinary transformers folder, as PickScore's and OpenAI's are."""
    tokenizer = clip_tokenizer(folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {"projection_dim": 16}
    config = CLIPConfig(
        projection_dim=16,
        vision_config=tower | {"image_size": 28, "patch_size": 14, "hidden_act": hidden_act},
        text_config=tower
        | {
            "vocab_size": len(tokenizer),
            "hidden_act": hidden_act,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    model = CLIPModel(config)
    fill(model.state_dict(), seed)
    with torch.no_grad():
        model.logit_scale.fill_(4.2)  # trained ones are near log 100; transformers begins at 2.66
    model.save_pretrained(folder)
    return {"model": str(folder)}


def clip_score(folder: Path) -> dict[str, Any]:
    return hf_clip(folder, hidden_act="quick_gelu")


def pick_score(folder: Path) -> dict[str, Any]:
    return hf_clip(folder) | {"tokenizer": str(folder)}


def open_clip_state(vocabulary: int, seed: int = 1) -> dict[str, Tensor]:
    """OpenCLIP's names and shapes for a ViT-H-14 of two layers: heads of 80 and 64, patches of 14."""
    vision, text, out, patches = 160, 128, 24, 4
    state = {
        "positional_embedding": torch.empty(77, text),
        "text_projection": torch.empty(text, out),
        "logit_scale": torch.empty(()),
        "visual.class_embedding": torch.empty(vision),
        "visual.positional_embedding": torch.empty(patches + 1, vision),
        "visual.proj": torch.empty(vision, out),
        "visual.conv1.weight": torch.empty(vision, 3, 14, 14),
        "token_embedding.weight": torch.empty(vocabulary, text),
    }
    for name, width in (("visual.ln_pre", vision), ("visual.ln_post", vision), ("ln_final", text)):
        state |= {f"{name}.weight": torch.empty(width), f"{name}.bias": torch.empty(width)}
    for tower, width in (("visual.transformer", vision), ("transformer", text)):
        for block in range(2):
            at = f"{tower}.resblocks.{block}"
            shapes = {
                "ln_1": (width,),
                "ln_2": (width,),
                "attn.out_proj": (width, width),
                "mlp.c_fc": (2 * width, width),
                "mlp.c_proj": (width, 2 * width),
            }
            for name, shape in shapes.items():
                state |= {f"{at}.{name}.weight": torch.empty(shape), f"{at}.{name}.bias": torch.empty(shape[0])}
            state[f"{at}.attn.in_proj_weight"] = torch.empty(3 * width, width)
            state[f"{at}.attn.in_proj_bias"] = torch.empty(3 * width)
    fill(state, seed)
    return state


def hps_v2(folder: Path) -> dict[str, Any]:
    """A training checkpoint, as HPS_v2.1_compressed.pt is one."""
    state = open_clip_state(len(clip_tokenizer(folder)))
    torch.save({"epoch": 1, "name": "hps", "state_dict": state}, folder / "HPS_v2.1_compressed.pt")
    return {"model": str(folder), "tokenizer": str(folder)}


def laion_v2(folder: Path) -> dict[str, Any]:
    """The head's OrderedDict in a .pth, beside an encoder in a transformers folder."""
    hf_clip(folder / "encoder", hidden_act="quick_gelu")
    return _laion(folder, 16, "layers", (0, 2, 4, 6, 7), "v2")


def laion_v2_5(folder: Path) -> dict[str, Any]:
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = SiglipModel(
        SiglipConfig(vision_config=tower | {"image_size": 28, "patch_size": 14}, text_config=tower | {"vocab_size": 40})
    )
    fill(model.state_dict(), 3)
    model.save_pretrained(folder / "encoder")
    return _laion(folder, 32, "scoring_head", (0, 2, 4, 6, 8), "v2.5")


def _laion(folder: Path, width: int, prefix: str, indices: tuple[int, ...], version: str) -> dict[str, Any]:
    widths, state = (width, 1024, 128, 64, 16, 1), OrderedDict()
    for index, given, out in zip(indices, widths[:-1], widths[1:], strict=True):
        state[f"{prefix}.{index}.weight"] = torch.empty(out, given)
        state[f"{prefix}.{index}.bias"] = torch.empty(out)
    fill(state, 4)
    torch.save(state, folder / "head.pth")
    return {"model": str(folder / "head.pth"), "encoder": str(folder / "encoder"), "version": version}


def image_reward_state(vocabulary: int, seed: int = 5) -> dict[str, Tensor]:
    """The original's names: timm's ViT with fused qkv, BERT with cross-attention, MLP, BLIP's unused projections."""
    vision, text = 128, 64
    state = {
        "blip.visual_encoder.cls_token": torch.empty(1, 1, vision),
        "blip.visual_encoder.pos_embed": torch.empty(1, 5, vision),
        "blip.visual_encoder.patch_embed.proj.weight": torch.empty(vision, 3, 16, 16),
        "blip.visual_encoder.patch_embed.proj.bias": torch.empty(vision),
        "blip.text_encoder.embeddings.word_embeddings.weight": torch.empty(vocabulary, text),
        "blip.text_encoder.embeddings.position_embeddings.weight": torch.empty(64, text),
    }

    def layer(name: str, out: int, given: int | None = None) -> None:
        state[f"{name}.weight"] = torch.empty(out) if given is None else torch.empty(out, given)
        state[f"{name}.bias"] = torch.empty(out)

    for block in range(2):
        at = f"blip.visual_encoder.blocks.{block}"
        layer(f"{at}.norm1", vision)
        layer(f"{at}.norm2", vision)
        layer(f"{at}.attn.qkv", 3 * vision, vision)
        layer(f"{at}.attn.proj", vision, vision)
        layer(f"{at}.mlp.fc1", 2 * vision, vision)
        layer(f"{at}.mlp.fc2", vision, 2 * vision)
        at = f"blip.text_encoder.encoder.layer.{block}"
        for kind, seen in (("attention", text), ("crossattention", vision)):
            layer(f"{at}.{kind}.self.query", text, text)
            layer(f"{at}.{kind}.self.key", text, seen)
            layer(f"{at}.{kind}.self.value", text, seen)
            layer(f"{at}.{kind}.output.dense", text, text)
            layer(f"{at}.{kind}.output.LayerNorm", text)
        layer(f"{at}.intermediate.dense", 2 * text, text)
        layer(f"{at}.output.dense", text, 2 * text)
        layer(f"{at}.output.LayerNorm", text)
    layer("blip.visual_encoder.norm", vision)
    layer("blip.text_encoder.embeddings.LayerNorm", text)
    layer("blip.vision_proj", 256, vision)
    layer("blip.text_proj", 256, text)
    for index, given, out in zip((0, 2, 4, 6, 7), (text, 1024, 128, 64, 16), (1024, 128, 64, 16, 1), strict=True):
        layer(f"mlp.layers.{index}", out, given)
    fill(state, seed)
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    return state


def image_reward(folder: Path) -> dict[str, Any]:
    words = sorted({word.strip(",") for prompt in PROMPTS for word in prompt.split()})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", *words]
    BertTokenizer(vocab={name: index for index, name in enumerate(names)}).save_pretrained(folder)
    torch.save(image_reward_state(len(names)), folder / "ImageReward.pt")
    return {"model": str(folder), "tokenizer": str(folder)}


def clip_flant5(folder: Path, *, own_tower: bool = True) -> dict[str, Any]:
    """The original's names in shards of pytorch_model.bin; its tokenizer has fewer tokens than the model embeddings."""
    words = sorted({word for text in (BEFORE, AFTER, QUESTION, *PROMPTS) for word in re.findall(r"\w+|[^\w\s]", text)})
    names = ["<pad>", "</s>", "<unk>", "Yes", *words]
    backend = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    hf_clip(folder / "tower", hidden_act="quick_gelu")
    language = T5Config(
        vocab_size=len(names) + 28, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(language)
    state = dict(model.state_dict())
    state["lm_head.weight"] = torch.empty(len(names) + 28, 32)  # FlanT5's is not its embedding
    fill(state, 11)
    fill({"lm_head.weight": state["lm_head.weight"]}, 13, scale=1.2)
    state["embed_tokens.weight"] = state["shared.weight"]
    for index, given in ((0, 32), (2, 32)):
        state |= {f"mm_projector.{index}.weight": torch.empty(32, given), f"mm_projector.{index}.bias": torch.empty(32)}
    fill({name: tensor for name, tensor in state.items() if name.startswith("mm_")}, 12)
    if own_tower:
        tower = CLIPModel.from_pretrained(folder / "tower").vision_model.state_dict()
        state |= {f"vision_tower.vision_tower.vision_model.{name}": tensor for name, tensor in tower.items()}
    config = language.to_dict() | {
        "model_type": "clip_t5",
        "tie_word_embeddings": False,
        "mm_vision_tower": str(folder / "tower"),
        "mm_hidden_size": 32,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "mlp2x_gelu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    where = {name: f"pytorch_model-{1 + index % 2}.bin" for index, name in enumerate(state)}
    for shard in sorted(set(where.values())):
        torch.save({name: state[name] for name in state if where[name] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    return {"model": str(folder), "tokenizer": str(folder), "dtype": "float32"}


CHAT_TEMPLATE = tiny.CHAT_TEMPLATE.replace("IMAGE", tiny.PLACEHOLDERS["qwen2_5_vl"][0]).replace(
    "VIDEO", tiny.PLACEHOLDERS["qwen2_5_vl"][1]
)


def qwen2_vl(folder: Path, seed: int = 6) -> Qwen2VLForConditionalGeneration:
    """The base model of VideoReward, with patches of 14 as the real one has."""
    tokenizer = tiny.train_tokenizer([TEMPLATE, *PROMPTS], 2048)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer) + 61,  # the real one has more embeddings than tokens, too
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
        },
        vision_config={"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2},
        tie_word_embeddings=True,
        **{
            f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
            for name, token in (
                ("image", "image_pad"),
                ("video", "video_pad"),
                ("vision_start", "vision_start"),
                ("vision_end", "vision_end"),
            )
        },
    )
    model = Qwen2VLForConditionalGeneration(config).eval()
    fill(model.state_dict(), seed)
    model.save_pretrained(folder)
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(),
        tokenizer,
        Qwen2VLVideoProcessor(cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)
    return model


VIDEO_REWARD_CONFIG = {
    "data_config": {
        "max_frame_pixels": 200704,
        "num_frames": None,
        "fps": 2.0,
        "eval_dim": ["VQ", "MQ", "TA"],
        "prompt_template_type": "detailed_special",
        "sample_type": "uniform",
    },
    "training_args": {},
    "model_config": {"output_dim": 1, "use_special_tokens": True, "reward_token": "special"},
    "peft_lora_config": {"lora_enable": True, "lora_r": 4, "lora_alpha": 12, "use_rslora": False},
    "inference_config": {
        "VQ_mean": 3.6757,
        "VQ_std": 2.2476,
        "MQ_mean": 1.1646,
        "MQ_std": 1.3811,
        "TA_mean": 2.8105,
        "TA_std": 2.5121,
    },
}
"""The published statistics; the rest as VideoAlign saves its dataclasses."""

LORA = ("self_attn.q_proj", "mlp.down_proj")


def video_reward_parts(base: Qwen2VLForConditionalGeneration, vocabulary: int, seed: int = 7) -> dict[str, dict]:
    """The state dict in transformers 4.45's names, the LoRA of some layers, the head, and trained embeddings."""
    state = {}
    for name, tensor in base.state_dict().items():
        name = name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")
        state[name] = tensor[:vocabulary].clone() if tensor.shape[0] > vocabulary and tensor.ndim == 2 else tensor
    lora = {}
    for layer in range(2):
        for name in LORA:
            weight = state[f"model.layers.{layer}.{name}.weight"]
            lora[f"model.layers.{layer}.{name}.lora_A"] = torch.empty(4, weight.shape[1])
            lora[f"model.layers.{layer}.{name}.lora_B"] = torch.empty(weight.shape[0], 4)
    head = {"rm_head.weight": torch.empty(1, 32)}
    fill(lora, seed)
    fill(head, seed + 1, scale=3.0)
    return {"state": state, "lora": lora, "head": head}


def video_reward(folder: Path, *, layout: str = "peft") -> dict[str, Any]:
    """`layout`: peft (model.pth with LoRA beside its layers), adapter (LoRA and the rest apart), or merged."""
    base = qwen2_vl(folder / "base")
    vocabulary = base.config.text_config.vocab_size - 61 + 3
    parts = video_reward_parts(base, vocabulary)
    state, lora, head = parts["state"], parts["lora"], parts["head"]
    config = json.loads(json.dumps(VIDEO_REWARD_CONFIG))
    config["model_config"]["model_name_or_path"] = str(folder / "base")
    (folder / "model_config.json").write_text(json.dumps(config))
    checkpoint = folder / "checkpoint-11352"
    checkpoint.mkdir()
    if layout == "peft":
        adapted = {name.rsplit(".", 1)[0] for name in lora}
        whole = {
            name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
            if name.rsplit(".", 1)[0] in adapted
            else name: tensor
            for name, tensor in state.items()
        }
        whole |= {f"{name}.default.weight": tensor for name, tensor in lora.items()} | head
        torch.save({f"base_model.model.{name}": tensor for name, tensor in whole.items()}, checkpoint / "model.pth")
    elif layout == "adapter":
        from safetensors.torch import save_file

        save_file(
            {f"base_model.model.{name}.weight": tensor.contiguous() for name, tensor in lora.items()},
            checkpoint / "adapter_model.safetensors",
        )
        trained = head | {"model.embed_tokens.weight": state["model.embed_tokens.weight"]}
        torch.save(
            {f"base_model.model.{name}": tensor for name, tensor in trained.items()},
            checkpoint / "non_lora_state_dict.pth",
        )
    else:
        scale = 12 / 4
        for name in {name.rsplit(".", 1)[0] for name in lora}:
            change = scale * torch.einsum("or,ri->oi", lora[f"{name}.lora_B"], lora[f"{name}.lora_A"])
            state[f"{name}.weight"] = state[f"{name}.weight"] + change
        torch.save(state | head, checkpoint / "model.pth")
    return {"model": str(folder), "dtype": "float32"}


def fill(state: dict[str, Tensor], seed: int, scale: float = 1.0) -> None:
    """Deterministic values in place: norms near 1, matrices of about unit gain, small biases."""
    generator = torch.Generator().manual_seed(seed)
    for name in sorted(state):
        tensor = state[name]
        if not tensor.is_floating_point():
            continue
        values = torch.randn(tensor.shape, generator=generator)
        with torch.no_grad():
            if tensor.ndim < 2:
                near_one = name.endswith("weight") and ("norm" in name.lower() or ".ln_" in name or "ln_final" in name)
                tensor.copy_(1 + 0.1 * values if near_one else 0.1 * values)
            elif "embed" in name or "cls_token" in name:
                tensor.copy_(0.5 * values)
            else:
                tensor.copy_(scale * values / tensor[0].numel() ** 0.5)


IMAGE_REWARDS = {
    "clip_score": clip_score,
    "pick_score": pick_score,
    "hps_v2": hps_v2,
    "laion_v2": laion_v2,
    "laion_v2_5": laion_v2_5,
    "image_reward": image_reward,
    "clip_flant5": clip_flant5,
}
"""Name -> builder, of the rewards that score pictures one by one."""

MODULES = {"laion_v2": "laion_aesthetic", "laion_v2_5": "laion_aesthetic"}
