"""What one round trains on: original pictures, kept samples, and the base model's own pictures under plain prompts.

The last are DreamBooth's prior preservation (https://huggingface.co/papers/2208.12242, Eq. 2): without the trigger the
model is to draw what it drew before. Every micro-batch has the same share of original pictures, and as many of the
base model's.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlkit import engine
from rlkit.engine import seed_of
from rlkit.generators import denoising
from rlkit.generators.pool import Pool
from rlkit.generators.session import Session
from rlkit.running import ranks


class Mixture:
    """The losses of one round; see engine.Losses."""

    def __init__(self, session: Session, real: Pool, kept: Pool, prior: Pool, *, real_share: float) -> None:
        """`real_share` of each micro-batch is drawn from `real`, all of it where nothing is kept."""
        self.session, self.recipe, self.generator = session, session.recipe, session.generator
        self.pools = {"real": real, "kept": kept, "prior": prior}
        size = self.recipe.train.per_device_train_batch_size
        originals = size if not len(kept) else min(size, int(np.ceil(real_share * size)))
        weighed = len(prior) and self.recipe.bootstrap.prior_loss_weight
        self.sizes = {"real": originals, "kept": size - originals, "prior": size if weighed else 0}
        self.forward_passes = 0

    def losses(self, step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
        """The micro-batches of a step, of this process; what they show follows from (seed, step) alone."""
        train, weight = self.recipe.train, self.recipe.bootstrap.prior_loss_weight
        for part in range(train.gradient_accumulation_steps):
            drawn = torch.Generator().manual_seed(seed_of(self.recipe.seed, "bootstrap", step, part, ranks.number()))
            picked = [
                (name, at)
                for name, size in self.sizes.items()
                if size
                for at in torch.randint(len(self.pools[name]), (size,), generator=drawn).tolist()
            ]
            x0 = torch.stack([self.pools[name].latent(self.generator, at) for name, at in picked]).to(
                self.generator.device
            )
            noise = torch.randn(x0.shape, generator=drawn).to(x0.device)
            uniform = torch.rand(len(x0), generator=drawn).clamp(1e-3, 1 - 1e-3).to(x0.device)
            text = self.session.embeddings([self.pools[name].prompts[at] for name, at in picked])
            found = denoising.errors(self.generator, x0, noise, uniform, text)
            own = self.sizes["real"] + self.sizes["kept"]
            loss, metrics = found[:own].mean(), {"loss/pictures": found[:own].mean().item()}
            if self.sizes["prior"]:
                loss = loss + weight * found[own:].mean()
                metrics["loss/prior"] = found[own:].mean().item()
            self.forward_passes += 2 * len(x0) * ranks.count()  # a backward pass counts like a forward one
            yield loss, metrics

    def state_dict(self) -> dict[str, Any]:
        """What was counted; all else follows from the step."""
        return {"forward_passes": self.forward_passes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.forward_passes = state_dict["forward_passes"]
