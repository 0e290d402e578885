"""Rounds of GRPO: captions are drawn of some clips, scored and compared; kept is what the loss needs of them.

The vision tower, where it is frozen, runs once for each clip of a round: what it saw serves the draw and the log-probs
of policy, behaviour and reference. All captions of a clip ride in one row with it (rlkit/caption/one_row.py).
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlkit import advantages, losses
from rlkit.advantages import Advantages
from rlkit.caption import generate, judges, one_row, reference, rows
from rlkit.caption.dataset import Examples
from rlkit.caption.vllm_server import VllmServer
from rlkit.engine import seed_of
from rlkit.errors import GuardError, ModelError
from rlkit.models import Captioner, is_adapted
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.scoring import Rewards

PerToken = Float[Tensor, "clips group tokens"]
KEPT = ("advantages", "mask", "old_log_probs", "ref_log_probs", "sampling_ratio")
MEAN_GAP = 0.05  # nats a token between vLLM's log-probs and training's: half precision gives a fifth of it


@dataclass
class Part:
    """The captions drawn of the clips of one forward pass."""

    batch: dict[str, Tensor]
    """Rows of a clip and its captions, as rows.collate lays them out; their answers are the tokens that were drawn."""
    vision: dict[str, Any] | None
    """What the frozen tower saw; None lets the tower run in each pass."""
    advantages: Float[Tensor, "clips group"]
    mask: Bool[Tensor, "clips group"]
    """Captions with an advantage."""
    old_log_probs: PerToken | None = None
    """Of the policy that drew them; None where the loss is taken before it moves."""
    ref_log_probs: PerToken | None = None
    sampling_ratio: Float[Tensor, "clips group #tokens"] | None = None
    """Weights of tokens that vLLM drew."""


@dataclass
class Round:
    """This process's captions of one draw."""

    number: int
    parts: list[Part]
    metrics: dict[str, float]

    def tensors(self) -> dict[str, Tensor]:
        """All that cannot be computed again once the policy has moved, as safetensors stores it."""
        found = {}
        for at, part in enumerate(self.parts):
            found |= {f"{at}.{name}": part.batch[name] for name in ("index", "targets", "answer_lengths")}
            found |= {f"{at}.{name}": vars(part)[name] for name in KEPT if vars(part)[name] is not None}
        return {name: tensor.contiguous() for name, tensor in found.items()}


