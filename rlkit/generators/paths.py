"""Policy gradients on sampled paths, shared by flow_grpo and ddpo: pictures are drawn by random steps whose log-probs
are kept, and the policy is asked for the same steps again.

An algorithm says how a step moves, which steps are trained and what the loss of one is. All steps of a path are of one
batch shape, that of its drawing, and in fp32: before the first update of a round every ratio is exactly 1, which is
checked in the run. The last step is never trained: its noise would stay in the picture.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from rlkit import engine, sde
from rlkit.generators.rollouts import Judge, Memory, Online, Round
from rlkit.generators.session import Session
from rlkit.losses import policy
from rlkit.losses.masking import masked_mean
from rlkit.losses.policy import PolicyLoss
from rlkit.models import sampling
from rlkit.models.generator import OLD, POLICY, REFERENCE
from rlkit.running import ranks


class Move(Protocol):
    """How one step of a path goes."""

    def __call__(
        self, noisy: bool, prediction: Tensor, sample: Tensor, level: Tensor, level_next: Tensor, **drawn: Tensor
    ) -> sde.Step:
        """`drawn` is noise=, to draw, or next_sample=, to evaluate; a step that is not `noisy` is the ODE's."""


Objective = Callable[[sde.Step, sde.Step, Tensor, Tensor, Tensor], PolicyLoss]
"""(step of the policy, step as it was drawn, |dt|, advantages, mask) -> loss a sample."""


@dataclass
class Path(sampling.Rollout):
    """Samples with the steps that made them."""

    steps: list[sde.Step] = field(default_factory=list)


class OnPaths(Online):
    """An algorithm on sampled paths."""

    def __init__(
        self,
        session: Session,
        judge: Judge,
        *,
        name: str,
        move: Move,
        trained: Callable[[int], Sequence[int]],
        objective: Objective,
        kl_weight: float,
        clip_range: float,
        memory: Memory | None = None,
    ) -> None:
        """`trained(round)` are the steps that are random and trained; the last one may not be among them."""
        scale = session.recipe.generation.rollout_guidance_scale
        super().__init__(session, judge, name=name, guidance_scale=scale, memory=memory)
        self.move, self.trained, self.objective = move, trained, objective
        self.kl_weight, self.clip_range = kl_weight, clip_range

    def draw(self, number: int, text: dict[str, Tensor], seeds: Sequence[int]) -> Path:
        """Pictures of `old`, with the steps of their paths."""
        generation, random, steps = self.recipe.generation, set(self.trained(number)), []

        def step(prediction: Tensor, sample: Tensor, level: Tensor, level_next: Tensor, noise: Tensor) -> Tensor:
            steps.append(self.move(len(steps) in random, prediction, sample, level, level_next, noise=noise))
            return steps[-1].sample

        rolled = sampling.rollout(
            self.generator, text, seeds, height=generation.resolution, width=generation.resolution,
            num_frames=generation.num_frames, num_inference_steps=generation.num_inference_steps,
            guidance_scale=self.guidance_scale, negative=self.negative, name=OLD, step=step, keep_trajectory=True,
        )  # fmt: skip
        return Path(**vars(rolled), steps=steps)

    def losses(self, step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
        """A micro-batch for every part of the round and every trained step of it: memory is that of one step."""
        drawn, iteration = self.at(step)
        valid, trained = drawn.valid(self.parts), self.trained(drawn.number)
        for part in range(self.parts):
            for index in trained:
                loss, metrics = self.loss(drawn, part, index, valid, first=iteration == 0)
                told = drawn.metrics if part == iteration == 0 and index == trained[0] else {}
                yield loss / len(trained), metrics | told

    def loss(
        self, drawn: Round, part: int, index: int, valid: float, *, first: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """One step of one micro-batch, its mean taken over `valid` pictures. Raises GuardError where a ratio is not 1
        before the `first` update of a round."""
        rows, path = self.rows(part), drawn.drawn[part]
        text, before = self.session.embeddings(drawn.prompts[rows]), path.steps[index]
        now = self.again(path, index, text, POLICY)
        mask = drawn.mask[rows] & before.random
        if first:
            tolerance = 0.0 if ranks.on_cpu() else self.clip_range / 10  # kernels of a GPU may vary
            policy.require_unit_ratio(now.log_prob - before.log_prob, mask, tolerance=tolerance)
        dt = (path.levels[index + 1] - path.levels[index]).abs()
        found = self.objective(now, before, dt, drawn.advantages[rows], mask)
        loss, passes = found.loss, 2  # a backward pass counts like a forward one
        metrics = {name: value.item() for name, value in found.metrics.items()}
        if self.kl_weight:
            with torch.no_grad():
                reference = self.again(path, index, text, REFERENCE)
            kl = policy.reference_kl(now.mean, reference.mean, now.std, mask)
            loss, passes = loss + self.kl_weight * kl, 3
            metrics["kl"] = kl[mask].mean().item()
        self.spend(passes * self.per_prediction * len(mask))
        return masked_mean(loss, mask, max(valid, 1e-6)) if valid else loss.sum(), metrics

    def again(self, path: Path, index: int, text: dict[str, Tensor], name: str) -> sde.Step:
        """Step `index` of a path as the policy or a companion would take it."""
        sample = path.trajectory[index]
        prediction = self.generator.predict(
            sample, path.timesteps[index].expand(len(sample)), text, guidance_scale=self.guidance_scale,
            negative=self.negative, name=name,
        )  # fmt: skip
        levels = path.levels[index], path.levels[index + 1]
        return self.move(True, prediction, sample, *levels, next_sample=path.steps[index].sample)
