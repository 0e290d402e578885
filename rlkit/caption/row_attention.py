"""Who sees whom in a row of one prompt and several answers: masks, and an attention that wastes less on the prompt.

`one_row` is registered with transformers' AttentionInterface and is sdpa but for one case: a mask with fewer query
rows than there are queries. Then the first queries, which the mask leaves out, are plain causal: they take the causal
kernel, which skips half the work, and only the answers pay for a mask. A 1,000-token prompt costs half.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "one_row"


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options):
    """transformers' attention signature; query, key, value are [batch, heads, length, head_dim]."""
    if attention_mask is None or attention_mask.shape[2] >= query.shape[2]:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    causal = query.shape[2] - attention_mask.shape[2]
    options = {**options, "is_causal": True}
    prompt, _ = sdpa_attention_forward(
        module, query[:, :, :causal], key[:, :, :causal], value[:, :, :causal], None, **options
    )
    options["is_causal"] = False
    answers, _ = sdpa_attention_forward(module, query[:, :, causal:], key, value, attention_mask, **options)
    return torch.cat([prompt, answers], dim=1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def dense_mask(segments: Int[Tensor, "batch length"], start: int = 0) -> Bool[Tensor, "batch 1 rows length"]:
    """Causal within the prompt, and from each answer to the prompt and itself; True = attend.

    Only the queries from `start` on: those before are left to the causal kernel, and must be prompt in every row.
    """
    place = torch.arange(segments.shape[1], device=segments.device)
    same = (segments[:, None] == 0) | (segments[:, start:, None] == segments[:, None])
    return ((place[start:, None] >= place) & same)[:, None]


def additive(mask: Bool[Tensor, "batch 1 rows length"], dtype: torch.dtype) -> Tensor:
    """The mask as eager attention adds it to the scores."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def block_mask(segments: Int[Tensor, "batch length"]):
    """The same mask for FlexAttention, which skips the blocks between answers."""
    from torch.nn.attention.flex_attention import create_block_mask

    def attends(b, h, q, k):
        return (q >= k) & ((segments[b, k] == 0) | (segments[b, q] == segments[b, k]))

    size, length = segments.shape
    return create_block_mask(attends, size, None, length, length, device=segments.device)
