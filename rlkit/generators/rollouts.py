"""Rounds of an online algorithm: draw groups of pictures, score them, compare them; count what it took.

A round depends on `old`, the seed, its number and what the algorithm remembers alone, so a resumed run draws it again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlkit import advantages
from rlkit.advantages import Advantages
from rlkit.engine import Stateful, seed_of
from rlkit.generators.session import Session
from rlkit.models import sampling
from rlkit.models.generator import EMA, OLD
from rlkit.running import ranks

Text = dict[str, Tensor]
Judge = Callable[[Float[Tensor, "batch rewards"], Sequence[int], Sequence[int]], Advantages]
"""(scores, group ids, prompt ids) of all processes -> advantages; a prompt that comes twice makes two groups."""
Memory = Stateful
"""What a judge remembers from round to round."""


@dataclass
class Round:
    """This process's pictures of one round; everything but `drawn` is one row a picture."""

    number: int
    prompts: list[str]
    drawn: list[sampling.Rollout]
    """One a micro-batch, of the very shape it is trained in."""
    scores: Float[Tensor, "local rewards"]
    advantages: Float[Tensor, " local"]
    mask: Bool[Tensor, " local"]
    """Pictures with an advantage."""
    metrics: dict[str, float]

    def valid(self, parts: int) -> float:
        """Pictures with an advantage in an average one of `parts` micro-batches, over all processes."""
        return sum(ranks.gathered(int(self.mask.sum()))) / (parts * ranks.count())


