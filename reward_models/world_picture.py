"""Does a picture of the world show what its prompt asks for? Pixel rules, no network; and a proxy that can be hacked.

    score = load(parts=["colour", "shape"])
    score(prompts=["Two red balls on a grey background, close-up."], completions=[picture])    # -> [0.5]

The score is the mean of its parts, each in [0, 1]. A prompt that names none of the parts asked for scores None, as does
a picture that cannot be read. The palette and sizes are those that data_synth.world draws with.
"""

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image
from scipy import ndimage

from reward_models.saturation import saturation

if TYPE_CHECKING:
    from torch import Tensor

COLOURS = {
    "red": (222, 50, 45), "green": (60, 175, 75), "blue": (45, 95, 225), "yellow": (250, 215, 50),
    "purple": (150, 60, 190), "white": (245, 245, 245),
}  # fmt: skip
BACKGROUNDS = {"grey": (96, 98, 104), "brown": (104, 74, 48), "teal": (24, 98, 100), "pink": (206, 140, 150)}
COUNTS = {"a": 1, "two": 2, "three": 3}
RADIUS = {"close-up": 0.42, "medium shot": 0.36, "wide shot": 0.30}
PARTS = ("colour", "shape", "count", "background", "shot")
SMOOTH = ("colour", "background", "shape", "shot")
"""Parts with a gradient; the number of things has none."""
_SMALLER = {1: 1.6, 2: 0.95, 3: 0.9}
# area of a thing over the square of its radius, in half widths: 0.9 radius discs, 0.44 wide rings, 2.5 x 0.76 bars
_AREA = {"ball": np.pi * 0.81, "ring": 2 * np.pi * 0.8 * 0.44, "bar": 1.9, "pole": 1.9}
_ASKED = re.compile(
    rf"\b(?P<count>{'|'.join(COUNTS)}) (?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(_AREA)})s?\b"
    rf"(?:.*\bon an? (?P<background>{'|'.join(BACKGROUNDS)}) background\b)?(?:.*\b(?P<shot>{'|'.join(RADIUS)})\b)?",
    re.IGNORECASE,
)
_SOFT = 60.0  # distance in RGB at which a colour counts exp(-1/2)
_SEEN = 40.0  # least distance in RGB from the background at which a pixel belongs to a thing
_EDGE = 8.0  # distance in RGB beyond that within which, for a gradient, it belongs to it in part
_SIZE = 0.17  # of the logarithm of sizes
_LEAST = 0.008  # share of the picture below which a piece is a speck


