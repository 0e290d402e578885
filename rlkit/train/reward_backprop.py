"""The reward's own gradient through the last steps of the sampler: DRaFT-K and ReFL, truncated.

DRaFT, https://huggingface.co/papers/2309.17400; ReFL (ImageReward), https://huggingface.co/papers/2304.05977;
AlignProp, https://huggingface.co/papers/2310.03739. Needs rewards with `score_tensors`. Pictures are drawn by the
sampler's ODE (Euler for flow, DDIM for epsilon models). `draft`: the last `grad_steps` steps carry a gradient, through
the samples between them too. `refl`: one step at a random place among the last `grad_steps`, whose prediction of the
clean picture is judged. The loss is minus the reward, or max(0, ceiling - reward) as in ReFL's code.

Deviations: ReFL's path is drawn to its end, past the step that is trained (up to grad_steps - 1 passes more). Rewards
are held back by `ceiling` and by the squared distance to the reference's prediction, not by ReFL's pre-training loss.
"""

import random
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlkit import engine, sde
from rlkit.engine import seed_of
from rlkit.errors import ModelError
from rlkit.generators import session as sessions
from rlkit.generators.session import Session
from rlkit.losses import policy
from rlkit.losses.masking import masked_mean
from rlkit.models import sampling
from rlkit.models.generator import EMA, REFERENCE, Generator
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Train, save the averaged policy, measure it beside its start. See recipes/reward_backprop.yaml."""
    sessions.run(recipe, folder, start, RewardBackprop, systems=sessions.before_and_after("reward_backprop"))


def start(recipe: Recipe) -> Generator:
    """The generator of model.id with its average; flow or epsilon."""
    return sessions.load(recipe, None, (EMA,))


class RewardBackprop:
    """Pictures whose last steps carry a gradient, and minus their reward."""

    def __init__(self, session: Session) -> None:
        """Raises ModelError for a reward without a differentiable path, and for a generator of video."""
        self.session, self.generator, self.recipe = session, session.generator, session.recipe
        family = self.generator.family
        if family.MEDIUM != "image":
            raise ModelError(
                f"reward_backprop trains generators of pictures; {family.PIPELINE} makes {family.MEDIUM}s."
            )
        session.rewards.differentiable()
        self.stage = f"reward gradients on {len(session.prompts.train):,} prompts"
        self.forward_passes = self.missing = 0

    def losses(self, step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
        """The micro-batches of a step, of this process; what they show follows from the weights, seed and step."""
        for part in range(self.recipe.train.gradient_accumulation_steps):
            yield self.loss(step, part)

    def loss(self, step: int, part: int) -> tuple[Tensor, dict[str, float]]:
        """One micro-batch; pictures without a score are left out."""
        settings, rewards, train = self.recipe.reward_backprop, self.session.rewards, self.recipe.train
        size, seed, prompts = train.per_device_train_batch_size, self.recipe.seed, self.session.prompts
        first = ((step * train.gradient_accumulation_steps + part) * ranks.count() + ranks.number()) * size
        shown = [prompts.train[prompts.at(first + at, seed)] for at in range(size)]
        seeds = [seed_of(seed, "backprop", step, part, ranks.number(), at) for at in range(size)]
        draw = self.draft if settings.form == "draft" else self.refl
        latents, distance = draw(self.session.embeddings(shown), seeds)
        pixels = (self.generator.family.decode(self.generator.pipe, latents) / 2 + 0.5).clamp(0, 1)
        scores = rewards.tensors(shown, pixels)
        total = rewards.total(scores)
        mask = total.isfinite()
        self.missing += sum(ranks.gathered(int((~mask).sum())))
        wish = -total if settings.ceiling is None else torch.relu(settings.ceiling - total)
        metrics = {f"rewards/{name}": scores[:, at].nanmean().item() for at, name in enumerate(rewards.names)}
        metrics |= {"reward": total.nanmean().item(), "rewards/missing": float((~mask).sum())}
        loss = masked_mean(wish, mask)
        if settings.kl_weight:
            metrics["velocity_mse"] = distance.item()
            loss = loss + settings.kl_weight * distance
        return loss, metrics

    def draft(self, text: dict[str, Tensor], seeds: list[int]) -> tuple[Tensor, Tensor]:
        """Latents with a graph through the last grad_steps steps, and the distance to the reference there."""
        settings, steps = self.recipe.reward_backprop, self.recipe.generation.num_inference_steps
        seen: list[tuple[Tensor, Tensor]] = []

        def step(prediction: Tensor, sample: Tensor, level: Tensor, level_next: Tensor, noise: Tensor) -> Tensor:
            seen.append((prediction, sample))
            return self.move(prediction, sample, level, level_next, noise)

        rolled = self.rollout(text, seeds, step, grad_steps=settings.grad_steps)
        self.forward_passes += len(seeds) * (steps + settings.grad_steps) * ranks.count()  # and as many backward
        trained = range(steps - settings.grad_steps, steps)
        distances = [self.distance(*seen[at], rolled.timesteps[at], text) for at in trained]
        return rolled.latents, torch.stack(distances).mean()

    def refl(self, text: dict[str, Tensor], seeds: list[int]) -> tuple[Tensor, Tensor]:
        """The clean latents that one late step predicts, and the distance to the reference there."""
        settings, steps = self.recipe.reward_backprop, self.recipe.generation.num_inference_steps
        place = random.Random(seeds[0]).randrange(steps - settings.grad_steps, steps)
        rolled = self.rollout(text, seeds, self.move, keep_trajectory=True)
        sample, timestep, level = rolled.trajectory[place], rolled.timesteps[place], rolled.levels[place]
        torch.clear_autocast_cache()  # weights cast under no_grad have no gradient
        prediction = self.generator.predict(sample, timestep.expand(len(seeds)), text)
        self.forward_passes += len(seeds) * (steps + 2) * ranks.count()
        clean = sde.flow_x0 if self.generator.family.PREDICTION == "flow" else sde.epsilon_x0
        return clean(prediction, sample, level), self.distance(prediction, sample, timestep, text)

    def rollout(self, text: dict[str, Tensor], seeds: list[int], step: sampling.Step, **kept: Any) -> sampling.Rollout:
        """The policy's samples by `step`."""
        generation = self.recipe.generation
        return sampling.rollout(
            self.generator, text, seeds, height=generation.resolution, width=generation.resolution,
            num_inference_steps=generation.num_inference_steps, step=step, **kept,
        )  # fmt: skip

    def move(self, prediction: Tensor, sample: Tensor, level: Tensor, level_next: Tensor, noise: Tensor) -> Tensor:
        """A step of the ODE."""
        if self.generator.family.PREDICTION == "flow":
            return sde.ode_step(prediction, sample, level, level_next).sample
        return sde.ddim_step(prediction, sample, level, level_next, noise=noise, eta=0.0).sample

    def distance(self, prediction: Tensor, sample: Tensor, timestep: Tensor, text: dict[str, Tensor]) -> Tensor:
        """Mean squared distance to the reference's prediction; 0 where it has no weight."""
        if not self.recipe.reward_backprop.kl_weight:
            return prediction.new_zeros(())
        with torch.no_grad():
            reference = self.generator.predict(sample, timestep.expand(len(sample)), text, name=REFERENCE)
        self.forward_passes += len(sample) * ranks.count()
        return policy.velocity_mse(prediction, reference).mean()

    def after_step(self, steps: int) -> None:
        """ema follows each step."""
        self.generator.follow(EMA, self.recipe.online.ema_decay)

    def cost(self) -> dict[str, Any]:
        """What could not be judged."""
        return {"missing_rewards": self.missing}

    def state_dict(self) -> dict[str, Any]:
        """What was counted."""
        return {"forward_passes": self.forward_passes, "missing": self.missing}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.forward_passes, self.missing = state_dict["forward_passes"], state_dict["missing"]
