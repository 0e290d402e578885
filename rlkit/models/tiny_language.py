"""A tiny causal language model of a real architecture (Qwen2) with its real tokenizer, to be trained on the spot.

    model, tokenizer = build(texts); model.save_pretrained(folder); tokenizer.save_pretrained(folder)

The folder is an ordinary Hugging Face folder: AutoTokenizer and AutoModelForCausalLM load it.
"""

from collections.abc import Iterable

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from rlkit.models.tiny import CHAT_TEMPLATE, train_tokenizer


def build(
    texts: Iterable[str], *, width: int = 96, layers: int = 2, vocab_size: int = 512, seed: int = 0
) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer]:
    """Random weights and a chat tokenizer trained on `texts`, both deterministic in (texts, sizes, seed). `width` is a
    multiple of 32, one head for each 32."""
    tokenizer = train_tokenizer(texts, vocab_size)
    tokenizer.chat_template = CHAT_TEMPLATE
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=width**-0.5,  # the 0.02 of large models costs a tiny one hundreds of steps
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model.eval(), tokenizer
