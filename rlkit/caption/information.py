"""The score of a caption as a judge sees it: what the clip adds to the caption's probability.

VisualGPTScore without its language prior (https://huggingface.co/papers/2306.01879): log p(caption | clip) -
log p(caption), both sums over the caption's tokens, in nats. With the prior, a caption would be good because it is
likely to be said of anything; with the clip hidden this score is 0 for every caption: nothing is told without looking.

Deviations: the prior is the same model asked without the clip, not an average over meaningless pictures; in training it
carries no gradient, else a judge would learn to find true captions unlikely.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkit.caption import one_row, rows
from rlkit.models import Captioner


def likelihood(
    captioner: Captioner, batch: dict[str, Tensor], *, model: nn.Module | None = None
) -> Float[Tensor, "batch answers"]:
    """log p of all answers of a batch of rows, in nats: a sum over tokens; 0 where a row has fewer answers."""
    return one_row.log_probs(captioner, batch, model=model)[0].sum(-1)


@torch.no_grad()
def prior(
    captioner: Captioner, records: Sequence[dict], *, model: nn.Module | None = None
) -> Float[Tensor, "batch answers"]:
    """log p of all answers with the clip hidden."""
    hidden = [rows.encode(captioner, record) for record in records]
    return likelihood(captioner, rows.batch_of(captioner, hidden), model=model)
