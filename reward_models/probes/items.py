"""What a reward is probed on: prompts, completions of one kind, and further columns; and how to change them."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from reward_models.completions import text_of

Kind = Literal["text", "image", "video"]
"""Of the completions: captions (text or TRL messages), PIL images, or frames uint8 [T, H, W, 3]."""
KINDS = ("text", "image", "video")
MEDIA = ("videos", "images")
"""Columns of a caption's clip (frames) and picture (PIL)."""


@dataclass(frozen=True)
class Items:
    """Rows to score. `columns`: further columns by name, each a list of that length; a clip's frames per second is
    `fps`. `quality`: how good each completion is, in any unit, where that is known; a reward never sees it.

    Raises ValueError for lists of different lengths and an unknown kind.
    """

    kind: Kind
    prompts: Sequence[Any]
    completions: Sequence[Any]
    columns: dict[str, Sequence[Any]] = field(default_factory=dict)
    quality: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}; expected one of {', '.join(KINDS)}.")
        lists = {"completions": self.completions, **self.columns}
        lists |= {} if self.quality is None else {"quality": self.quality}
        wrong = {name: len(values) for name, values in lists.items() if len(values) != len(self.prompts)}
        if wrong:
            raise ValueError(f"found {len(self.prompts)} prompts but {wrong}; expected lists of one length.")

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, places: Sequence[int]) -> "Items":
        """Rows by number, in the order given; a number may come twice."""
        return Items(
            self.kind,
            [self.prompts[i] for i in places],
            [self.completions[i] for i in places],
            {name: [values[i] for i in places] for name, values in self.columns.items()},
            None if self.quality is None else [self.quality[i] for i in places],
        )

    def best(self) -> list[int]:
        """Numbers of the rows of the highest quality; all where quality is not known."""
        if self.quality is None:
            return list(range(len(self)))
        return [i for i, value in enumerate(self.quality) if value == max(self.quality)]

    def with_columns(self, **columns: Sequence[Any]) -> "Items":
        """The same rows with these columns replaced or added."""
        return replace(self, columns=self.columns | columns)

    def with_completions(self, completions: Sequence[Any]) -> "Items":
        """The same rows with other completions."""
        return replace(self, completions=completions)

    def map_texts(self, change: Callable[[str], str]) -> "Items":
        """Captions changed one by one; messages stay messages."""
        return self.with_completions([like(one, change(text_of(one))) for one in self.completions])

    def map_pictures(self, change: Callable[[Image.Image], Image.Image]) -> "Items":
        """Every picture and frame changed: of the completions, or for captions of the columns `videos`, `images`."""
        return self.map_media(
            lambda media: (
                change(media)
                if isinstance(media, Image.Image)
                else np.stack([np.asarray(change(Image.fromarray(frame))) for frame in media])
            )
        )

    def map_media(self, change: Callable[[Any], Any]) -> "Items":
        """Every picture or clip changed as a whole, wherever it stands; None stays None."""
        done: dict[int, Any] = {}  # several captions tell one clip

        def each(values: Sequence[Any]) -> list[Any]:
            for one in values:
                if one is not None and id(one) not in done:
                    done[id(one)] = change(one)
            return [None if one is None else done[id(one)] for one in values]

        if self.kind != "text":
            return self.with_completions(each(self.completions))
        return self.with_columns(**{name: each(self.columns[name]) for name in MEDIA if name in self.columns})


def like(completion: Any, text: str) -> Any:
    """`text` in the form of `completion`: a string, or one message."""
    return text if isinstance(completion, str) else [{**completion[-1], "content": text}]


def copied(value: Any) -> Any:
    """A copy that shares no pixels and no lists with `value`."""
    if isinstance(value, Image.Image | np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    return [copied(one) for one in value] if isinstance(value, list | tuple) else value


def digest(value: Any) -> str:
    """A hash of the content: equal pictures, frames, lists and texts have equal hashes."""
    if isinstance(value, Image.Image):
        parts = [value.mode, str(value.size), hashlib.sha256(value.tobytes()).hexdigest()]
    elif isinstance(value, np.ndarray):
        parts = [str(value.dtype), str(value.shape), hashlib.sha256(np.ascontiguousarray(value)).hexdigest()]
    elif isinstance(value, dict):
        parts = ["dict", *(f"{key}={digest(one)}" for key, one in sorted(value.items()))]
    elif isinstance(value, list | tuple):
        parts = ["list", *(digest(one) for one in value)]
    else:
        parts = [repr(value)]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()
