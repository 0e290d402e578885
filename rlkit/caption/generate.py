"""Captions from a model: greedy or sampled, batch by batch, with transformers' own generate.

Several samples of a clip share its prefix: transformers 5.23 runs the vision tower once for `num_return_sequences`, but
the prompt through the language model once for each of them. Here the prompt runs once and its cache is repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from rlkit.caption import one_row, rows
from rlkit.models import Captioner
from rlkit.running.progress import Progress

UNTOUCHED = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
"""generate's options under which it draws from the model's own distribution, whatever its generation_config.json says
(that of Qwen2.5-VL has a repetition penalty)."""


@dataclass(frozen=True)
class Completion:
    """One sample as it was drawn; its tokens are never made from its text again."""

    ids: Int[Tensor, " tokens"]
    """Up to and including the end token, which a sample that was cut has not."""
    log_probs: Float[Tensor, " tokens"]
    """What it was drawn with, at the temperature of the draw."""


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
        with torch.random.fork_rng():
            torch.manual_seed(seed * 1_000_003 + start)
            output = _generated(
                captioner, prompts(captioner, chunk), num_return_sequences, max_new_tokens=max_new_tokens, **options
            )
        texts = [text.strip() for text in tokenizer.batch_decode(output, skip_special_tokens=True)]
        found += [texts[at : at + num_return_sequences] for at in range(0, len(texts), num_return_sequences)]
        if progress is not None:
            progress.advance(len(chunk))
    model.train(was_training)
    return found


@torch.no_grad()
def completions(
    captioner: Captioner,
    examples: Sequence[rows.Example],
    *,
    num_generations: int,
    max_completion_length: int,
    temperature: float = 1.0,
    seeds: Sequence[int],
    vision: Mapping[str, Any] | None = None,
) -> list[list[Completion]]:
    """`num_generations` samples for the prompt of each example, as tokens, from the model's own distribution.

    Each example draws from its own seed, so that its samples depend neither on what else is in the batch nor on how
    many processes there are (but for rounding). `vision` are one_row.vision_features of these examples; without them
    the tower runs here.
    """
    model, tokenizer = captioner.base, captioner.processor.tokenizer
    was_training = model.training
    model.eval()
    inputs = prompts(captioner, examples, vision)
    draw = _Draw(seeds, num_generations, max_completion_length, temperature, inputs["input_ids"].shape[1])
    with torch.random.fork_rng():
        output = _generated(
            captioner,
            inputs,
            num_generations,
            max_new_tokens=max_completion_length,
            do_sample=True,
            logits_processor=LogitsProcessorList([draw]),
            **UNTOUCHED,
        )
    model.train(was_training)
    ends = output == tokenizer.eos_token_id
    lengths = torch.where(ends.any(1), ends.int().argmax(1) + 1, output.shape[1]).tolist()
    output, log_probs = output.cpu(), torch.cat(draw.log_probs, 1).cpu()
    found = [Completion(output[at, :n].clone(), log_probs[at, :n].clone()) for at, n in enumerate(lengths)]
    return [found[at : at + num_generations] for at in range(0, len(found), num_generations)]


def prompts(
    captioner: Captioner, examples: Sequence[rows.Example], vision: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The prompts of several examples as generate takes them: padded on the left, media joined, or `vision` instead of
    the pixels."""
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
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    if vision:
        inputs = {name: tensor for name, tensor in inputs.items() if not name.startswith("pixel_values")}
        inputs["mm_encoder_outputs"] = dict(vision)  # a fresh dict: the model writes into it
    return inputs


OF_THE_ROW = ("input_ids", "attention_mask", "mm_token_type_ids")


def _generated(captioner: Captioner, inputs: dict[str, Any], repeats: int, **options: Any) -> Int[Tensor, "rows new"]:
    """New tokens of `repeats` continuations of each prompt, those of one prompt beside each other.

    The last token of the prompt, which is text, is what the repeated cache is continued with. Families whose state is
    not known to be a plain cache go through generate alone.
    """
    model, tokenizer = captioner.base, captioner.processor.tokenizer
    options |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if repeats > 1 and captioner.sharing:
        prefix = {name: value[:, :-1] if name in OF_THE_ROW else value for name, value in inputs.items()}
        cache = model.generate(
            **prefix,
            max_new_tokens=1,
            do_sample=False,
            return_dict_in_generate=True,
            pad_token_id=options["pad_token_id"],
        ).past_key_values
        cache.batch_repeat_interleave(repeats)
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")} | {"past_key_values": cache}
    output = model.generate(**inputs, num_return_sequences=repeats, **options)
    return output[:, inputs["input_ids"].shape[1] :]


class _Draw(LogitsProcessor):
    """Leaves one token possible in each row, drawn by inverting the distribution at a uniform number of its own."""

    def __init__(self, seeds: Sequence[int], repeats: int, steps: int, temperature: float, start: int) -> None:
        """`start` is the length of the prompts. Generators are the CPU's: the same numbers on every device."""
        drawn = [torch.rand(repeats, steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.uniform, self.temperature, self.start = torch.cat(drawn).double(), temperature, start
        self.log_probs: list[Float[Tensor, "rows 1"]] = []

    def __call__(self, input_ids: Int[Tensor, "rows so_far"], scores: Float[Tensor, "rows vocab"]) -> Tensor:
        """-inf for all tokens but the drawn one."""
        log_probs = (scores.float() / self.temperature).log_softmax(-1)
        cumulative = log_probs.double().exp().cumsum(-1)  # fp32 would lose the tail of 150,000 words
        at = self.uniform[:, input_ids.shape[1] - self.start, None].to(scores.device) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, at, right=True).clamp(max=scores.shape[-1] - 1)
        self.log_probs.append(log_probs.gather(1, token))
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)
