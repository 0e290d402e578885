"""Pictures that a generator is to go on drawing, shown beside whatever it learns: the anchor on data.

DDRL, https://huggingface.co/papers/2512.04332: the denoising error on data (`losses.policy.sft_anchor`; of epsilon
models that of noise), which holds the model to the data where a KL holds it to its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from data_synth.world import pictures
from rlkit import engine
from rlkit.engine import seed_of
from rlkit.generators import denoising
from rlkit.generators.bootstrap.originals import read_originals
from rlkit.generators.pool import Pool
from rlkit.running import ranks
from rlkit.running.folder import RunFolder

if TYPE_CHECKING:
    from rlkit.generators.session import Algorithm, Session

OF_THE_WORLD = 512


class Replay:
    """Adds to each micro-batch of an algorithm the loss of a few pictures, which follow from (seed, step) alone."""

    def __init__(self, session: Session, pool: Pool) -> None:
        self.session, self.generator, self.recipe, self.pool = session, session.generator, session.recipe, pool

    def beside(self, trains: Algorithm) -> engine.Losses:
        """The losses of `trains`, each with retain.replay_weight times the mean error on the pictures; their passes
        are counted as its own."""

        def losses(step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
            for part, (loss, metrics) in enumerate(trains.losses(step)):
                found = self.errors(step, part)
                trains.forward_passes += 2 * len(found) * ranks.count()  # one is the backward pass
                total = loss + self.recipe.retain.replay_weight * found.mean()
                yield total, {**metrics, "replay/loss": found.mean().item()}

        return losses

    def errors(self, step: int, part: int) -> Tensor:
        """The error of each of the pictures of a micro-batch."""
        drawn = torch.Generator().manual_seed(seed_of(self.recipe.seed, "replay", step, part, ranks.number()))
        size = self.recipe.retain.replay_rows
        numbers = torch.randint(len(self.pool), (size,), generator=drawn).tolist()
        x0 = torch.stack([self.pool.latent(self.generator, at) for at in numbers]).to(self.generator.device)
        noise = torch.randn(x0.shape, generator=drawn).to(x0.device)
        uniform = torch.rand(size, generator=drawn).clamp(1e-3, 1 - 1e-3).to(x0.device)
        text = self.session.embeddings([self.pool.prompts[at] for at in numbers])
        return denoising.errors(self.generator, x0, noise, uniform, text)


def replay(session: Session, folder: RunFolder) -> Replay | None:
    """The pictures of retain.replay, or the world's; None where nothing is replayed.

    Files that cannot be used are set aside in the run folder. Raises DataError where too few are left.
    """
    settings, side = session.recipe.retain, session.recipe.generation.resolution
    if settings is None or not settings.replay_weight:
        return None
    if settings.replay is None:
        shown = pictures.drawn(OF_THE_WORLD, seed=session.recipe.data.world_seed)
        rendered = [pictures.render(one, at, side) for at, one in enumerate(shown)]
        return Replay(session, Pool(rendered, list(map(pictures.prompt, shown))))
    caption = session.recipe.bootstrap.instance_prompt
    found, _ = read_originals(settings.replay, side, caption=caption, rejected=folder.path)
    return Replay(session, Pool([one.pixels for one in found], [one.caption for one in found]))
