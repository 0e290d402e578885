"""What a reward is asked about: each row's text and its pictures, whichever of the two the completion is.

A generator's completion is a picture (PIL image, or frames uint8 [T, H, W, 3]) and its text is the prompt. A
captioner's completion is text (a string or TRL messages) and its picture is the column `images` or `videos`. Roles
follow from types, so a picture and a text cannot change places.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reward_models.completions import text_of

Picture = list[Image.Image] | np.ndarray
"""RGB images of one row (one, or TRL's list), or frames uint8 [T, H, W, 3]."""


@dataclass(frozen=True)
class Row:
    """One thing to score. `text` is None only for a reward that does not read it."""

    text: str | None
    picture: Picture


def rows(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    images: Sequence[Any] | None = None,
    videos: Sequence[Any] | None = None,
    needs_text: bool = True,
) -> list[Row | None]:
    """One Row per completion; None where the completion, its picture, or a text that is needed is missing.

    Raises ValueError for unequal lengths, texts without a picture, and pictures of another form, naming the row.
    """
    columns = {"prompts": prompts, "completions": completions, "images": images, "videos": videos}
    lengths = {name: len(column) for name, column in columns.items() if column is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of one length expected, found {lengths}.")
    return [
        _row(index, prompt, completion, images, videos, needs_text)
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]


def frames_of(picture: Picture, max_frames: int | None = None) -> list[Image.Image]:
    """The RGB images of a row; of more than `max_frames`, that many at even distances, the ends included."""
    count = len(picture)
    chosen = range(count)
    if max_frames is not None and count > max_frames:
        chosen = np.linspace(0, count - 1, max_frames).round().astype(int)
    return [_rgb(picture[index]) for index in chosen]


def mean_over_frames(
    judge: Callable[[list[str | None], list[Image.Image]], Tensor],
    asked: Sequence[Row | None],
    *,
    batch_size: int,
    max_frames: int | None = None,
) -> list[float | None]:
    """The mean of `judge(texts, images) -> [n]` over a row's images, `batch_size` images at a time, without gradients.

    A row without something to score, and one whose score is not finite, is None.
    """
    pairs = (
        (index, row.text, image)
        for index, row in enumerate(asked)
        if row is not None
        for image in frames_of(row.picture, max_frames)
    )
    totals, counts = [0.0] * len(asked), [0] * len(asked)
    for batch in batched(pairs, batch_size):
        with torch.inference_mode():
            values = judge([text for _, text, _ in batch], [image for *_, image in batch])
        for (index, *_), value in zip(batch, values.double().tolist(), strict=True):
            totals[index] += value
            counts[index] += 1
    return finite([total / count if count else None for total, count in zip(totals, counts, strict=True)])


def finite(values: Sequence[float | None]) -> list[float | None]:
    """The values, with None (no score) for NaN and infinity, which are counted in a warning."""
    lost = sum(value is not None and not math.isfinite(value) for value in values)
    if lost:
        warnings.warn(
            f"{lost} of {len(values)} scores are not finite and count as no score. float16 overflows; try float32.",
            stacklevel=3,
        )
    return [value if value is not None and math.isfinite(value) else None for value in values]


def tokens(tokenizer: Any, texts: Sequence[str], limit: int, *, pad_to_limit: bool = False) -> Any:
    """Token ids and mask, padded on the right, of texts cut at `limit` tokens; cut ones are counted in a warning."""
    lengths = [len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]
    cut = sum(length > limit for length in lengths)
    if cut:
        warnings.warn(
            f"{cut} of {len(texts)} prompts are longer than {limit} tokens (the longest has {max(lengths)}); what "
            "stands beyond is not read, so it cannot change the score.",
            stacklevel=6,
        )
    return tokenizer(
        list(texts),
        padding="max_length" if pad_to_limit else True,
        padding_side="right",
        truncation=True,
        max_length=limit,
        return_tensors="pt",
    )


def readable_rows(asked: Sequence[Row | None], tokenizer: Any) -> Iterator[tuple[int, Row]]:
    """(index, row) of the rows to score. A text that holds a special token would say something to the model that its
    author did not mean, or move where an answer is read; it has no score, with a warning."""
    special = set(tokenizer.get_added_vocab()) | set(tokenizer.all_special_tokens)
    for index, row in enumerate(asked):
        held = [] if row is None else sorted(token for token in special if token in row.text)
        if held:
            warnings.warn(f"the text of row {index} holds {', '.join(held)} and has no score.", stacklevel=4)
        elif row is not None:
            yield index, row


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most `size` items. Raises ValueError for a size below 1."""
    if size < 1:
        raise ValueError(f"batch_size is {size}, expected at least 1.")
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _row(index: int, prompt: Any, completion: Any, images: Any, videos: Any, needs_text: bool) -> Row | None:
    if completion is None:
        return None
    if _is_text(completion):
        shown = [column[index] for column in (images, videos) if column is not None]
        if not shown:
            raise ValueError(
                f"completions[{index}] is text, and there is no column `images` or `videos` to judge it by. For a "
                "generator, prompts are texts and completions are pictures."
            )
        given = [one for one in shown if one is not None]
        if len(given) > 1:
            raise ValueError(f"row {index} has both `images` and `videos`, expected one of them.")
        text, picture, where = text_of(completion), given[0] if given else None, "the picture of row"
    else:
        text = None if prompt is None or not needs_text else _prompt(index, prompt)
        picture, where = completion, "completions"
    if picture is None or (text is None and needs_text):
        return None
    return Row(text, _picture(picture, f"{where}[{index}]"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], dict))


def _prompt(index: int, prompt: Any) -> str:
    if not _is_text(prompt):
        raise ValueError(
            f"prompts[{index}] is {type(prompt).__name__}, expected text or messages. Have prompts and completions "
            "changed places?"
        )
    return text_of(prompt)


def _picture(value: Any, where: str) -> Picture:
    if isinstance(value, Image.Image):
        return [value]
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, Image.Image) for one in value):
        return list(value)
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8 and value.ndim == 4 and value.shape[-1] == 3 and len(value):
            return value
        found = f"{value.dtype} {list(value.shape)}"
    else:
        found = type(value).__name__
    raise ValueError(f"{where} is {found}, expected a PIL image or frames uint8 [T, H, W, 3] with T >= 1.")


def _rgb(image: Any) -> Image.Image:
    return image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image)
