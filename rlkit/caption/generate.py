"""Captions from a model: greedy or sampled, batch by batch, with transformers' own generate."""

from collections.abc import Sequence

import torch

from rlkit.caption import one_row, rows
from rlkit.models import Captioner
from rlkit.running.progress import Progress


@torch.no_grad()
def captions(
    captioner: Captioner,
    examples: Sequence[rows.Example],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    num_return_sequences: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[list[str]]:
    """`num_return_sequences` captions for the prompt of each example; temperature 0 is greedy.

    The answers inside the examples are not read. Sampling draws from a generator seeded by (seed, place in the list),
    so that a job that is cut and resumed at a batch boundary gives the same captions.
    """
    model, tokenizer = captioner.base, captioner.processor.tokenizer
    was_training = model.training
    model.eval()
    found: list[list[str]] = []
    options = {"do_sample": False} if temperature == 0 else {
        "do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0
    }  # fmt: skip
    for start in range(0, len(examples), batch_size):
        chunk = [examples[at] for at in range(start, min(start + batch_size, len(examples)))]
        inputs = prompts(captioner, chunk)
        with torch.random.fork_rng():
            torch.manual_seed(seed * 1_000_003 + start)
            output = model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                num_return_sequences=num_return_sequences,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **options,
            )
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        texts = [text.strip() for text in texts]
        found += [texts[at : at + num_return_sequences] for at in range(0, len(texts), num_return_sequences)]
        if progress is not None:
            progress.advance(len(chunk))
    model.train(was_training)
    return found


def prompts(captioner: Captioner, examples: Sequence[rows.Example]) -> dict[str, torch.Tensor]:
    """The prompts of several examples as generate takes them: padded on the left, media joined."""
    device = captioner.base.device
    pad = captioner.processor.tokenizer.pad_token_id
    width = max(example.prompt["input_ids"].shape[1] for example in examples)
    ids = torch.full((len(examples), width), pad)
    mask = torch.zeros((len(examples), width), dtype=torch.long)
    types = torch.zeros((len(examples), width), dtype=torch.long)
    for row, example in enumerate(examples):
        length = example.prompt["input_ids"].shape[1]
        ids[row, width - length :] = example.prompt["input_ids"][0]
        mask[row, width - length :] = 1
        if "mm_token_type_ids" in example.prompt:
            types[row, width - length :] = example.prompt["mm_token_type_ids"][0]
    inputs = {"input_ids": ids, "attention_mask": mask, **one_row.media(rows.collate(examples, pad_token_id=pad))}
    if "mm_token_type_ids" in examples[0].prompt:
        inputs["mm_token_type_ids"] = types
    return {name: tensor.to(device) for name, tensor in inputs.items()}
