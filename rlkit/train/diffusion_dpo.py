"""Offline preference training of a generator on pairs of pictures: Diffusion-DPO, Flow-DPO and other losses on pairs.

Diffusion-DPO, https://huggingface.co/papers/2311.12908, Eq. 14; Flow-DPO, https://huggingface.co/papers/2501.13918;
PNAPO (each picture with the noise it came from), https://huggingface.co/papers/2605.09433; the formulas are in
rlkit/losses/diffusion.py. Both pictures of a pair are noised at one level with one noise, policy and reference see the
same; the reference is the denoiser without its adapter. Ties teach noise: they are left out and counted.

Deviations: levels of flow models are even and then shifted as the sampler shifts them. Reward gaps are over the mean
gap of the whole table, rewards of rwr standardised over it, so that batches do not matter.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlkit import engine
from rlkit.engine import seed_of
from rlkit.errors import DataError
from rlkit.generators import offline, pairs
from rlkit.generators import session as sessions
from rlkit.generators.session import Session
from rlkit.losses import diffusion, policy
from rlkit.losses.masking import masked_mean
from rlkit.models import sampling
from rlkit.models.generator import POLICY, REFERENCE, Generator
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder

WITHOUT_REFERENCE = {"mapo", "sft", "rwr"}


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Train, save, measure beside the start and the best of several. See recipes/diffusion_dpo.yaml."""
    sessions.run(
        recipe, folder, start, lambda session: Dpo(session, folder), systems={"base": REFERENCE, "dpo": POLICY}
    )


def start(recipe: Recipe) -> Generator:
    """The generator of model.id and its reference."""
    return sessions.load(recipe, None, ())


