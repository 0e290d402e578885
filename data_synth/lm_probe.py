"""Optional probe of the audit: how likely a causal language model finds a text. Needs torch and transformers.

The model is any local folder, a `.gguf` file, or a hub id that transformers loads. It sees the text alone, so what it
can tell about a pair is a shortcut: unnatural wording, a lost antecedent, an order that no story has.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from data_synth.errors import DataError

Scorer = Callable[[Sequence[str]], list[tuple[float, int]]]
"""Texts in, (log-probability, number of tokens) out."""


def scorer(model: str, *, batch_size: int = 8, max_tokens: int = 512) -> Scorer:
    """A function that scores texts with a causal language model; raises DataError where it cannot be loaded."""
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise DataError(f"the language-model probe needs {error.name}; install it, or leave the probe out") from None
    path = Path(model)
    where = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = str(path.parent) if where else model
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **where)
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where).eval()
    except (OSError, ValueError, ImportError) as error:
        first = str(error).splitlines()[0]
        raise DataError(
            f"no causal language model at {model} ({first}); give a folder, a .gguf file or a hub id"
        ) from None
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    front = [] if start is None else [start]

    def score(texts: Sequence[str]) -> list[tuple[float, int]]:
        rows = [(front + tokenizer(t, add_special_tokens=False)["input_ids"])[:max_tokens] for t in texts]
        scores: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
        order = sorted((k for k in range(len(rows)) if len(rows[k]) > 1), key=lambda k: len(rows[k]))
        for begin in range(0, len(order), batch_size):
            places = order[begin : begin + batch_size]
            for k, value in zip(places, _log_probs(torch, network, [rows[k] for k in places]), strict=True):
                scores[k] = (value, len(rows[k]) - 1)
        return scores

    return score


def _log_probs(torch, network, rows: list[list[int]]) -> list[float]:
    """Sum of the log-probabilities of the tokens after the first, per row; padding on the right is masked."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        logits = network(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    picked = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (picked * mask[:, 1:]).sum(1).tolist()


def contrasts(score: Scorer, chosen: Sequence[str], rejected: Sequence[str]) -> list[dict[str, float]]:
    """What the model says about each pair: differences of the total and of the mean log-probability per token."""
    texts = list(dict.fromkeys([*chosen, *rejected]))
    found = dict(zip(texts, score(texts), strict=True))
    rows = []
    for a, b in zip(chosen, rejected, strict=True):
        (total_a, count_a), (total_b, count_b) = found[a], found[b]
        mean = total_a / max(count_a, 1) - total_b / max(count_b, 1)
        rows.append({"lm total": total_a - total_b, "lm mean": mean, "lm sign": float((mean > 0) - (mean < 0))})
    return rows
