"""From a record and its clip to tensors: the prompt once, every answer once, true timestamps, nothing truncated.

    example = encode(captioner, record, read_clip(path))      # one clip with 1 + K answers
    batch = collate([example, ...])                           # rows [prompt | chosen | rejected 1 | ... | rejected K]

A row is laid out in segments: 0 is the prompt, 1 the chosen answer, 2.. the rejected ones, -1 padding on the right.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.video_utils import VideoMetadata

from reward_models.timestamps import video_metadata
from rlkit.errors import DataError
from rlkit.models import Captioner, family_module

# Keys of a batch that describe the row; every other key is a media tensor for the vision tower.
ROW_KEYS = frozenset(
    "input_ids position_ids segments mm_token_type_ids keep sources targets target_mask span_mask answer_mask "
    "prompt_lengths answer_lengths rejected_weight index processed_tokens part".split()
)
PIXELS = "pixel_values_videos"
MOST_LAYOUTS = 256  # prompts kept; a data set with more shapes is processed one by one


@dataclass(frozen=True)
class Example:
    """One clip, one prompt and its answers, as tensors."""

    prompt: dict[str, Tensor]
    """The processor's output for the prompt alone, batch dimension 1."""
    positions: Int[Tensor, "rows prompt"]
    """Positions of the prompt tokens: 3 rows for M-RoPE, 1 otherwise."""
    answers: list[Int[Tensor, " answer"]]
    """Chosen first, then the rejected ones; each ends in the turn's end token."""
    spans: list[Bool[Tensor, " answer"]]
    """Tokens inside the edited spans of each answer."""
    rejected_weight: list[float] = field(default_factory=list)
    index: int = 0
    """Row number in the data set, to find cached reference log-probs."""

    @property
    def length(self) -> int:
        """Tokens of the shared row."""
        return self.positions.shape[1] + sum(len(answer) for answer in self.answers)


def encode(
    captioner: Captioner,
    record: Mapping[str, Any],
    clip=None,
    *,
    images: Sequence[Any] | None = None,
    index: int = 0,
    positions: bool | None = None,
) -> Example:
    """Tokenise one record.

    `record` has TRL's columns: `prompt` and `chosen` (messages), `rejected` (a list of messages lists, may be absent).
    `clip` has `frames` uint8 [T, H, W, 3] and `timestamps` [T] in seconds; pass other frames for a control (see
    `shuffled`), or None to hide the video: its part leaves the prompt. `images` are PIL images for image parts, the
    record's own column unless given. `positions` asks for M-RoPE positions even where rows are not shared.

    Raises DataError when an answer is empty, holds a placeholder token, or does not tokenise on its own as it does
    after the prompt; media and prompt are never truncated.
    """
    prompt_messages = record["prompt"] if clip is not None else _without_video(record["prompt"])
    rejected = list(record.get("rejected") or [])
    if rejected and isinstance(rejected[0], Mapping):  # TRL's single rejected answer
        rejected = [rejected]
    template = captioner.processor.apply_chat_template
    prompt_text = template(prompt_messages, tokenize=False, add_generation_prompt=True)
    images = record.get("images") if images is None else images
    known = captioner.sharing if positions is None else positions
    prompt, table = _prompt(captioner, prompt_text, clip, images, known, f"row {record.get('pair_id', index)}")
    answers, spans = [], []
    edits = _edits(record.get("edit"), len(rejected))
    for number, messages in enumerate([record["chosen"], *rejected]):
        where = f"row {record.get('pair_id', index)}, {'chosen' if number == 0 else f'rejected[{number - 1}]'}"
        text = template([*prompt_messages, *messages], tokenize=False)
        if not text.startswith(prompt_text):
            raise DataError(f"{where}: the chat template does not continue the prompt's text with the answer's.")
        ids, offsets = _answer(captioner, prompt_text, text[len(prompt_text) :], where)
        marked = [span for edit in edits for span in edit.get("spans", [])] if number == 0 else []
        marked = marked if number == 0 else edits[number - 1].get("rejected_spans", [])
        answers.append(ids)
        spans.append(_inside(offsets, marked))
    weights = [float(weight) for weight in record.get("rejected_weight") or [1.0] * len(rejected)]
    return Example(prompt, table, answers, spans, weights, index)


def shuffled(clip, seed: int):
    """The same clip with its frames in another order under the same timestamps: the control for event order."""
    order = np.random.default_rng(seed).permutation(len(clip.frames))
    return replace(clip, frames=clip.frames[order])


def _metadata(clip) -> VideoMetadata:
    try:
        return video_metadata(clip.timestamps)
    except ValueError as error:
        raise DataError(str(error)) from error


