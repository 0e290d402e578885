"""The keys of `grpo:`, online RL of captioners; see schema.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from rlkit.recipe.marks import Between
from rlkit.recipe.units import Amount, Count, Share


@dataclass(frozen=True)
class Grpo:
    """For `algorithm: grpo`, named and meant as in TRL's GRPOConfig. sampling.temperature and
    sampling.max_completion_length apply; the batch counts clips, each with all its completions."""

    num_generations: Annotated[int, Between(2, 10**6)] = 8
    """Captions drawn for each clip, the group in which rewards are compared. All ride in one row with their clip."""
    num_iterations: Count = 1
    """Optimiser steps on the captions of one draw; train.max_steps counts them all."""
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dapo"
    """What token losses are averaged over: each caption, those of a forward pass, the longest caption there may be, or
    all of the step. grpo makes right captions short and wrong ones long; dapo and dr_grpo do not."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """A ratio per token, or one per caption, the mean of its tokens' log-ratios (GSPO)."""
    epsilon: Annotated[float, Between(1e-6, 100)] = 0.2
    """Ratios below 1 - epsilon are clipped; of use from the second iteration on."""
    epsilon_high: Annotated[float, Between(1e-6, 100)] | None = None
    """Ratios above 1 + epsilon_high are clipped; null: epsilon. DAPO takes 0.28."""
    beta: Amount = 0.0
    """Weight of the KL to the start; 0 keeps no reference and saves its passes. Not the beta of `loss:`."""
    advantages: Literal["group", "rloo"] = "group"
    """group: reward less the group's mean, scaled by scale_rewards. rloo: less the mean of the others, not scaled."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """The standard deviation that differences are divided by; none is Dr. GRPO's."""
    multi_objective_aggregation: Literal["normalize_then_sum", "sum_then_normalize"] = "normalize_then_sum"
    """Of several rewards: each normalised by itself, weighed and added (GDPO), or the weighted sum normalised, which
    follows the reward with the widest spread. TRL's default is the second."""
    min_spread: Amount = 0.0
    """Groups whose rewards lie no further apart than this are dropped and counted: the noise of the reward."""
    mask_truncated_completions: bool = False
    """Leave out captions that were cut at max_completion_length."""
    use_vllm: bool = False
    """Captions are drawn by a vLLM server (0.32, for Qwen2.5-VL and Qwen3-VL); how to start it is told in
    rlkit/caption/vllm_server.py."""
    vllm_server_base_url: str = "http://localhost:8000"
    """Where it listens. It must see the run folder under the same path: weights go over as files."""
    vllm_server_timeout: Annotated[float, Between(1, 10**5)] = 240.0
    """Seconds to wait for an answer, or for a server that has gone."""
    vllm_importance_sampling_correction: bool = True
    """Weigh tokens by the probability that training gives them over vLLM's, which differ by rounding."""
    vllm_importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = (
        "sequence_mask"
    )
    """A weight per token or one per caption; above vllm_importance_sampling_clip_max it is cut there, or becomes 0."""
    vllm_importance_sampling_clip_max: Annotated[float, Between(1e-6, 10**6)] = 3.0
    """Largest weight."""
    max_length_rise: Amount | None = 0.3
    """Alarm `length`: captions have become longer by this share; null is off."""
    max_truth_drop: Share | None = 0.1
    """Alarm `truth`: greedy captions of held-out clips tell their events worse by this much, on a scale of 0 to 1;
    measured every guards.every steps. null is off."""
    alarm: Literal["warn", "stop"] = "warn"
    """What to do at the first alarm: say so and go on, or end with an error."""
