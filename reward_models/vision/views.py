"""What an encoder sees of a picture: windows in its own pixels, the whole scaled down, and a window on the face.

Blur, grain, grids and moire live in single pixels and vanish when a picture is scaled down, so that quality is judged
on windows in native resolution and composition on the whole. Everything goes through the backbone's own image processor
as floats, scaled and normalised but not rounded; what tensors get, files get too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from reward_models.vision.heads import UNKNOWN

PADDING, CROP, WHOLE, REGION = -1, 0, 1, 2
STEP = (0.7548776662, 0.5698402910)
"""Roberts' R2 sequence, which spreads any number of points evenly over a square (a plane golden ratio)."""

Windows = tuple[Tensor, list[int], list[float]]
Box = Sequence[float]
"""(left, top, right, bottom) in shares of width and height; an empty one says that there is no face, None that nobody
knows."""


@dataclass(frozen=True)
class ViewPlan:
    """Which windows are looked at."""

    crops: int = 4
    """Windows in native resolution per item; for frames at least one per frame."""
    whole: bool = True
    """Also every picture or frame scaled to one window."""
    frames: int = 8
    """Frames per video at most, spread evenly."""

    def __post_init__(self) -> None:
        if self.crops < 0 or self.frames < 1 or not (self.crops or self.whole):
            raise ValueError(f"{self} sees nothing; expected crops or the whole, and at least one frame.")


class Views:
    """Pictures as a batch for VisionReward."""

    def __init__(self, processor: Any, plan: ViewPlan) -> None:
        self.processor, self.plan = processor, plan
        self.window = window_of(processor)

    def batch(
        self,
        pictures: Sequence[Any],
        faces: Sequence[Box | None] | None = None,
    ) -> dict[str, Tensor]:
        """`pixel_values`, `view`, `time` and `expert` of pictures, frames [T, H, W, 3] uint8, or tensors.

        A tensor is [3, H, W] or [T, 3, H, W] in [0, 1] and keeps its graph.
        """
        faces = [None] * len(pictures) if faces is None else faces
        items = self.windows([frames_of(picture) for picture in pictures], faces)
        return collate(items, [UNKNOWN if face is None else int(len(face) > 0) for face in faces])

    def windows(
        self,
        items: Sequence[Float[Tensor, "frames 3 height width"]],
        faces: Sequence[Box | None],
        *,
        seed: Sequence[int] | None = None,
        crops: int | None = None,
    ) -> list[Windows]:
        """Of each item the processed windows [V, 3, window, window], what each shows, and when: crops and regions frame
        by frame, then the whole frames. With `seed` crops lie at random places, the same for all items, else at fixed
        ones. `crops`: so many instead of the plan's."""
        near: list[Tensor] = []
        far: list[Tensor] = []
        told = []
        for frames, face in zip(items, faces, strict=True):
            kept = evenly(len(frames), self.plan.frames)
            each = -(-(self.plan.crops if crops is None else crops) // len(kept))
            generator = None if seed is None else np.random.default_rng(seed)
            view, time = [], []
            for number, at in enumerate(kept):
                cut = self._cut(frames[at], face, each, generator, first=number * each)
                near += cut
                view += [CROP] * each + [REGION] * (len(cut) - each)
                time += [_when(number, kept)] * len(cut)
            shown = kept if self.plan.whole else []
            far += [frames[at] for at in shown]
            told.append((view, [WHOLE] * len(shown), time + [_when(number, shown) for number in range(len(shown))]))
        near, far = self._processed(near, do_resize=False), self._processed(far)
        found, first, second = [], 0, 0
        for view, whole, time in told:
            parts = near[first : first + len(view)], far[second : second + len(whole)]
            first, second = first + len(view), second + len(whole)
            found.append((torch.cat(parts), view + whole, time))
        return found

    def _cut(
        self, frame: Tensor, face: Box | None, count: int, generator: np.random.Generator | None, *, first: int
    ) -> list[Tensor]:
        """`count` crops of a frame and, where there is a face, the window around it."""
        height, width = frame.shape[1:]
        frame = at_least(frame, self.window)
        spots = places(frame.shape[1:], self.window, count, generator, first=first)
        cut = [frame[:, y : y + self.window, x : x + self.window] for y, x in spots]
        if face is not None and len(face):
            left, top, right, bottom = face
            cut.append(around(frame, ((left + right) / 2 * width, (top + bottom) / 2 * height), self.window))
        return cut

    def _processed(self, pictures: list[Tensor], **options: bool) -> Tensor:
        if not pictures:
            return torch.zeros(0, 3, self.window, self.window)
        return self.processor(images=pictures, do_rescale=False, return_tensors="pt", **options)["pixel_values"]


def _when(number: int, frames: Sequence[int]) -> float:
    return number / max(len(frames) - 1, 1)


def collate(items: Sequence[Windows], expert: list[int]) -> dict[str, Tensor]:
    """Items of unlike numbers of windows as one padded batch."""
    longest = max(len(view) for _, view, _ in items)
    pixels = torch.nn.utils.rnn.pad_sequence([one for one, _, _ in items], batch_first=True)
    view = torch.full((len(items), longest), PADDING)
    time = torch.zeros(len(items), longest)
    for row, (_, kinds, when) in enumerate(items):
        view[row, : len(kinds)] = torch.tensor(kinds)
        time[row, : len(when)] = torch.tensor(when)
    return {"pixel_values": pixels, "view": view, "time": time, "expert": torch.tensor(expert)}


def frames_of(picture: Any) -> Float[Tensor, "frames 3 height width"]:
    """Any completion as frames in [0, 1]. Raises ValueError for what is none."""
    if isinstance(picture, Tensor):
        frames = picture if picture.ndim == 4 else picture[None]
        if frames.ndim == 4 and frames.shape[1] == 3 and frames.is_floating_point():
            return frames
        raise ValueError(f"a tensor {picture.dtype} {tuple(picture.shape)}; expected floats [3, H, W] or [T, 3, H, W].")
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture.convert("RGB"))
    array = np.asarray(picture)
    array = array if array.ndim == 4 else array[None]
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(
            f"{type(picture).__name__} {array.dtype} {array.shape[1:]}; expected a PIL image, or uint8 [H, W, 3] or "
            "[T, H, W, 3]."
        )
    return torch.tensor(array).permute(0, 3, 1, 2) / 255