def collate(examples: Sequence[Example], *, pad_token_id: int = 0) -> dict[str, Tensor]:
    """Lay examples out as padded rows of one prompt and all its answers.

    Returns input_ids, segments [B, L]; position_ids [rows, B, L]; keep [B, L], the positions whose next token is
    scored; sources, targets, target_mask, span_mask [B, A, R], where sources index the kept positions; answer_mask
    [B, A]; prompt_lengths [B], answer_lengths [B, A], rejected_weight [B, A - 1], index [B]; and the media tensors.
    """
    size, answers = len(examples), max(len(example.answers) for example in examples)
    length = max(example.length for example in examples)
    longest = max(len(answer) for example in examples for answer in example.answers)
    rows = examples[0].positions.shape[0]
    batch = {
        "input_ids": torch.full((size, length), pad_token_id),
        "position_ids": torch.zeros((rows, size, length), dtype=torch.long),
        "segments": torch.full((size, length), -1),
        "keep": torch.zeros((size, length), dtype=torch.bool),
        "sources": torch.zeros((size, answers, longest), dtype=torch.long),
        "targets": torch.zeros((size, answers, longest), dtype=torch.long),
        "target_mask": torch.zeros((size, answers, longest), dtype=torch.bool),
        "span_mask": torch.zeros((size, answers, longest), dtype=torch.bool),
        "prompt_lengths": torch.tensor([example.positions.shape[1] for example in examples]),
        "answer_lengths": torch.zeros((size, answers), dtype=torch.long),
        "rejected_weight": torch.ones((size, answers - 1)),
        "index": torch.tensor([example.index for example in examples]),
    }
    if "mm_token_type_ids" in examples[0].prompt:
        batch["mm_token_type_ids"] = torch.zeros((size, length), dtype=torch.long)
    for row, example in enumerate(examples):
        _lay_out(batch, row, example)
    kept_before = batch["keep"].sum(1).cumsum(0) - batch["keep"].sum(1)
    batch["sources"] = (batch["sources"] + kept_before[:, None, None]) * batch["target_mask"]
    batch["answer_mask"] = batch["answer_lengths"] > 0
    return batch | _media(examples)


def batch_of(captioner: Captioner, examples: Sequence[Example]) -> dict[str, Tensor]:
    """`collate` with the captioner's padding, on its device."""
    batch = collate(examples, pad_token_id=captioner.processor.tokenizer.pad_token_id)
    return {name: tensor.to(captioner.base.device) for name, tensor in batch.items()}


