"""Tiny text encoders with real tokenizers for generators: CLIP's BPE and T5's Unigram, made from the given texts."""

import json
import math
from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"


def clip_tokenizer(texts: Sequence[str], *, vocab_size: int = 768, max_length: int = 16) -> CLIPTokenizer:
    """CLIP's lower-casing byte-level BPE, trained on `texts`; every text is cut or padded to max_length tokens."""
    shell = CLIPTokenizer()._tokenizer  # CLIP's own normaliser and splitting
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer, bpe.pre_tokenizer = shell.normalizer, shell.pre_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size, 2 * len(letters) + 2) - 2,  # CLIP has every byte twice, in a word and at its end
        initial_alphabet=letters,
        # Given here, the ends of words have fixed ids; else the trainer numbers them in the order of a hash table.
        special_tokens=[letter + "</w>" for letter in letters],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer=trainer)
    trained = json.loads(bpe.to_str())["model"]
    tokens = [*sorted(trained["vocab"], key=trained["vocab"].get), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[tuple(pair) for pair in trained["merges"]],
        model_max_length=max_length,
    )


def t5_tokenizer(texts: Sequence[str], *, vocab_size: int = 512, max_length: int = 16) -> T5Tokenizer:
    """T5's Unigram with <pad> 0, </s> 1, <unk> 2, then every character and the most frequent words of `texts`.

    Not trained: on captions of a few dozen words tokenizers' UnigramTrainer keeps single letters only.
    """
    split = T5Tokenizer(extra_ids=0)._tokenizer.pre_tokenizer.pre_tokenize_str
    counts = Counter(word.rstrip(".,;:!?") for text in texts for word, _ in split(text))
    letters = sorted({letter for word in counts for letter in word} | set(".,;:!?▁"))
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    total = counts.total()
    vocab = [(PAD, 0.0), (EOS, 0.0), (UNK, 0.0)]
    vocab += [(letter, -math.log(total) - 2.0) for letter in letters]  # rarer than any word
    vocab += [(word, math.log(counts[word] / total)) for word in words[: max(vocab_size - len(vocab), 0)]]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=max_length)


def clip_encoder(
    tokenizer: CLIPTokenizer, *, width: int = 32, layers: int = 2, projection: int | None = None
) -> CLIPTextModel | CLIPTextModelWithProjection:
    """CLIP's text model for `tokenizer`; with `projection`, the one that projects its pooled output."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(width // 32, 1),
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=projection or width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=2.0,  # untrained: the spread of pooled embeddings over prompts is 0.3 to 0.5 of their size
    )
    return CLIPTextModel(config) if projection is None else CLIPTextModelWithProjection(config)


def t5_encoder(
    tokenizer: T5Tokenizer, *, width: int = 32, layers: int = 2, umt5: bool = False
) -> T5EncoderModel | UMT5EncoderModel:
    """The encoder half of T5, or of UMT5, for `tokenizer`."""
    heads = max(width // 32, 1)
    sizes = {
        "vocab_size": len(tokenizer),
        "d_model": width,
        "d_ff": 2 * width,
        "d_kv": width // heads,
        "num_layers": layers,
        "num_heads": heads,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "feed_forward_proj": "gated-gelu",
    }
    return UMT5EncoderModel(UMT5Config(**sizes)) if umt5 else T5EncoderModel(T5Config(**sizes))