def window_of(processor: Any) -> int:
    """Side of the square that the processor makes, in pixels. Raises ValueError where it makes none."""
    probe = torch.zeros(3, 64, 96)
    found = processor(images=[probe], do_rescale=False, return_tensors="pt")["pixel_values"]
    if found.ndim != 4 or found.shape[2] != found.shape[3]:
        raise ValueError(f"{type(processor).__name__} makes {tuple(found.shape[1:])} of a picture; expected a square.")
    return found.shape[-1]


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` places, first and last included."""
    return [round(at) for at in np.linspace(0, count - 1, min(count, wanted))]


def at_least(frame: Float[Tensor, "3 height width"], side: int) -> Float[Tensor, "3 high wide"]:
    """Smaller pictures are mirrored at their edges until a window fits: scaling them up would look like blur."""
    for dim in (1, 2):
        size = frame.shape[dim]
        if size < side:
            at = torch.arange(side) % (2 * size)
            frame = frame.index_select(dim, torch.where(at < size, at, 2 * size - 1 - at).to(frame.device))
    return frame


def places(
    size: tuple[int, int], window: int, count: int, generator: np.random.Generator | None, *, first: int = 0
) -> list[tuple[int, int]]:
    """Upper left corners (y, x) of `count` windows, spread from the middle outwards, or at random."""
    room = np.array(size) - window
    if generator is not None:
        return [tuple(int(v) for v in generator.integers(0, room + 1)) for _ in range(count)]
    order = np.arange(first, first + count)[:, None]
    at = np.floor((0.5 + order * np.array(STEP)) % 1 * (room + 1)).astype(int)
    return [(int(y), int(x)) for y, x in at]


def around(
    frame: Float[Tensor, "3 height width"], middle: tuple[float, float], window: int
) -> Float[Tensor, "3 window window"]:
    """The window around a point (x, y); a larger face is shown by its middle alone, in its own pixels."""
    x, y = middle
    room = frame.shape[1] - window, frame.shape[2] - window
    top, left = (int(np.clip(round(at - window / 2), 0, most)) for at, most in zip((y, x), room, strict=True))
    return frame[:, top : top + window, left : left + window]
