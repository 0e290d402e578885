"""The score of an answer: how sure a captioner is, at the end of a caption, that the caption tells its clip.

VQAScore (https://huggingface.co/papers/2404.01291) asks "does this show {caption}?" and takes P(yes). Deviations: the
caption is the answer, not part of the question, so that all captions of a clip share one row; the score is the logit of
"Yes" minus that of "No" at the answer's end token, so that it is a plain number with sigmoid(score) = P(yes) among the
two; the head is the model's own, so that no fresh weights can be left out of a checkpoint.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlkit.caption import one_row
from rlkit.errors import ModelError
from rlkit.models import Captioner

WORDS = ("Yes", "No")


def tokens(captioner: Captioner) -> tuple[int, int]:
    """The tokens that stand for yes and no: the first of each word. Raises ModelError where they are the same."""
    yes, no = (captioner.processor.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in WORDS)
    if yes == no:
        raise ModelError(f"the tokenizer opens {WORDS[0]!r} and {WORDS[1]!r} with the same token ({yes}).")
    return yes, no


def scores(
    captioner: Captioner, batch: dict[str, Tensor], *, model: nn.Module | None = None
) -> Float[Tensor, "batch answers"]:
    """Scores of all answers of a batch of rows (`rows.collate`), in fp32; 0 where a row has fewer answers.

    Raises ModelError for a model whose answers cannot share a row.
    """
    if not captioner.sharing:
        raise ModelError(f"a reward is read from rows that answers share, but {captioner.reason}.")
    mask = batch["answer_mask"]
    ends = batch["prompt_lengths"][:, None] + batch["answer_lengths"].cumsum(1) - 1
    keep = torch.zeros_like(batch["keep"])
    keep[mask.nonzero()[:, 0], ends[mask]] = True  # an answer that is not there would end where the last one does
    logits = one_row.kept_logits(captioner, batch, keep, model=model)
    yes, no = tokens(captioner)
    margin = logits[:, yes].float() - logits[:, no].float()
    return torch.zeros(mask.shape, device=margin.device).masked_scatter(mask, margin)