class Dpo:
    """Losses on the pairs of data.pairs."""

    def __init__(self, session: Session, folder: RunFolder) -> None:
        """Raises DataError for pairs without what the settings need."""
        self.session, self.generator, self.folder = session, session.generator, folder
        recipe = session.recipe
        self.settings, self.seed = recipe.diffusion_dpo, recipe.seed
        self.size, self.parts = recipe.train.per_device_train_batch_size, recipe.train.gradient_accumulation_steps
        settings = self.settings
        self.data = offline.Offline(session, min_margin=settings.min_margin, resize=settings.resize)
        self.types = {name: weight for name, weight in settings.types.items() if weight and name != "rwr"}
        self.rwr = settings.types.get("rwr", 0.0)
        self.compares = bool({name for name, weight in settings.types.items() if weight} - WITHOUT_REFERENCE)
        self.gaps = self._gaps() if settings.pair_weight == "reward_gap" else None
        self.rewards = self._rewards() if self.rwr else None
        self.noises = self._noises() if settings.noise == "generation" else None
        self.forward_passes = passes_of(Path(recipe.data.pairs))
        self.stage = f"DPO on {len(self.data.table):,} pairs"

    def losses(self, step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
        """The micro-batches of a step, of this process; what they hold follows from (seed, step) alone."""
        for part in range(self.parts):
            first = ((step * self.parts + part) * ranks.count() + ranks.number()) * self.size
            rows = self.data.numbers(first, self.size)
            drawn = torch.Generator().manual_seed(seed_of(self.seed, "dpo", step, part, ranks.number()))
            yield self.loss(rows, drawn)

    def loss(self, rows: list[int], drawn: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The mean loss of some pairs, by noise and levels from `drawn`."""
        pair, times, mask = self.noised(rows, drawn)
        text = self.session.embeddings(self.data.captions(rows) * 2)
        prediction = self.generator.predict(pair.samples, times, text)
        reference = prediction.detach()
        if self.compares:
            with torch.no_grad():
                reference = self.generator.predict(pair.samples, times, text, name=REFERENCE)
        self.forward_passes += (3 if self.compares else 2) * len(times) * ranks.count()  # one is the backward pass
        found = diffusion.pair_errors(prediction, reference, pair.targets, self.settings.reduction)
        weights = self.gaps[rows].to(mask.device) if self.gaps is not None else None
        loss, metrics = diffusion.pair_loss(
            found, types=self.types, dpo_beta=self.settings.dpo_beta, mask=mask, weights=weights
        )
        if self.rewards is not None:
            loss = loss + self.rwr * self._regression(found, rows, mask)
        told = {name: value.item() for name, value in metrics.items()}
        if self.compares:
            told["velocity_ratio"] = policy.velocity_ratio(prediction, reference).mean().item()
        else:
            told = {name: value for name, value in told.items() if not name.startswith("rewards/")}
        return masked_mean(loss, mask), told

    def noised(self, rows: list[int], drawn: torch.Generator) -> tuple[diffusion.NoisedPair, Tensor, Tensor]:
        """Both sides of some pairs with their noise, the timesteps [2 batch], and the mask of pairs that are whole."""
        labels = [self.data.table.labels[row] for row in rows]
        chosen, one = self.data.encoded(rows, labels)
        rejected, other = self.data.encoded(rows, [1 - label for label in labels])
        noise, rejected_noise = torch.randn(chosen.shape, generator=drawn).to(chosen.device), None
        uniform = torch.rand(len(rows), generator=drawn).clamp(1e-3, 1 - 1e-3).to(chosen.device)
        if self.noises is not None:
            noise, rejected_noise = (self._noise(rows, side).to(chosen.device) for side in (0, 1))
        level, times = sampling.training_times(self.generator, uniform, self.data.shape)
        pair = diffusion.noised_pair(
            chosen, rejected, noise, level, model=self.generator.family.PREDICTION, rejected_noise=rejected_noise
        )
        return pair, torch.cat([times, times]), one & other

    def _noise(self, rows: list[int], rejected: int) -> Tensor:
        """The noise that the chosen (0) or rejected (1) pictures were drawn from."""
        found = []
        for row in rows:
            side = self.data.table.labels[row] ^ rejected
            seed, expected = self.noises[row][side], self.noises[row][2 + side]
            found.append(pairs.noise_of(seed, expected, self.data.shape, self.data.table.where(row)))
        return torch.stack(found)

    def _regression(self, found: diffusion.PairErrors, rows: list[int], mask: Tensor) -> Tensor:
        """Mean over both sides of reward-weighted regression."""
        rewards = self.rewards[rows].to(mask.device)
        sides = ((found.chosen, rewards[:, 0]), (found.rejected, rewards[:, 1]))
        temperature = self.settings.rwr_temperature
        both = [diffusion.reward_weighted(errors, reward, temperature=temperature) for errors, reward in sides]
        return torch.where(mask, (both[0] + both[1]) / 2, 0.0)

    def _gaps(self) -> Tensor:
        """Each pair's margin over the mean margin."""
        margins = [one for (one,) in self.data.table.columns("margin")]
        self._need(margins, "margin", "pair_weight: reward_gap")
        values = torch.tensor(margins)
        return diffusion.gap_weights(values, torch.zeros_like(values), torch.ones_like(values, dtype=torch.bool))

    def _rewards(self) -> Tensor:
        """The mean reward of the chosen and of the rejected picture of each pair, standardised over all, [pairs, 2]."""
        told = self.data.table.columns("rewards_0", "rewards_1")
        self._need([one and other for one, other in told], "rewards_0 and rewards_1", "the loss rwr")
        values = torch.tensor([[sum(side) / len(side) for side in row] for row in told])
        values = (values - values.mean()) / values.std(correction=0).clamp(min=1e-8)
        labels = torch.tensor(self.data.table.labels)
        return torch.where(labels[:, None] == 0, values, values.flip(1))

    def _noises(self) -> list[tuple]:
        told = self.data.table.columns("seed_0", "seed_1", "noise_0", "noise_1")
        self._need([one[0] if one[1] is not None else None for one in told], "seed_0 and seed_1", "noise: generation")
        return told

    def _need(self, values: list, columns: str, why: str) -> None:
        missing = sum(value is None for value in values)
        if missing:
            raise DataError(
                f"{self.data.table.path}: {missing} of {len(values)} pairs have no {columns}, which {why} needs; pairs "
                "of `algorithm: pairs_image` have them."
            )

    def after_step(self, steps: int) -> None:
        """Nothing follows the policy."""

    def cost(self) -> dict[str, Any]:
        """The table's counts, and the strength that the other reduction would need."""
        self.data.write_unreadable(self.folder)
        settings, dims = self.settings, int(torch.Size(self.data.shape).numel())
        same = {
            target: diffusion.equivalent_strength(settings.dpo_beta, dims, source=settings.reduction, target=target)
            for target in ("mean", "sum")
        }
        return self.data.cost() | {"dpo_beta": same}

    def state_dict(self) -> dict[str, Any]:
        """What was counted."""
        return {"forward_passes": self.forward_passes, "unreadable": list(self.data.unreadable.items())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.forward_passes = state_dict["forward_passes"]
        self.data.unreadable = dict(state_dict["unreadable"])


def passes_of(path: Path) -> int:
    """Forward passes that drawing the pairs took, where a run here made them; else 0."""
    cost = RunFolder(path).results().get("cost", {}) if path.is_dir() else {}
    return int(cost.get("forward_passes", 0))