def bucketed(lengths: Sequence[int], batch_size: int, *, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    """Batches of rows of like length, in random order, deterministic in (seed, epoch).

    Rows are shuffled, sorted by length within windows of 50 batches, cut into batches, and the batches shuffled: the
    padding goes, most of the randomness stays. The last, smaller batch is kept.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    lengths = np.asarray(lengths)
    batches = []
    for start in range(0, len(order), 50 * batch_size):
        window = order[start : start + 50 * batch_size]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += [window[at : at + batch_size].tolist() for at in range(0, len(window), batch_size)]
    return [batches[at] for at in generator.permutation(len(batches))]


def _prompt(captioner: Captioner, text: str, clip, images, known: bool, where: str):
    """The processed prompt and its positions. Prompts of one text and one clip shape differ in their pixels only, so
    the rest is kept: the processor's checks cost ten times what the pixels do."""
    key = None if images or clip is None else (text, clip.frames.shape, tuple(clip.timestamps), known)
    kept = captioner.layouts.get(key)
    if kept is not None:
        video = captioner.processor.video_processor(
            videos=[clip.frames],
            video_metadata=[_metadata(clip)],
            do_sample_frames=False,
            return_tensors="pt",
        )
        return kept["prompt"] | {PIXELS: video[PIXELS]}, kept["table"]
    prompt = _process(captioner, text, clip, images, where)
    if known:
        table = family_module(captioner.family).positions(captioner.base, prompt)
    else:
        table = torch.arange(prompt["input_ids"].shape[1])[None]
    if key is not None and PIXELS in prompt and len(captioner.layouts) < MOST_LAYOUTS:
        captioner.layouts[key] = {"prompt": {k: v for k, v in prompt.items() if k != PIXELS}, "table": table}
    return prompt, table


def _process(captioner: Captioner, text: str, clip, images, where: str) -> dict[str, Tensor]:
    """Run the processor on the prompt alone, with the clip's own timestamps and no sampling of its own."""
    arguments: dict[str, Any] = {"text": [text], "return_tensors": "pt"}
    if images:
        arguments["images"] = list(images)
    if clip is not None:
        arguments |= {"videos": [clip.frames], "video_metadata": [_metadata(clip)]}
        arguments["do_sample_frames"] = False  # the clip is already sampled; a second sampling loses its times
    try:
        prompt = dict(captioner.processor(**arguments))
    except ValueError as error:  # sizes the family cannot take, or placeholders and media that do not match
        raise DataError(f"{where}: the processor refuses the prompt or its media: {error}") from error
    prompt.pop("attention_mask")
    return prompt


def _answer(captioner: Captioner, prompt_text: str, text: str, where: str):
    """Token ids of one answer up to the turn's end token, and their character offsets in the answer's text."""
    tokenizer = captioner.processor.tokenizer
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    prompt_ids = tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
    joint = tokenizer(prompt_text + text, add_special_tokens=False)["input_ids"]
    if joint != prompt_ids + ids:
        raise DataError(
            f"{where}: the answer {text[:30]!r} merges with the end of the prompt when tokenised; "
            "remove white space at its start."
        )
    if tokenizer.eos_token_id in ids:
        end = len(ids) - 1 - ids[::-1].index(tokenizer.eos_token_id)
        ids, offsets = ids[: end + 1], offsets[: end + 1]
    else:
        ids, offsets = [*ids, tokenizer.eos_token_id], [*offsets, (len(text), len(text))]
    if len(ids) < 2:
        raise DataError(f"{where}: the answer is empty.")
    media = {captioner.processor.image_token_id, captioner.processor.video_token_id}
    if media.intersection(ids):
        raise DataError(f"{where}: the answer holds an image or video placeholder token; remove it from the caption.")
    return torch.tensor(ids), offsets


def _lay_out(batch: dict[str, Tensor], row: int, example: Example) -> None:
    """Write one example into its row of the batch."""
    prompt_length = example.positions.shape[1]
    batch["input_ids"][row, :prompt_length] = example.prompt["input_ids"][0]
    batch["position_ids"][:, row, :prompt_length] = example.positions
    batch["segments"][row, :prompt_length] = 0
    if "mm_token_type_ids" in batch:
        batch["mm_token_type_ids"][row, :prompt_length] = example.prompt["mm_token_type_ids"][0]
    # The last prompt token predicts the first token of every answer: it is kept once.
    batch["keep"][row, prompt_length - 1] = True
    start, kept = prompt_length, 1
    for number, answer in enumerate(example.answers):
        count = len(answer)
        stop = start + count
        batch["input_ids"][row, start:stop] = answer
        batch["segments"][row, start:stop] = number + 1
        # After the last prompt token, not after pos.max(): Qwen2.5-VL's temporal positions run beyond the text's.
        batch["position_ids"][:, row, start:stop] = example.positions[:, -1:] + 1 + torch.arange(count)
        batch["keep"][row, start : stop - 1] = True
        batch["sources"][row, number, 1:count] = torch.arange(kept, kept + count - 1)
        batch["targets"][row, number, :count] = answer
        batch["target_mask"][row, number, :count] = True
        batch["span_mask"][row, number, :count] = example.spans[number]
        batch["answer_lengths"][row, number] = count
        start, kept = stop, kept + count - 1
    weights = torch.tensor(example.rejected_weight[: len(example.answers) - 1])
    batch["rejected_weight"][row, : len(weights)] = weights


def _media(examples: Sequence[Example]) -> dict[str, Tensor]:
    """The media tensors of all examples, joined along their first dimension."""
    keys = [key for key in examples[0].prompt if key not in ROW_KEYS]
    joined = {}
    for key in sorted({key for example in examples for key in example.prompt if key not in ROW_KEYS} | set(keys)):
        parts = [example.prompt[key] for example in examples if key in example.prompt]
        if key == "pixel_values" and parts[0].ndim == 5:  # LLaVA's image crops: padded as its processor pads them
            crops = max(part.shape[1] for part in parts)
            parts = [torch.cat([part, part.new_zeros(1, crops - part.shape[1], *part.shape[2:])], 1) for part in parts]
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = sorted({tuple(part.shape[1:]) for part in parts})
            raise DataError(f"{key}: clips of shapes {shapes} cannot stand in one batch; fix data.num_frames.")
        joined[key] = torch.cat(parts)
    return joined


def _without_video(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages with their video parts removed."""
    kept = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [part for part in content if part["type"] != "video"]
        kept.append({**message, "content": content})
    return kept


def _edits(edit: Any, count: int) -> list[dict[str, Any]]:
    """One edit per rejected answer; stored as a dict, a JSON string, or a list of either."""
    edit = json.loads(edit) if isinstance(edit, str) else edit
    edits = edit if isinstance(edit, list) else [edit] * count
    edits = [json.loads(one) if isinstance(one, str) else one or {} for one in edits]
    return (edits + [{}] * count)[:count]


def _inside(offsets: Sequence[tuple[int, int]], spans: Sequence[Sequence[int]]) -> Bool[Tensor, " answer"]:
    """Tokens that overlap any [start, end) character span."""
    return torch.tensor([any(start < stop_ and begin < stop for begin, stop_ in spans) for start, stop in offsets])
