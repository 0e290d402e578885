"""One clip and all its answers as one row through the stock model: the prompt and the vision tower run once.

Each answer sees the prompt and itself only (a 4-D mask, or a FlexAttention BlockMask on CUDA), its positions restart
after the last prompt token, and the LM head runs on the positions that predict an answer token. The result equals
separate rows up to rounding; `separate_log_probs` is that reference, and what families we do not know run on.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlkit.caption import row_attention
from rlkit.caption.rows import ROW_KEYS
from rlkit.errors import ModelError
from rlkit.models import Captioner, family_module

Batch = dict[str, Tensor]
LogProbs = tuple[Float[Tensor, "batch answers tokens"], Bool[Tensor, "batch answers tokens"]]


def log_probs(
    captioner: Captioner,
    batch: Batch,
    vision: dict | None = None,
    *,
    model: nn.Module | None = None,
    temperature: float = 1.0,
) -> LogProbs:
    """Log-probabilities of every token of every answer, and the mask of real tokens; answer 0 is the chosen one.

    `vision` are features from `vision_features`, to be reused for policy and reference; without them the tower runs
    inside the model's own forward, where FSDP has its weights together. `model` is what is called when it is not
    captioner.model itself: its DDP, FSDP or DeepSpeed wrapper. Logits are divided by `temperature`, as where answers
    were drawn. Counts the tokens it processed into the batch.
    """
    if not captioner.sharing:
        return separate_log_probs(captioner, batch, model=model, temperature=temperature)
    _check_window(captioner, batch)
    tower: dict = media(batch)
    if vision is not None:
        tower = {"mm_encoder_outputs": dict(vision)} if vision else {}  # a fresh dict: the model writes into it
    positions = batch["position_ids"]
    outputs = (model or captioner.model)(
        input_ids=batch["input_ids"],  # with embeddings only, transformers 5.23 would use stale rope_deltas
        attention_mask=attention_mask(captioner, batch),
        position_ids=positions if len(positions) > 1 else positions[0],
        logits_to_keep=batch["keep"],
        use_cache=False,
        **tower,
    )
    _count(batch, batch["input_ids"].numel())
    return _token_log_probs(outputs.logits, batch, temperature), batch["target_mask"]


def separate_log_probs(
    captioner: Captioner, batch: Batch, *, model: nn.Module | None = None, temperature: float = 1.0
) -> LogProbs:
    """The same log-probs from one row per answer through the stock forward, which finds its own positions."""
    _, answers, longest = batch["targets"].shape
    prompt_lengths = batch["prompt_lengths"]
    widest = int(prompt_lengths.max())
    result = []
    place = torch.arange(widest + longest, device=prompt_lengths.device)
    for answer in range(answers):
        lengths = prompt_lengths + batch["answer_lengths"][:, answer]
        in_prompt = place < prompt_lengths[:, None]
        at = (place - prompt_lengths[:, None]).clamp(0, longest - 1)
        target = batch["targets"][:, answer].gather(1, at)
        prompt = nn.functional.pad(batch["input_ids"], (0, longest))[:, : widest + longest]
        mask = place < lengths[:, None]
        inputs = {"input_ids": torch.where(in_prompt, prompt, target * mask), "attention_mask": mask.long()}
        if "mm_token_type_ids" in batch:
            types = nn.functional.pad(batch["mm_token_type_ids"], (0, longest))[:, : widest + longest]
            inputs["mm_token_type_ids"] = types * in_prompt
        logits = (model or captioner.model)(**inputs, **media(batch), use_cache=False).logits
        index = (prompt_lengths[:, None] - 1 + torch.arange(longest, device=place.device)).clamp(max=len(place) - 1)
        kept = torch.take_along_dim(logits, index[..., None], dim=1).float() / temperature
        picked = kept.gather(2, batch["targets"][:, answer, :, None])[..., 0] - kept.logsumexp(-1)
        result.append(picked.masked_fill(~batch["target_mask"][:, answer], 0.0))
        _count(batch, mask.numel(), restart=answer == 0)
    return torch.stack(result, 1), batch["target_mask"]


def vision_features(captioner: Captioner, batch: Batch) -> dict:
    """Whole outputs of the vision tower (with DeepStack features), to pass as `vision` to several calls.

    Policy and reference may share them only while the tower is frozen and carries no adapter; a trained tower gives
    features with gradient, good for one policy pass. Empty for text-only rows.
    """
    with torch.set_grad_enabled(captioner.vision != "frozen" and torch.is_grad_enabled()):
        return family_module(captioner.family).features(captioner.base, media(batch))


def features_of(vision: dict, kept: Sequence[int]) -> dict:
    """The features of some rows of a batch with one medium a row, without what else the tower gave out."""

    def picked(values):
        return values[list(kept)] if isinstance(values, Tensor) else [values[at] for at in kept]

    found = {}
    for medium, output in vision.items():
        layers = output.get("deepstack_features")
        deep = {} if layers is None else {"deepstack_features": [picked(layer) for layer in layers]}
        found[medium] = type(output)(pooler_output=picked(output["pooler_output"]), **deep)
    return found


def media(batch: Batch) -> Batch:
    """The tensors of a batch that go to the vision tower."""
    return {key: value for key, value in batch.items() if key not in ROW_KEYS}


def attention_mask(captioner: Captioner, batch: Batch):
    """The mask of a batch in the form that the model's attention takes; see rlkit/caption/row_attention.py."""
    kind = captioner.base.config.get_text_config()._attn_implementation
    if kind == "flex_attention":
        return row_attention.block_mask(batch["segments"])
    if kind == row_attention.NAME:
        return row_attention.dense_mask(batch["segments"], start=int(batch["prompt_lengths"].min()))
    mask = row_attention.dense_mask(batch["segments"])
    return row_attention.additive(mask, captioner.base.dtype) if kind == "eager" else mask


