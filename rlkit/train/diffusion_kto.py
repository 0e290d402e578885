"""Offline training of a generator on thumbs up and down (Diffusion-KTO), or on pairs taken as one of each.

https://huggingface.co/papers/2404.04465; the formula is in rlkit/losses/diffusion.py. Every micro-batch holds the same
number of liked pictures (diffusion_kto.desirable_share), each at a level and with noise of its own.

Deviation: the distance to the reference is a running mean over steps and processes, where the paper takes a batch's.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlkit import engine, sde
from rlkit.engine import seed_of
from rlkit.errors import DataError
from rlkit.generators import offline
from rlkit.generators import session as sessions
from rlkit.generators.session import Session
from rlkit.losses import diffusion, policy
from rlkit.losses.masking import masked_mean
from rlkit.models import sampling
from rlkit.models.generator import POLICY, REFERENCE
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.train.diffusion_dpo import passes_of, start


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Train, save, measure beside the start and the best of several."""
    sessions.run(
        recipe, folder, start, lambda session: Kto(session, folder), systems={"base": REFERENCE, "kto": POLICY}
    )


class Kto:
    """Losses on the pictures of data.pairs."""

    def __init__(self, session: Session, folder: RunFolder) -> None:
        """Raises DataError for a table that lacks liked or disliked pictures."""
        self.session, self.generator, self.folder = session, session.generator, folder
        train = session.recipe.train
        self.settings = session.recipe.diffusion_kto
        self.size, self.parts = train.per_device_train_batch_size, train.gradient_accumulation_steps
        self.data = offline.Offline(session, rated=True, resize=self.settings.resize)
        self.liked, self.disliked = _thumbs(self.data)
        self.num_liked = round(self.size * self.settings.desirable_share)
        self.kl_estimate, self.batches = 0.0, []
        self.forward_passes = passes_of(Path(session.recipe.data.pairs))
        self.stage = f"KTO on {len(self.liked):,} liked and {len(self.disliked):,} other pictures"

    def losses(self, step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
        """The micro-batches of a step, of this process; what they hold follows from (seed, step) alone."""
        for part in range(self.parts):
            place = (step * self.parts + part) * ranks.count() + ranks.number()
            shown = self.shown(self.liked, place, self.num_liked)
            shown += self.shown(self.disliked, place, self.size - self.num_liked)
            drawn = torch.Generator().manual_seed(seed_of(self.session.recipe.seed, "kto", step, part, ranks.number()))
            yield self.loss(shown, drawn)

    def shown(self, among: list[tuple[int, int]], place: int, count: int) -> list[tuple[int, int]]:
        """`count` pictures as (row, side) of one kind, for the micro-batch number `place` of the run."""
        return [among[at] for at in self.data.numbers(place * count, count, len(among))]

    def loss(self, shown: list[tuple[int, int]], drawn: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of a micro-batch whose first `num_liked` pictures are the liked ones."""
        settings = self.settings
        rows, sides = [row for row, _ in shown], [side for _, side in shown]
        x0, mask = self.data.encoded(rows, sides)
        noise = torch.randn(x0.shape, generator=drawn).to(x0.device)
        uniform = torch.rand(len(x0), generator=drawn).clamp(1e-3, 1 - 1e-3).to(x0.device)
        level, times = sampling.training_times(self.generator, uniform, self.data.shape)
        if self.generator.family.PREDICTION == "flow":
            sample, target = sde.flow_sample(x0, noise, level), sde.flow_velocity(x0, noise)
        else:
            sample, target = sde.epsilon_sample(x0, noise, level), noise
        text = self.session.embeddings(self.data.captions(rows))
        prediction = self.generator.predict(sample, times, text)
        with torch.no_grad():
            reference = self.generator.predict(sample, times, text, name=REFERENCE)
        self.forward_passes += 3 * len(x0) * ranks.count()  # one is the backward pass
        errors = diffusion.squared_error(prediction, target, settings.reduction)
        ref_errors = diffusion.squared_error(reference, target, settings.reduction)
        desirable = torch.arange(len(x0), device=x0.device) < self.num_liked
        loss = diffusion.kto(
            errors, ref_errors, desirable, kto_beta=settings.kto_beta, kl_estimate=self.kl_estimate,
            desirable_weight=settings.desirable_weight, undesirable_weight=settings.undesirable_weight,
        )  # fmt: skip
        gain = (ref_errors - errors).detach()
        self.batches.append(diffusion.kto_kl(errors[mask], ref_errors[mask]).item() if mask.any() else 0.0)
        metrics = {
            "gain/liked": masked_mean(gain, mask & desirable).item(),
            "gain/others": masked_mean(gain, mask & ~desirable).item(),
            "kl_estimate": self.kl_estimate,
            "pairs/masked": (~mask).float().mean().item(),
            "velocity_ratio": policy.velocity_ratio(prediction, reference).mean().item(),
        }
        return masked_mean(torch.where(mask, loss, 0.0), mask), metrics

    def after_step(self, steps: int) -> None:
        """The estimate moves towards the mean of this step's micro-batches, of all processes."""
        found = [value for part in ranks.gathered(self.batches) for value in part]
        decay = self.settings.kl_decay
        self.kl_estimate = decay * self.kl_estimate + (1 - decay) * sum(found) / len(found)
        self.batches = []

    def cost(self) -> dict[str, Any]:
        """The table's counts."""
        self.data.write_unreadable(self.folder)
        return self.data.cost()

    def state_dict(self) -> dict[str, Any]:
        """The estimate, and what was counted."""
        unreadable = list(self.data.unreadable.items())
        return {"kl_estimate": self.kl_estimate, "forward_passes": self.forward_passes, "unreadable": unreadable}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.kl_estimate, self.forward_passes = state_dict["kl_estimate"], state_dict["forward_passes"]
        self.data.unreadable = dict(state_dict["unreadable"])


def _thumbs(data: offline.Offline) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(row, side) of liked and of disliked pictures; a rated table has one side."""
    labels = data.table.labels
    if data.table.rated:
        liked, disliked = ([(row, 0) for row, label in enumerate(labels) if label == up] for up in (1, 0))
    else:
        liked, disliked = ([(row, label ^ flip) for row, label in enumerate(labels)] for flip in (0, 1))
    if not liked or not disliked:
        raise DataError(f"{data.table.path}: {len(liked)} liked and {len(disliked)} other pictures; both are needed.")
    return liked, disliked