class Rounds:
    """Draws rounds. What it draws follows from the policy, the recipe's seed, the number of the round and the clips."""

    def __init__(
        self,
        captioner: Captioner,
        examples: Examples,
        clips: Sequence[Mapping[str, Any]],
        rewards: Rewards,
        recipe: Recipe,
        question: str,
        server: VllmServer | None = None,
    ) -> None:
        """`clips[i]` is what `examples[i]` shows. With grpo.beta the reference is the captioner as it is now: the model
        without its adapter, or a copy of it. `server` draws in place of transformers' generate."""
        self.captioner, self.examples, self.clips, self.recipe = captioner, examples, clips, recipe
        self.rewards, self.question, self.server = rewards, question, server
        self.columns = judges.wanted_columns(rewards.scores)
        self.checked = False
        self.reference: Captioner | None = None
        if recipe.grpo.beta > 0:
            own = is_adapted(captioner.model)
            self.reference = captioner if own else replace(captioner, model=copy.deepcopy(captioner.model))

    @torch.no_grad()
    def collect(
        self, number: int, chunks: Sequence[Sequence[rows.Example]], autocast: Callable[[], AbstractContextManager]
    ) -> Round:
        """Draw, score and compare captions of the clips of one optimiser step, a part for each chunk."""
        visions = [self._seen(chunk) for chunk in chunks]
        if self.server is not None:
            self.server.update(number)
        with autocast():
            drawn = [self._draw(number, chunk, vision) for chunk, vision in zip(chunks, visions, strict=True)]
        flat = [one for part in drawn for group in part for one in group]
        judged, metrics = self._judged([example for chunk in chunks for example in chunk], flat)
        parts, at = [], 0
        for chunk, vision, groups in zip(chunks, visions, drawn, strict=True):
            own = slice(at, at + len(chunk) * self.recipe.grpo.num_generations)
            at = own.stop
            values, mask = (one[own].reshape(len(chunk), -1) for one in (judged.values, judged.mask))
            # A clip that teaches nothing is not trained on; one stays, so that all processes make the same passes.
            kept = mask.any(1).nonzero().flatten().tolist() or [0]
            parts.append(self._part([chunk[k] for k in kept], [groups[k] for k in kept], values[kept], mask[kept]))
            parts[-1].vision = None if vision is None else one_row.features_of(vision, kept)
            with autocast():
                worst = self._score(parts[-1], [groups[k] for k in kept])
            if self._moves or self.server is not None:  # else a resumed run alone would log it
                name = "sampling/sampling_logp_difference/max"
                metrics[name] = max(worst, metrics.get(name, 0.0))
        if self.server is not None and parts[0].sampling_ratio is not None:
            weights = torch.cat([part.sampling_ratio.flatten() for part in parts])
            metrics["sampling/importance_sampling_ratio/mean"] = weights.mean().item()
        return Round(number, parts, metrics)

    def restore(self, number: int, tensors: Mapping[str, Tensor]) -> Round:
        """The round that `Round.tensors` kept."""
        parts = []
        for at in range(len({name.partition(".")[0] for name in tensors})):
            kept = {name: tensors[f"{at}.{name}"] for name in ("index", "targets", "answer_lengths")}
            chunk = [self.examples[index] for index in kept["index"].tolist()]
            answers = [
                [ids[:length].clone() for ids, length in zip(*one, strict=True)]
                for one in zip(kept["targets"], kept["answer_lengths"].tolist(), strict=True)
            ]
            batch = rows.batch_of(self.captioner, [_answered(*one) for one in zip(chunk, answers, strict=True)])
            device = batch["input_ids"].device
            stored = {name: tensors[key].to(device) for name in KEPT if (key := f"{at}.{name}") in tensors}
            parts.append(Part(batch, self._seen(chunk), **stored))
        return Round(number, parts, {})

    def _part(self, chunk, groups: Sequence[Sequence[generate.Completion]], values: Tensor, mask: Tensor) -> Part:
        """Clips and their captions as rows."""
        told = [_answered(*one) for one in zip(chunk, self._safe(groups), strict=True)]
        batch = rows.batch_of(self.captioner, told)
        device = batch["input_ids"].device
        return Part(batch, None, values.to(device), mask.to(device))

    def log_probs(self, captioner: Captioner, part: Part, *, model=None) -> PerToken:
        """Log-probs of a part's captions at the temperature they were drawn at."""
        temperature = self.recipe.sampling.temperature
        return one_row.log_probs(captioner, part.batch, part.vision, model=model, temperature=temperature)[0]

    def _seen(self, chunk: Sequence[rows.Example]) -> dict[str, Any] | None:
        """The frozen tower's features of these clips, to be used again and again."""
        if self.captioner.vision != "frozen" or not self.captioner.sharing:
            return None
        seen = one_row.vision_features(self.captioner, rows.batch_of(self.captioner, chunk))
        return one_row.features_of(seen, range(len(chunk)))

    def _draw(self, number: int, chunk: Sequence[rows.Example], vision) -> list[list[generate.Completion]]:
        sampling = self.recipe.sampling
        asked: dict[str, Any] = {
            "num_generations": self.recipe.grpo.num_generations,
            "max_completion_length": sampling.max_completion_length,
            "temperature": sampling.temperature,
            "seeds": [seed_of(self.recipe.seed, "grpo", number, example.index) for example in chunk],
        }
        if self.server is not None:
            return self.server.completions(chunk, **asked)
        return generate.completions(self.captioner, chunk, vision=vision, **asked)

    def _judged(self, clips: Sequence[rows.Example], drawn: Sequence[generate.Completion]):
        """Advantages of this process's captions, and what to log; compared over all processes."""
        settings, tokenizer = self.recipe.grpo, self.captioner.processor.tokenizer
        texts = [tokenizer.decode(one.ids, skip_special_tokens=True).strip() for one in drawn]
        shown, count = [self.clips[example.index] for example in clips], settings.num_generations
        columns = judges.columns_of(shown, [count] * len(shown), self.examples.reader, self.columns)
        scores = self.rewards([self.question] * len(texts), texts, columns)
        cut = torch.tensor([int(one.ids[-1]) != tokenizer.eos_token_id for one in drawn])
        left_out = torch.tensor([self._holds_media(one) for one in drawn])
        if settings.mask_truncated_completions:
            left_out |= cut
        scores[left_out] = torch.nan
        lengths = torch.tensor([float(len(one.ids)) for one in drawn])
        surprise = torch.stack([-one.log_probs.sum() for one in drawn])
        everyone = ranks.gathered((scores, lengths, cut, surprise))
        scores, lengths, cut, surprise = (torch.cat([one[at] for one in everyone]) for at in range(4))
        if scores.isnan().all():
            raise ModelError(
                f"the rewards {', '.join(self.rewards.names)} gave none of {len(scores)} captions a score, so nothing "
                "can be learnt. event_order needs the clips' `events`; say what is wanted with other rewards."
            )
        groups = [at // count for at in range(len(scores))]
        judged = compare(scores, groups, self.rewards.weights, self.recipe)
        first = sum(len(one[1]) for one in everyone[: ranks.number()])
        own = slice(first, first + len(drawn))
        metrics = self._metrics(scores, judged.counts)
        metrics["completions/mean_length"] = lengths.mean().item()
        metrics["completions/clipped_ratio"] = cut.float().mean().item()
        metrics["entropy"] = (surprise.sum() / lengths.sum()).item()
        return Advantages(judged.values[own], judged.mask[own], judged.counts), metrics

    def _metrics(self, scores: Tensor, counts: advantages.Counts) -> dict[str, float]:
        """By TRL's names, where it has them."""
        found = {}
        for at, name in enumerate(self.rewards.names):
            known = scores[:, at][scores[:, at].isfinite()]
            if len(known) > 1:
                found[f"rewards/{name}/mean"] = known.mean().item()
                found[f"rewards/{name}/std"] = known.std().item()
        total = self.rewards.total(scores).nanmean().item()
        if math.isfinite(total):
            found["reward"] = total
        found["rewards/missing"] = float(counts.missing)
        found["frac_reward_zero_std"] = counts.zero_variance_groups / counts.groups
        return found

    @property
    def _moves(self) -> bool:
        """Whether the policy moves under a round."""
        return self.recipe.grpo.num_iterations > 1

    def _score(self, part: Part, drawn: Sequence[Sequence[generate.Completion]]) -> float:
        """Fill in the log-probs of behaviour and reference, and the weights of what vLLM drew. Those of the behaviour,
        as training computes them, are needed where the policy will move under the round, where another engine drew,
        and before this process's first step, to be checked; returns how far off those of the draw they are."""
        settings, worst = self.recipe.grpo, 0.0
        if self._moves or not self.checked or self.server is not None:
            training = self.captioner.model.training
            self.captioner.model.train()  # as in the step: dropout, if there is any, shows in the ratio
            part.old_log_probs = self.log_probs(self.captioner, part)
            self.captioner.model.train(training)
            told = _said(part, drawn)
            worst = self._difference(part, told)
            if self.server is not None and settings.vllm_importance_sampling_correction:
                real = part.batch["target_mask"] & part.mask[:, :, None]
                flat = (one.flatten(0, 1) for one in (part.old_log_probs, told, real))
                found = losses.sampling_ratio(
                    *flat,
                    mode=settings.vllm_importance_sampling_mode,
                    clip_max=settings.vllm_importance_sampling_clip_max,
                )
                part.sampling_ratio = found.unflatten(0, part.mask.shape)
        if self.reference is not None:
            with reference.reference_mode(self.reference):
                part.ref_log_probs = self.log_probs(self.reference, part)
        return worst

    def _difference(self, part: Part, told: PerToken) -> float:
        """Largest gap between the log-probs of the draw and of training. Raises GuardError where it is more than noise:
        then the policy that is trained is not the one that spoke."""
        real = part.batch["target_mask"] & part.mask[:, :, None]
        gaps = (part.old_log_probs - told).abs() * real
        worst, mean = float(gaps.max()), float(gaps.sum() / real.sum().clamp(min=1))
        if self.server is not None:
            if not mean <= MEAN_GAP:
                raise GuardError(
                    f"vLLM's log-probs are {mean:.3g} nats a token off those of training (allowed {MEAN_GAP:g}): it "
                    "serves other weights than model.id's or since its start has lost them, normalises pixels again "
                    "(--no-mm-device-do-normalize), or tells log-probs of another temperature "
                    "(--logprobs-mode processed_logprobs). See rlkit/caption/vllm_server.py."
                )
            return worst
        exact = self.captioner.base.dtype == torch.float32 and not self.recipe.train.bf16
        allowed = 1e-3 if exact else 0.7  # half precision differs by tenths of a nat, which is noise
        if not worst <= allowed:
            raise GuardError(
                f"captions were drawn with log-probs up to {worst:.3g} nats off those of training (allowed "
                f"{allowed:g}): generate and the training forward differ in positions, temperature or processors."
            )
        return worst

    def _holds_media(self, drawn: generate.Completion) -> bool:
        """A placeholder in an answer would be taken for a clip."""
        processor = self.captioner.processor
        return bool(torch.isin(drawn.ids, torch.tensor([processor.image_token_id, processor.video_token_id])).any())

    def _safe(self, groups: Sequence[Sequence[generate.Completion]]) -> list[list[Tensor]]:
        """The tokens of captions, without placeholders; captions that held one have no advantage."""
        processor = self.captioner.processor
        media = torch.tensor([processor.image_token_id, processor.video_token_id])
        end = processor.tokenizer.eos_token_id
        return [[one.ids.masked_fill(torch.isin(one.ids, media), end) for one in group] for group in groups]


def compare(scores: Float[Tensor, "batch rewards"], groups: Sequence[int], weights: Sequence[float], recipe: Recipe):
    """Advantages within groups, as grpo.advantages, scale_rewards and multi_objective_aggregation say. A caption that
    lacks one of its rewards has no sum; normalised one by one, it is judged by the others."""
    settings = recipe.grpo
    shared: dict[str, Any] = {"min_spread": settings.min_spread, "group_size": settings.num_generations}
    scaled: dict[str, Any] = {
        "std": {"batch": "global"}.get(settings.scale_rewards, settings.scale_rewards),
        "clip": None,
    }
    used = [at for at, weight in enumerate(weights) if weight]
    if (
        len(used) > 1
        and settings.multi_objective_aggregation == "normalize_then_sum"
        and settings.advantages == "group"
    ):
        return advantages.gdpo(scores, groups, weights=weights, **shared, **scaled)
    total = (scores[:, used] * scores.new_tensor([weights[at] for at in used])).sum(1)
    if settings.advantages == "rloo":
        return advantages.rloo(total, groups, **shared)
    return advantages.group_relative(total, groups, **shared, **scaled)


def _said(part: Part, drawn: Sequence[Sequence[generate.Completion]]) -> PerToken:
    """The log-probs that a part's captions were drawn with, 0 after their ends."""
    longest = part.batch["targets"].shape[2]
    pad = torch.nn.functional.pad
    rows = [torch.stack([pad(one.log_probs, (0, longest - len(one.ids))) for one in group]) for group in drawn]
    return torch.stack(rows).to(part.advantages.device)


def _answered(example: rows.Example, answers: Sequence[Tensor]) -> rows.Example:
    """The clip with these captions as its answers."""
    spans = [torch.zeros(len(ids), dtype=torch.bool) for ids in answers]
    return replace(example, answers=list(answers), spans=spans, rejected_weight=[1.0] * (len(answers) - 1))