def sharing_ratio(batch: Batch) -> float:
    """Tokens that separate rows would hold over the tokens the last forward really processed, padding included.

    Raises ModelError when no forward has run on this batch.
    """
    if "processed_tokens" not in batch:
        raise ModelError("the sharing ratio was asked for before any forward pass on this batch.")
    lengths = (batch["prompt_lengths"][:, None] + batch["answer_lengths"]) * batch["answer_mask"]
    return float(lengths.sum()) / float(batch["processed_tokens"])


def check_sharing(captioner: Captioner, batch: Batch, sharing: str) -> float:
    """The sharing ratio of the step just made; raises ModelError when `sharing: on` was asked for and did nothing."""
    ratio = sharing_ratio(batch)
    if sharing == "on" and batch["targets"].shape[1] > 1 and ratio <= 1.0:
        raise ModelError(
            f"model.sharing is on, but the step processed as many tokens as separate rows (ratio {ratio:.2f}): "
            f"{captioner.reason}."
        )
    return ratio


def _count(batch: Batch, tokens: int, *, restart: bool = True) -> None:
    """Remember how many tokens went through the language model."""
    before = 0 if restart else int(batch["processed_tokens"])
    batch["processed_tokens"] = torch.tensor(before + tokens)


def _token_log_probs(
    logits: Float[Tensor, "kept vocab"], batch: Batch, temperature: float
) -> Float[Tensor, "batch answers tokens"]:
    """Gather the target of every answer token; the last prompt token's logits serve the first token of each answer."""
    mask = batch["target_mask"]
    source, target = batch["sources"][mask], batch["targets"][mask]
    picked = logits[source, target].float() / temperature - _log_sum_exp(logits, temperature)[source]
    return torch.zeros(mask.shape, device=logits.device).masked_scatter(mask, picked)


def _log_sum_exp(logits: Float[Tensor, "kept vocab"], temperature: float = 1.0) -> Float[Tensor, " kept"]:
    """In fp32, for over 150,000 words bf16 loses tenths of a nat; piece by piece, so that no fp32 copy is kept."""
    if logits.dtype == torch.float32:
        return (logits if temperature == 1 else logits / temperature).logsumexp(-1)

    def of_piece(piece: Tensor) -> Tensor:
        return (piece.float() / temperature).logsumexp(-1)

    return torch.cat([checkpoint(of_piece, piece, use_reentrant=False) for piece in logits.split(256)])


def _check_window(captioner: Captioner, batch: Batch) -> None:
    """A sliding window counts places in the row, not positions; all must fit into one window."""
    text = captioner.base.config.get_text_config().to_dict()
    if "sliding_attention" not in (text.get("layer_types") or ()):
        return
    longest = int((batch["prompt_lengths"] + batch["answer_lengths"].max(1).values).max())
    if longest > text["sliding_window"]:
        raise ModelError(
            f"a prompt and answer of {longest} tokens exceed the model's sliding window of {text['sliding_window']}; "
            "lower data.num_frames or use sharing: off."
        )
