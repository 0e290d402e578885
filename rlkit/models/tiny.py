"""Tiny captioners of real architectures, with their real processors, to be trained on the spot.

    model, processor = build("qwen2_5_vl", captions)
    model.save_pretrained(folder); processor.save_pretrained(folder)

The folder is an ordinary Hugging Face folder: AutoProcessor and AutoModelForImageTextToText load it, so every code path
is the one a 7B model takes. Only the sizes are small, and the tokenizer is trained on the given texts.
"""

import json
from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from rlkit.errors import ModelError

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava_onevision")

# Qwen's control tokens, in Qwen's order; the last two are LLaVA-OneVision's placeholders.
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<video>",
]

# Qwen's turn format. No default system turn: it would cost 20 tokens of every short row.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{- 'IMAGE' -}}
{%- elif part['type'] == 'video' -%}{{- 'VIDEO' -}}
{%- else -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

# What each family's real template writes where an image or a video stands.
PLACEHOLDERS = {
    "qwen2_5_vl": ("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"),
    # Qwen3-VL's processor writes one `<t seconds><|vision_start|>...<|vision_end|>` group per temporal grid itself.
    "qwen3_vl": ("<|vision_start|><|image_pad|><|vision_end|>", "<|video_pad|>"),
    "llava_onevision": ("<image>", "<video>"),
}


def build(
    family: str,
    texts: Iterable[str],
    *,
    hidden_size: int = 128,
    num_layers: int = 3,
    num_heads: int = 4,
    vision_hidden_size: int = 64,
    vision_depth: int = 2,
    patch_size: int | None = None,
    vocab_size: int = 1024,
    frame_size: int = 56,
    initializer_range: float = 0.1,
    seed: int = 0,
):
    """A randomly initialised captioner of `family` and its processor, both deterministic in (texts, sizes, seed).

    `texts` train the tokenizer and should hold prompts and captions alike; `vocab_size` is an upper bound. A frame
    of frame_size x frame_size pixels is not resized; it has four patches a side unless `patch_size` says otherwise.
    `initializer_range` is about 1 / sqrt(hidden_size): the 0.02 of large models costs a tiny one hundreds of steps
    before it sees anything. Raises ModelError for an unknown family or sizes that do not divide.
    """
    if family not in FAMILIES:
        raise ModelError(f"model.init names the family {family!r}; the tiny families are {', '.join(FAMILIES)}.")
    if hidden_size % num_heads or (hidden_size // num_heads) % 4:
        raise ModelError(f"hidden_size {hidden_size} over num_heads {num_heads} must give a multiple of 4.")
    patch_size = patch_size or frame_size // 4
    if patch_size == 0 or frame_size % (2 * patch_size):
        raise ModelError(f"frame_size {frame_size} must be a multiple of 2 * patch_size = {2 * patch_size}.")
    tokenizer = train_tokenizer(texts, vocab_size)
    image, video = PLACEHOLDERS[family]
    template = CHAT_TEMPLATE.replace("IMAGE", image).replace("VIDEO", video)
    text_config = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_heads,
        "max_position_embeddings": 8192,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "initializer_range": initializer_range,
    }
    vision = {
        "initializer_range": initializer_range,
        "hidden_size": vision_hidden_size,
        "depth": vision_depth,
        "patch_size": patch_size,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if family == "llava_onevision":
            model, processor = _llava(tokenizer, template, text_config, vision, frame_size)
        else:
            model, processor = _qwen(family, tokenizer, template, text_config, vision, frame_size)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = None
    return model.eval(), processor


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Qwen2Tokenizer:
    """Qwen's byte-level BPE trained on `texts`: every string round-trips, and the same texts give the same ids."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size - len(SPECIAL_TOKENS), 256),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer=trainer)

    trained = json.loads(bpe.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(pair) for pair in trained["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL_TOKENS[1:],
        model_max_length=8192,
    )


def _qwen(family: str, tokenizer, template: str, text: dict, vision: dict, frame_size: int):
    """Qwen2.5-VL or Qwen3-VL."""
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    spatial = 3 * half // 8  # Qwen splits 64 rotary frequencies into time 16, height 24, width 24
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10_000.0,  # sequences here are hundreds of tokens long, not a million
        "mrope_section": [half - 2 * spatial, spatial, spatial],
    }
    depth, hidden = vision["depth"], vision["hidden_size"]
    vision = vision | {
        "intermediate_size": 2 * hidden,
        "num_heads": max(hidden // 32, 1),
        "out_hidden_size": text["hidden_size"],
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    ids = {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    }
    patches = {"patch_size": vision["patch_size"], "temporal_patch_size": 2, "merge_size": 2}
    factor = 2 * vision["patch_size"]
    largest = 16 * frame_size**2  # larger frames are scaled down, smaller ones are left alone
    image_processor = Qwen2VLImageProcessor(size={"shortest_edge": factor**2, "longest_edge": largest}, **patches)
    if family == "qwen2_5_vl":
        vision |= {"window_size": 8 * vision["patch_size"], "fullatt_block_indexes": [depth - 1]}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
        video_processor = Qwen2VLVideoProcessor(
            size={"shortest_edge": factor**2, "longest_edge": largest}, cap_pixels_per_frame=False, **patches
        )
        model = Qwen2_5_VLForConditionalGeneration._from_config(config)
        return model, Qwen2_5_VLProcessor(image_processor, tokenizer, video_processor, chat_template=template)
    text["head_dim"] = text["hidden_size"] // text["num_attention_heads"]
    text["rope_parameters"]["mrope_interleaved"] = True
    text.pop("eos_token_id"), text.pop("bos_token_id")
    vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": list(range(max(depth - 1, 1)))}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    # Qwen3-VL bounds the pixels of the whole clip, not of a frame.
    video_processor = Qwen3VLVideoProcessor(
        size={"shortest_edge": factor**2, "longest_edge": 64 * largest}, cap_pixels_per_frame=False, **patches
    )
    model = Qwen3VLForConditionalGeneration._from_config(config)
    return model, Qwen3VLProcessor(image_processor, tokenizer, video_processor, chat_template=template)


def _llava(tokenizer, template: str, text: dict, vision: dict, frame_size: int):
    """LLaVA-OneVision: a SigLIP tower, a two-layer projector, a Qwen2 language model."""
    side = frame_size // vision["patch_size"]
    hidden = vision["hidden_size"]
    text = text | {"model_type": "qwen2", "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
    vision_config = {
        "model_type": "siglip_vision_model",
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": vision["depth"],
        "num_attention_heads": max(hidden // 32, 1),
        "patch_size": vision["patch_size"],
        "image_size": frame_size,
        "vision_use_head": False,
    }
    grids = [[frame_size, frame_size], [frame_size, 2 * frame_size], [2 * frame_size, frame_size]]
    config = LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision_config,
        image_grid_pinpoints=grids,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=True,
    )
    size = {"height": frame_size, "width": frame_size}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grids),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size, do_sample_frames=False),
        num_image_tokens=side**2,
        vision_feature_select_strategy="full",
        chat_template=template,
    )
    return LlavaOnevisionForConditionalGeneration._from_config(config), processor
