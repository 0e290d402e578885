"""Attention within the segments of a packed sequence, as vision towers need it, with one call for each length.

Qwen's towers pack the patches of all pictures and frames in one sequence, cut into segments (windows or frames) that
no patch looks across. With sdpa transformers calls the kernel segment by segment, about a hundred times a layer for
ten short clips; to an implementation whose name holds "flash" it gives the bounds and calls once. `packed_flash` takes
the bounds and is sdpa over all segments of one length as a batch: a tower's segments are alike but at the right and
lower edge, so a layer makes one to four calls, on any device and in any dtype.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "packed_flash"


def attend(
    module: nn.Module,
    query: Float[Tensor, "1 heads length dim"],
    key: Float[Tensor, "1 heads length dim"],
    value: Float[Tensor, "1 heads length dim"],
    attention_mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: Int[Tensor, " segments_and_1"],
    dropout: float = 0.0,
    **unused,
) -> tuple[Float[Tensor, "1 length heads dim"], None]:
    """transformers' attention signature; segment i is the tokens cu_seq_lens_q[i] to cu_seq_lens_q[i + 1]."""
    lengths = cu_seq_lens_q.diff()
    packed = torch.stack([query[0], key[0], value[0]]).transpose(1, 2)  # [3, length, heads, dim]
    distinct = lengths.unique().tolist()
    if len(distinct) == 1:
        return _batched(packed, distinct[0], scaling, dropout)[None], None
    of_token = lengths.repeat_interleave(lengths)
    out = torch.empty_like(packed[0])
    for length in distinct:
        tokens = (of_token == length).nonzero()[:, 0]
        out = out.index_copy(0, tokens, _batched(packed[:, tokens], length, scaling, dropout))
    return out[None], None


def _batched(packed: Float[Tensor, "3 tokens heads dim"], length: int, scaling: float, dropout: float) -> Tensor:
    """Attention within consecutive segments of `length` tokens: [tokens, heads, dim]."""
    query, key, value = packed.unflatten(1, (-1, length)).transpose(2, 3)
    out = scaled_dot_product_attention(query, key, value, scale=scaling, dropout_p=dropout)
    return out.transpose(1, 2).flatten(0, 1)


AttentionInterface.register(NAME, attend)
