"""Diffusion-DPO and Flow-DPO round by round, on the best and the worst of what the policy itself draws.

Diffusion-DPO, https://huggingface.co/papers/2311.12908, Eq. 14; Flow-DPO, https://huggingface.co/papers/2501.13918;
online pairs as in Flow-GRPO's code (https://huggingface.co/papers/2505.05470); the losses are in
rlkit/losses/diffusion.py. A round: `old`, the policy as it is, draws a group of pictures for each prompt by the
pipeline's own sampler; the best and the worst of each group by its advantages make a pair, groups without a difference
make none and are counted; then the policy takes `online.num_iterations` steps on the pairs, both pictures noised at one
level with one noise. The reference is the start throughout; `ema` is measured and saved.

Deviation: Flow-GRPO's code renews the reference every 40 rounds.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from rlkit import advantages, engine
from rlkit.engine import seed_of
from rlkit.generators import session as sessions
from rlkit.generators.rollouts import Online, Round, by_group
from rlkit.generators.session import Session
from rlkit.losses import diffusion, policy
from rlkit.models import sampling
from rlkit.models.generator import EMA, OLD, REFERENCE, Generator
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Draw, pair, train, save the averaged policy, measure it beside its start. See recipes/online_dpo.yaml."""
    sessions.run(recipe, folder, start, OnlineDpo, systems=sessions.before_and_after("online_dpo"))


def start(recipe: Recipe) -> Generator:
    """The generator of model.id with its companions; flow or epsilon."""
    return sessions.load(recipe, None, (OLD, EMA))


class OnlineDpo(Online):
    """The losses on the pairs of a round."""

    def __init__(self, session: Session) -> None:
        scale = session.recipe.generation.rollout_guidance_scale
        super().__init__(session, by_group(session), name="online DPO", guidance_scale=scale)
        self.at_once = max(1, self.size // 2)  # pairs, so that a batch holds as many pictures as a drawn one

    def pairs(self, drawn: Round) -> advantages.Extremes:
        """The best and the worst of this process's groups; what has no advantage is in no pair."""
        group = self.recipe.generation.num_generations
        judged = drawn.advantages.masked_fill(~drawn.mask, torch.nan)
        return advantages.extremes(judged, [at // group for at in range(len(judged))])

    def losses(self, step: int) -> Iterator[tuple[Tensor, engine.Metrics]]:
        """The pairs of the round in micro-batches; all count alike, over all processes."""
        drawn, iteration = self.at(step)
        found = self.pairs(drawn)
        everyone = sum(ranks.gathered(len(found.best))) / (self.parts * ranks.count())
        told = drawn.metrics | {"pairs/made": float(len(found.best))} if iteration == 0 else {}
        parts = -(-len(found.best) // self.at_once)
        # weights that are shared out want as many passes of every process
        for part in range(max(1, max(ranks.gathered(parts)) if ranks.sharded() else parts)):
            rows = slice(part * self.at_once, (part + 1) * self.at_once)
            if part < parts:
                loss, metrics = self.loss(drawn, found, step, part, rows)
                yield loss / everyone, metrics | (told if part == 0 else {})
            else:  # nothing differs: a picture beside itself, which moves nothing
                first = torch.zeros(1, dtype=torch.long)
                loss, _ = self.loss(drawn, replace(found, best=first, worst=first), step, part, slice(1))
                yield loss * 0.0, told if part == 0 else {}

    def loss(
        self, drawn: Round, found: advantages.Extremes, step: int, part: int, rows: slice
    ) -> tuple[Tensor, dict[str, float]]:
        """The sum over some pairs."""
        settings, x0 = self.recipe.online_dpo, torch.cat([one.latents for one in drawn.drawn])
        best, worst = found.best[rows], found.worst[rows]
        seeded = torch.Generator().manual_seed(seed_of(self.recipe.seed, "online_dpo", step, part, ranks.number()))
        noise = torch.randn((len(best), *x0.shape[1:]), generator=seeded).to(x0.device)
        uniform = torch.rand(len(best), generator=seeded).clamp(1e-3, 1 - 1e-3).to(x0.device)
        level, times = sampling.training_times(self.generator, uniform, tuple(x0.shape[1:]))
        pair = diffusion.noised_pair(x0[best], x0[worst], noise, level, model=self.generator.family.PREDICTION)
        text, times = self.session.embeddings([drawn.prompts[at] for at in best.tolist()] * 2), torch.cat([times] * 2)
        with torch.no_grad():
            reference = self.generator.predict(pair.samples, times, text, name=REFERENCE)
        prediction = self.generator.predict(pair.samples, times, text)
        self.spend(3 * len(times))  # two, and a backward pass
        errors = diffusion.pair_errors(prediction, reference, pair.targets)
        loss, told = diffusion.pair_loss(errors, types=settings.types, dpo_beta=settings.dpo_beta)
        metrics = {name: value.item() for name, value in told.items()}
        metrics["velocity_ratio"] = policy.velocity_ratio(prediction, reference).mean().item()
        return loss.sum(), metrics
