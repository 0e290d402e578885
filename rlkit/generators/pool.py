"""Pictures with prompts, as latents that are encoded when they are first needed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rlkit.models.generator import Generator


@dataclass(frozen=True)
class Pool:
    """Pictures to train on, with the prompts they are trained under."""

    pictures: Sequence[np.ndarray]
    """uint8 RGB [side, side, 3]."""
    prompts: Sequence[str]
    latents: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.pictures)

    def latent(self, generator: Generator, at: int) -> Tensor:
        """Picture `at`, encoded alone, so that a resumed run has the same bits; fp32, on the CPU."""
        if at not in self.latents:
            pixels = torch.from_numpy(self.pictures[at].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            encoded = generator.family.encode_images(generator.pipe, pixels.to(generator.device))
            self.latents[at] = encoded[0].float().cpu()
        return self.latents[at]
