"""Pictures of a table as latents, in an endless order that follows from the seed: the data of diffusion_dpo and _kto.

Each picture is encoded alone and its latent kept, so that a resumed run sees the same bits. A picture that cannot be
read masks its row and is counted; a picture of another size stops the run, or is scaled where the recipe says so.
"""

import json
import random
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from rlkit.errors import DataError
from rlkit.generators.pair_table import PairTable, decode, read_table
from rlkit.generators.session import Session
from rlkit.running import ranks
from rlkit.running.folder import RunFolder, write_text


class Offline:
    """The table of data.pairs, without the prompts that are measured or watched."""

    def __init__(self, session: Session, *, min_margin: float = 0.0, rated: bool = False, resize: bool = False) -> None:
        """Raises DataError for a table that cannot be used."""
        recipe = session.recipe
        self.session, self.generator, self.resize = session, session.generator, resize
        self.table: PairTable = read_table(
            recipe.data.pairs,
            min_margin=min_margin,
            without=[*session.prompts.held_out, *session.prompts.guard],
            rated=rated,
        )
        generation = recipe.generation
        self.shape = self.generator.family.latent_shape(
            self.generator.pipe, generation.resolution, generation.resolution, generation.num_frames
        )
        self.latents: dict[tuple[int, int], Tensor] = {}
        self.most = int(recipe.data.cache_gib * 2**30) // (4 * int(np.prod(self.shape)))
        self.unreadable: dict[int, str] = {}
        """Used row -> what is wrong with its picture."""

    def numbers(self, first: int, count: int, size: int | None = None) -> list[int]:
        """`count` numbers below `size` (the used rows) from position `first` of an endless order: every pass is another
        permutation."""
        size, seed = size or len(self.table), self.session.recipe.seed
        return [_permutation(size, seed, at // size)[at % size] for at in range(first, first + count)]

    def encoded(self, rows: list[int], sides: list[int]) -> tuple[Tensor, Tensor]:
        """Latents [batch, ...] of one side of each row, and the mask of those that could be read (zeros else)."""
        found = [self._latent(row, side) for row, side in zip(rows, sides, strict=True)]
        mask = torch.tensor([one is not None for one in found])
        latents = torch.stack([torch.zeros(self.shape) if one is None else one for one in found])
        if len(self.latents) > self.most:
            self.latents.clear()
        return latents.to(self.generator.device), mask.to(self.generator.device)

    def captions(self, rows: list[int]) -> list[str]:
        """The rows' prompts."""
        return [self.table.rows[self.table.used[row]]["caption"] for row in rows]

    def _latent(self, row: int, side: int) -> Tensor | None:
        if (row, side) in self.latents:
            return self.latents[row, side]
        name = "jpg" if self.table.rated else f"jpg_{side}"
        where, frames = f"{self.table.where(row)}, {name}", self.session.recipe.generation.num_frames
        try:
            value = self.table.rows[self.table.used[row]][name]
            pixels = decode(value, where, folder=self.table.path.parent, num_frames=frames)
        except DataError as error:
            self.unreadable[row] = str(error)
            return None
        pixels = _sized(pixels, self.session.recipe.generation.resolution, where, self.resize)
        clip = torch.from_numpy(pixels.copy()).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        medium = self.generator.family.MEDIUM
        inputs = clip if medium == "video" else clip[:, :, 0]
        self.latents[row, side] = self.generator.family.encode_images(self.generator.pipe, inputs)[0].float().cpu()
        return self.latents[row, side]

    def cost(self) -> dict[str, Any]:
        """What results.json says of the table."""
        rows = {row for found in ranks.gathered(self.unreadable) for row in found}
        return {"pairs": self.table.counts | {"unreadable": len(rows)}}

    def write_unreadable(self, folder: RunFolder) -> None:
        """rejected_rows.jsonl, where pictures could not be read."""
        found = {row: why for part in ranks.gathered(self.unreadable) for row, why in part.items()}
        if found and folder.main:
            lines = [json.dumps({"where": self.table.where(row), "reasons": [found[row]]}) for row in sorted(found)]
            write_text(folder.path / "rejected_rows.jsonl", "\n".join(lines) + "\n")


@lru_cache(maxsize=4)
def _permutation(size: int, seed: int, again: int) -> list[int]:
    order = list(range(size))
    random.Random(f"{seed}/{again}/pairs").shuffle(order)
    return order


def _sized(pixels: np.ndarray, side: int, where: str, resize: bool) -> np.ndarray:
    """Frames [T, side, side, 3]; raises DataError for others unless they may be scaled and cropped to the middle."""
    if pixels.shape[1:3] == (side, side):
        return pixels
    if not resize:
        height, width = pixels.shape[1:3]
        raise DataError(
            f"{where}: {width} x {height} pixels, but generation.resolution is {side}. Set that to the pictures' size, "
            "or resize=true in the algorithm's section, which scales and crops them."
        )
    return np.stack(
        [np.asarray(ImageOps.fit(Image.fromarray(one), (side, side), Image.Resampling.LANCZOS)) for one in pixels]
    )