def load(
    device: str = "cpu", *, parts: list[str] | None = None, measure: Literal["prompt", "saturation"] = "prompt"
) -> Callable[..., list[float | None]]:
    """The reward function. `parts` are some of PARTS, null: all. `measure: saturation` reads no prompt: mean chroma,
    which a generator can raise without end, for tests of guards. Raises ValueError for an unknown part.

    With parts of SMOOTH alone `score.score_tensors(prompts=, pixels=)` takes pixels [batch, 3, H, W] in [0, 1],
    differentiable.
    """
    wanted = list(PARTS if parts is None else parts)
    if not wanted or set(wanted) - set(PARTS):
        raise ValueError(f"world_picture: parts are {wanted}, expected some of {', '.join(PARTS)}.")

    def score(*, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
        pictures = [_pixels(one) for one in completions]
        if measure == "saturation":
            return [None if picture is None else saturation(picture) for picture in pictures]
        return [_score(text, picture, wanted) for text, picture in zip(prompts, pictures, strict=True)]

    if measure == "prompt" and set(wanted) <= set(SMOOTH):
        score.score_tensors = functools.partial(_score_tensors, wanted)
    return score


def asked(prompt: str) -> dict[str, Any]:
    """The parts a prompt names: {"count": 2, "colour": "red", ...}; empty where it names no thing of the world."""
    match = _ASKED.search(prompt)
    if match is None:
        return {}
    told = {name: text.lower() for name, text in match.groupdict().items() if text is not None}
    return told | {"count": COUNTS[told["count"]]}


def parts_of(picture: np.ndarray, wanted: dict[str, Any]) -> dict[str, float]:
    """Score in [0, 1] of every part of `wanted` (from `asked`) for uint8 RGB [H, W, 3].

    What differs from the colour of the border is a thing; its pieces are counted, each judged by its own outline.
    """
    pixels = picture.astype(np.float32)
    ground, _, pieces = _seen(pixels)
    found = {}
    if "background" in wanted:
        found["background"] = _near(ground, BACKGROUNDS[wanted["background"]])
    if "colour" in wanted:
        inner = [np.median(pixels[_deep(piece)], axis=0) for piece in pieces]
        found["colour"] = float(np.mean([_near(one, COLOURS[wanted["colour"]]) for one in inner] or [0.0]))
    if "shape" in wanted:
        found["shape"] = float(np.mean([_shape(piece, wanted["shape"]) for piece in pieces] or [0.0]))
    if "count" in wanted:
        found["count"] = max(0.0, 1.0 - abs(len(pieces) - wanted["count"]) / 2)
    if "shot" in wanted:
        found["shot"] = _shot(pieces, wanted)
    return found


def _score(prompt: Any, picture: np.ndarray | None, parts: Sequence[str]) -> float | None:
    named = asked(prompt) if isinstance(prompt, str) else {}
    if picture is None or not set(parts) & set(named):
        return None
    found = parts_of(picture, named)
    return float(np.mean([found[part] for part in parts if part in found]))


def _score_tensors(parts: Sequence[str], *, prompts: Sequence[Any], pixels: "Tensor") -> "Tensor":
    """[batch], NaN without a score. What belongs to things and ground is seen as in `parts_of`, and has no gradient."""
    import torch

    scores = []
    for text, picture in zip(prompts, pixels, strict=True):
        named = asked(text) if isinstance(text, str) else {}
        found = _soft_parts(picture.float().permute(1, 2, 0) * 255, named, [part for part in parts if part in named])
        scores.append(torch.stack(found).mean() if found else pixels.new_tensor(torch.nan).float())
    return torch.stack(scores)


def _soft_parts(shown: "Tensor", named: dict[str, Any], parts: Sequence[str]) -> list["Tensor"]:
    """Parts of one picture, float RGB [H, W, 3] of 0 to 255, with their gradients. Colours are means, where `parts_of`
    takes medians, so that every pixel of them is told where to go; a pixel of a thing's box belongs to the thing by how
    far it stands from the ground."""
    import torch

    ground, limit, pieces = _seen(shown.detach().cpu().numpy())
    away = torch.linalg.vector_norm(shown - shown.new_tensor(ground) + 1e-4, dim=-1)  # its root has a gradient at 0
    belongs = torch.sigmoid((away - limit) / _EDGE)
    boxes = [_box(piece) for piece in pieces]
    border = np.pad(np.zeros((shown.shape[0] - 2, shown.shape[1] - 2), bool), 1, constant_values=True)
    found = []
    for part in parts:
        each = []
        if part in ("colour", "background"):
            target = shown.new_tensor((COLOURS if part == "colour" else BACKGROUNDS)[named[part]])
            for region in [border] if part == "background" else map(_deep, pieces):
                mean = shown[torch.from_numpy(region).to(shown.device)].mean(0)
                each.append(torch.exp(-0.5 * (mean - target).square().sum() / _SOFT**2))
        elif part == "shape":
            for box in boxes:
                cut, (ideal, right) = belongs[box], _outline(box, named["shape"])
                both = cut[torch.from_numpy(ideal).to(cut.device)].sum()
                each.append(right * both / (cut.sum() + ideal.sum() - both))
        elif boxes:
            share = torch.stack([belongs[box].sum() for box in boxes]).mean() / belongs.numel()
            each.append(torch.exp(-0.5 * (torch.log(_relative_size(share, named)) / _SIZE) ** 2))
        found.append(torch.stack(each).mean() if each else shown.sum() * 0)
    return found


def _seen(pixels: np.ndarray) -> tuple[np.ndarray, float, list[np.ndarray]]:
    """The colour of the ground, how far from it things begin, and their masks, for float RGB [H, W, 3] of 0 to 255."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, axis=0)
    distance = np.linalg.norm(pixels - ground, axis=-1)
    limit = max(_SEEN, float(np.quantile(distance, 0.98)) / 2)  # a soft edge belongs to the thing by its half
    labels, number = ndimage.label(distance > limit, structure=np.ones((3, 3)))
    pieces = [labels == index for index in range(1, number + 1)]
    return ground, limit, [piece for piece in pieces if piece.mean() >= _LEAST]


def _pixels(completion: Any) -> np.ndarray | None:
    """uint8 RGB [H, W, 3] of a PIL image or an array; None for anything else, or a picture too small to judge."""
    array = np.asarray(completion.convert("RGB") if isinstance(completion, Image.Image) else completion)
    usable = array.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] == 3 and min(array.shape[:2]) >= 16
    return array if usable else None


def _near(colour: np.ndarray, target: tuple[int, int, int]) -> float:
    return float(np.exp(-0.5 * (np.linalg.norm(colour - np.float32(target)) / _SOFT) ** 2))


def _deep(piece: np.ndarray) -> np.ndarray:
    """The piece without its soft edge, or all of it where that leaves nothing."""
    inner = ndimage.binary_erosion(piece)
    return inner if inner.any() else piece


def _box(piece: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(piece.any(1)), np.flatnonzero(piece.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _shape(piece: np.ndarray, shape: str) -> float:
    """Overlap (intersection over union) of a piece with the ideal outline in the piece's own box, 0 where the box's
    sides are in another proportion: wide for a bar, high for a pole, square for the others."""
    box = _box(piece)
    cut, (ideal, right) = piece[box], _outline(box, shape)
    return float(right * (cut & ideal).sum() / (cut | ideal).sum())


def _outline(box: tuple[slice, slice], shape: str) -> tuple[np.ndarray, float]:
    """The ideal thing in a box, and how right the box's proportion is, 0 to 1."""
    high, wide = (side.stop - side.start for side in box)
    ratio = np.log(wide / high)
    if shape in ("bar", "pole"):
        right = 1 / (1 + np.exp(-6 * ((ratio if shape == "bar" else -ratio) - 0.5)))
    else:
        right = np.exp(-0.5 * (ratio / 0.35) ** 2)
    y, x = (np.mgrid[0:high, 0:wide] + 0.5) / np.array([high, wide])[:, None, None] * 2 - 1
    reach = np.hypot(x, y)
    ideal = {"ball": reach <= 1, "ring": (reach <= 1) & (reach >= 0.58 / 1.02)}.get(shape, np.ones((high, wide), bool))
    return ideal, float(right)


def _shot(pieces: Sequence[np.ndarray], wanted: dict[str, Any]) -> float:
    """How near the size of the things is to the asked one: exp(-1/2) at a step of the scale of about a sixth."""
    if not pieces:
        return 0.0
    share = float(np.mean([piece.mean() for piece in pieces]))
    return float(np.exp(-0.5 * (np.log(_relative_size(share, wanted)) / _SIZE) ** 2))


def _relative_size(share: Any, wanted: dict[str, Any]) -> Any:
    """Radius of things that cover `share` of the picture each, over the radius that was asked for."""
    radius = RADIUS[wanted["shot"]] * _SMALLER[wanted["count"]]
    return (4 * share / _AREA[wanted["shape"]]) ** 0.5 / radius