class Online:
    """All of an online algorithm but how it draws and what its losses are: a subclass has `draw` and `losses`.

    A round serves online.num_iterations optimiser steps.
    """

    def __init__(
        self, session: Session, judge: Judge, *, name: str, guidance_scale: float = 1.0, memory: Memory | None = None
    ) -> None:
        """`guidance_scale` is that of `draw`, `memory` what `judge` remembers."""
        self.session, self.generator, self.recipe = session, session.generator, session.recipe
        self.judge, self.memory = judge, memory
        self.stage = f"{name} on {len(session.prompts.train):,} prompts"
        distilled = self.generator.family.takes_guidance(self.generator.pipe)
        self.guidance_scale = guidance_scale
        self.negative = session.embeddings([None]) if guidance_scale > 1 and not distilled else None
        self.per_prediction = 1 if self.negative is None else 2  # forward passes
        self.current: Round | None = None
        self.counted = -1  # the last round whose passes and missing rewards are counted
        self.forward_passes = self.missing = self.zero_variance = 0
        self.remembered = None if memory is None else memory.state_dict()  # as the current round began
        train = self.recipe.train
        self.size, self.parts = train.per_device_train_batch_size, train.gradient_accumulation_steps
        self.local = self.size * self.parts

    def draw(self, number: int, text: Text, seeds: Sequence[int]) -> sampling.Rollout:
        """The pictures of one micro-batch of round `number`, by `old`: here by the pipeline's own sampler."""
        generation = self.recipe.generation
        return sampling.rollout(
            self.generator, text, seeds, height=generation.resolution, width=generation.resolution,
            num_frames=generation.num_frames, num_inference_steps=generation.num_inference_steps,
            guidance_scale=self.guidance_scale, negative=self.negative, name=OLD,
        )  # fmt: skip

    def spend(self, passes: int) -> None:
        """Count forward passes of training, given those of this process; a backward pass counts like a forward one."""
        self.forward_passes += passes * ranks.count()

    def state_dict(self) -> dict[str, Any]:
        """What was counted, and what the judge remembered when the round began that a resumed run draws again."""
        return {
            "forward_passes": self.forward_passes,
            "missing": self.missing,
            "zero_variance": self.zero_variance,
            "counted": self.counted,
            "remembered": self.remembered,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.forward_passes, self.missing = state_dict["forward_passes"], state_dict["missing"]
        self.zero_variance, self.counted = state_dict["zero_variance"], state_dict["counted"]
        self.current, self.remembered = None, state_dict["remembered"]
        if self.memory is not None:
            self.memory.load_state_dict(self.remembered)

    def cost(self) -> dict[str, int]:
        """For results.json: pictures without a score, groups without a difference."""
        return {"missing_rewards": self.missing, "zero_variance_groups": self.zero_variance}

    def at(self, step: int) -> tuple[Round, int]:
        """The round an optimiser step learns from, drawn if it is new, and how many steps it has served before."""
        number, iteration = divmod(step, self.recipe.online.num_iterations)
        if self.current is None or self.current.number != number:
            self.current = self.collect(number)
        return self.current, iteration

    def rows(self, part: int) -> slice:
        """The rows of a micro-batch."""
        return slice(part * self.size, (part + 1) * self.size)

    @torch.no_grad()
    def collect(self, number: int) -> Round:
        """Draw, score and compare round `number`."""
        seed, prompts = self.recipe.seed, self.session.prompts
        group = self.recipe.generation.num_generations
        first = (number * ranks.count() + ranks.number()) * (self.local // group)
        group_ids = [first + at // group for at in range(self.local)]
        prompt_ids = [prompts.at(one, seed) for one in group_ids]
        texts = [prompts.train[one] for one in prompt_ids]
        seeds = [seed_of(seed, "rollout", number, ranks.number(), at) for at in range(self.local)]
        drawn = [
            self.draw(number, self.session.embeddings(texts[rows]), seeds[rows])
            for rows in map(self.rows, range(self.parts))
        ]
        scores = self.session.rewards(texts, self.generator.pictures(torch.cat([one.latents for one in drawn])))
        everyone = ranks.gathered((scores, group_ids, prompt_ids))
        judged = self.judge(
            torch.cat([one[0] for one in everyone]),
            [one for ids in everyone for one in ids[1]],
            [one for ids in everyone for one in ids[2]],
        )
        if number > self.counted:
            self.counted = number
            self.spend(self.local * self.recipe.generation.num_inference_steps * self.per_prediction)
            self.missing += judged.counts.missing
            self.zero_variance += judged.counts.zero_variance_groups
        own, device = slice(ranks.number() * self.local, (ranks.number() + 1) * self.local), drawn[0].latents.device
        values, mask = (one[own].to(device) for one in (judged.values, judged.mask))
        return Round(number, texts, drawn, scores, values, mask, self._metrics(scores, judged.counts))

    def _metrics(self, scores: Tensor, counts: advantages.Counts) -> dict[str, float]:
        rewards = self.session.rewards
        found = {f"rewards/{name}": scores[:, at].nanmean().item() for at, name in enumerate(rewards.names)}
        found["reward"] = rewards.total(scores).nanmean().item()
        found["rewards/missing"] = float(counts.missing)
        found["groups/zero_variance"] = float(counts.zero_variance_groups)
        return found

    def after_step(self, steps: int) -> None:
        """After `steps` optimiser steps: ema follows each, old at the end of a round."""
        online = self.recipe.online
        self.generator.follow(EMA, online.ema_decay)
        if steps % online.num_iterations == 0:
            self.generator.follow(OLD, self.old_decay(steps // online.num_iterations))
            self.remembered = None if self.memory is None else self.memory.state_dict()

    def old_decay(self, rounds: int) -> float:
        """How much `old` keeps of itself after so many rounds: nothing, it is the policy as the round begins."""
        return 0.0


def by_group(session: Session) -> Judge:
    """Judge within groups by explicit ids; several rewards are normalised each by itself (GDPO), then added."""
    online, rewards = session.recipe.online, session.rewards
    shared: dict[str, Any] = {
        "std": online.advantage_std,
        "clip": online.advantage_clip,
        "min_spread": online.min_spread,
        "group_size": session.recipe.generation.num_generations,
    }

    def judge(scores: Tensor, group_ids: Sequence[int], _prompt_ids: Sequence[int]) -> Advantages:
        if len(rewards) == 1:
            return advantages.group_relative(scores[:, 0], group_ids, **shared)
        return advantages.gdpo(scores, group_ids, weights=rewards.weights, **shared)

    return judge
