"""The keys of generators: `generation:`, how pictures are drawn, and one section per algorithm; see schema.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rlkit.recipe.marks import Between, OnDisk
from rlkit.recipe.units import Amount, Count, CountOrZero, Share


@dataclass(frozen=True)
class Generation:
    """For generators: the prompts, the size of pictures and how they are sampled."""

    prompts: Annotated[str | None, OnDisk("file")] = None
    """Text file with a prompt on each line; every fifth is held out, or fewer where evaluate.num_clips is less. null:
    the world's prompts, whose held-out ones are new combinations."""
    resolution: Count = 32
    """Side of the square pictures in pixels; train and evaluate at the size that will be used."""
    num_frames: Count = 1
    """Frames of a clip, for generators of video; Wan takes a multiple of 4 plus 1."""
    num_inference_steps: Count = 10
    """Steps of the sampler in rollouts and for pairs; likelihood-free methods need few."""
    guidance_scale: Annotated[float, Between(1, 100)] = 1.0
    """Classifier-free guidance when measuring and when drawing pairs; 1 is none, and half the passes."""
    rollout_guidance_scale: Annotated[float, Between(1, 100)] = 1.0
    """Guidance of rollouts: of flow_grpo and ddpo also in training, so that ratios start at 1, with one optimiser step
    a round; online_dpo draws pairs with it. Likelihood-free RL (nft) has none."""
    num_generations: Annotated[int, Between(2, 10**6)] = 8
    """Pictures per prompt in a rollout or for a pair, the group that rewards are compared in; for RL it must divide
    train.per_device_train_batch_size * train.gradient_accumulation_steps."""
    eval_inference_steps: Count = 20
    """Steps of the sampler when measuring."""
    eval_samples: Count = 4
    """Pictures per held-out prompt; diversity is measured among them, and depends on how many they are."""
    compare_steps: list[Count] = field(default_factory=list)
    """Quality is also measured at each of these numbers of steps, for example [4, 10, 20, 40], every system from the
    same noise; each costs as much as a whole measurement."""
    gallery_prompts: CountOrZero = 8
    """Held-out prompts shown in samples/*.png, every system from the same seeds."""
    prompt_dropout: Share = 0.1
    """For `algorithm: diffusion_sft`: share of pictures trained without their prompt, which guidance needs later."""
    width: Annotated[int, Between(32, 1024)] = 96
    """With `model.init`: width of the fresh denoiser, a multiple of 32; of stable_diffusion that of its lowest level,
    the two above have a half and a quarter."""
    layers: Annotated[int, Between(1, 32)] = 4
    """With `model.init`: its blocks; of stable_diffusion those per level."""
    patch_size: Annotated[int, Between(1, 16)] = 4
    """With `model.init: stable_diffusion_3`: side in pixels of what is one token to it; time falls with its square."""


@dataclass(frozen=True)
class Online:
    """For algorithms that draw pictures, score and compare them, and learn from that, round by round."""

    num_iterations: Count = 1
    """Optimiser steps per round of pictures; nft and online_dpo noise the same pictures anew in each."""
    advantage_std: Literal["group", "global", "none"] = "group"
    """What rewards are divided by after the group's mean was taken off."""
    advantage_clip: Annotated[float, Between(0.01, 1000)] = 5.0
    """Largest advantage."""
    min_spread: Amount = 0.0
    """Groups whose rewards lie no further apart than this are dropped and counted: the noise of the reward."""
    ema_decay: Share = 0.9
    """Of the running average that is measured and saved, per optimiser step; raise it for long runs."""


@dataclass(frozen=True)
class Distill:
    """For `algorithm: distill`: few steps of a student end where many steps of its teacher do, from the same noise."""

    teacher_steps: Count = 40
    """Steps of the teacher, the model as it was loaded; it draws with generation.guidance_scale, the student in
    generation.num_inference_steps without guidance."""
    num_targets: Count = 512
    """Pictures of the teacher, each of a prompt and a seed, drawn once and used again and again; at least
    train.per_device_train_batch_size."""


@dataclass(frozen=True)
class HackingGuard:
    """For generators: notices that a reward is hacked, on prompts and seeds of its own. A limit of null is off; those
    on pictures and velocities depend on the model, so look at what a healthy run measures."""

    every: CountOrZero = 20
    """Optimiser steps between measurements; 0 turns the guard off. One costs as much as drawing num_prompts *
    num_samples pictures in generation.eval_inference_steps."""
    action: Literal["warn", "stop", "rollback"] = "warn"
    """At the first alarm: say so and go on, end with an error, or end training and keep the weights that the held-out
    judge liked best."""
    num_prompts: Count = 8
    """Prompts per measurement, neither trained on nor, where there are enough, among those of the final results."""
    num_samples: Annotated[int, Between(2, 10**4)] = 4
    """Pictures per prompt, always from the same seeds; diversity is measured among them."""
    max_gap: Amount | None = 0.1
    """Alarm `gap`: the trained reward has gained this much more than the held-out judge, each as a share of its start,
    and the judge has gained nothing."""
    max_held_out_drop: Share | None = 0.05
    """Alarm `held_out`: the held-out judge has lost this share of its start, and prompts agree: by chance one
    measurement in twenty would show such a fall."""
    max_velocity_ratio: Annotated[float, Between(1, 100)] | None = 1.15
    """Alarm `velocity`: predicted velocities are this many times as large as the reference's."""
    max_diversity_drop: Share | None = 0.3
    """Alarm `diversity`: pictures of one prompt have lost this share of their spread."""
    max_saturation_rise: Amount | None = 0.1
    """Alarm `saturation`: mean saturation, 0 for grey and 1 for pure colours, has risen by this."""
    max_grid_rise: Amount | None = 0.5
    """Alarm `grid`: a lattice of period 2, 4, 8 or 16 pixels stands out by this much more."""


@dataclass(frozen=True)
class Nft:
    """For `algorithm: nft`: likelihood-free online RL (DiffusionNFT, AWM) of flow models."""

    form: Literal["nft", "awm"] = "nft"
    """The loss; both have one gradient at the behaviour policy."""
    nft_mix: Annotated[float, Between(0.001, 10)] = 1.0
    """How far the implicit policies stand from the behaviour policy; 0.1 is faster and less stable. awm has none."""
    weighting: Literal["uniform", "sigma", "sigma_squared", "adaptive", "ghuber"] = "adaptive"
    """Weight of errors by noise level."""
    ratio_clip: Annotated[float, Between(0, 10)] | None = None
    """awm: clip of its ratio around 1; null does not clip."""
    kl_weight: Amount = 1e-4
    """Weight of the squared distance to the reference's velocity."""
    norm_guard_weight: Amount = 0.0
    """Weight of the square by which velocities outgrow the reference's (NormGuard); growing ones over-saturate."""
    old_decay: Share = 0.5
    """Most that the behaviour policy keeps of itself when it follows the policy after a rollout."""
    old_decay_slope: Amount = 0.001
    """It keeps min(old_decay, this * rollouts so far): at first it is the policy, later it lags behind."""


@dataclass(frozen=True)
class FlowGrpo:
    """For `algorithm: flow_grpo`: GRPO on the random steps of a flow model's sampler."""

    form: Literal["clip", "guard", "dppo"] = "clip"
    """`clip` is PPO's; `guard` first removes the bias of ratios of mean log-probs, and weighs steps alike; `dppo` does
    not clip, but drops what pushes a step further whose divergence has reached divergence_limit."""
    clip_range: Annotated[float, Between(1e-9, 1)] = 1e-4
    """Of ratios around 1. Log-probs are means over dimensions, so it is tiny: 1e-4, with guard 2e-6, for videos 1e-3; a
    small model needs more. dppo does not read it."""
    divergence_limit: Annotated[float, Between(1e-12, 1)] = 1e-5
    """dppo: largest KL of a step from the one drawn, per dimension."""
    sampler: Literal["flow_sde", "dance_sde", "cps"] = "flow_sde"
    """How random steps are made. cps gives clean pictures but not the model's spread, and its log-probs are on another
    scale."""
    eta: Annotated[float, Between(0.001, 10)] = 0.7
    """Strength of the noise: about 0.7 for flow_sde, 0.3 for dance_sde, 0.8 for cps."""
    window: Count | None = None
    """Mix: so many steps are random and trained, all others the ODE's; fewer passes. null: all but the last."""
    window_rounds: Count = 1
    """Rounds until the window moves."""
    window_order: Literal["progressive", "random"] = "random"
    """From the noisiest steps on, or anywhere."""
    kl_weight: Amount = 0.001
    """Weight of the KL of a step from the reference's, per dimension, in nats. Published weights of Flow-GRPO leave out
    the step size: multiply them by |dt|. 0 saves the reference's passes."""


@dataclass(frozen=True)
class Ddpo:
    """For `algorithm: ddpo`: policy gradient on DDIM's random steps, for epsilon models."""

    eta: Annotated[float, Between(0.001, 1)] = 1.0
    """Strength of the noise: 1 is DDPM's, 0 would be deterministic and have no log-probs."""
    clip_range: Annotated[float, Between(1e-9, 1)] = 1e-4
    """Of ratios around 1; log-probs are means over dimensions, so it is tiny."""
    kl_weight: Amount = 0.0
    """Weight of the KL of a step from the reference's (DPOK), per dimension, in nats; 0 saves the reference's
    passes."""
    buffer_size: Annotated[int, Between(2, 10**6)] = 16
    """Rewards remembered per prompt, with which new ones are compared."""
    min_count: Annotated[int, Between(2, 10**6)] = 16
    """A prompt with fewer rewards so far is compared with the whole batch; at most buffer_size."""


@dataclass(frozen=True)
class OnlineDpo:
    """For `algorithm: online_dpo`: pairs of the best and the worst picture of each group, drawn round by round."""

    types: dict[Literal["sigmoid", "hinge", "ipo", "mapo", "kto", "sft"], Amount] = field(
        default_factory=lambda: {"sigmoid": 1.0}
    )
    """Losses on pairs and their weights; `sft` keeps the better picture's likelihood from falling."""
    dpo_beta: Annotated[float, Between(0.001, 1e6)] = 100.0
    """Strength of the pull towards the reference: larger stays closer. Errors are means over dimensions; with sums over
    65,536 of them 5000 would be 0.076."""


@dataclass(frozen=True)
class RewardBackprop:
    """For `algorithm: reward_backprop`: the reward's own gradient, through the last steps of the sampler."""

    form: Literal["draft", "refl"] = "draft"
    """`draft` (DRaFT-K) goes through the last grad_steps steps; `refl` through one step at a random place among them,
    from which it jumps to the picture."""
    grad_steps: Count = 1
    """Steps with a gradient (draft), or steps to choose one from (refl); memory grows with them in draft alone."""
    ceiling: float | None = None
    """Rewards above this teach nothing, max(0, ceiling - reward): without it a reward is pushed as far as it can be
    hacked."""
    kl_weight: Amount = 0.0
    """Weight of the squared distance to the reference's prediction at the steps with a gradient; 0 saves its passes."""


@dataclass(frozen=True)
class ImagePairs:
    """For `algorithm: pairs_image`: a generator's own pictures, ranked by `rewards`, as preference pairs."""

    num_groups: Count = 512
    """Groups of generation.num_generations pictures; each gives one pair, or is marked as a tie. Above the number of
    prompts, some come again with other seeds."""
    min_margin: Amount = 0.0
    """Least difference of a pair's rewards; what is not above it is a tie. In the reward's unit; of several rewards,
    which are normalised first, in standard deviations."""
    rows_per_shard: Count = 64
    """Groups per parquet file: the unit of work and of resuming."""
    batch_size: Count = 64
    """Pictures drawn at once; changes speed and memory."""
    redraw: CountOrZero = 4
    """Pairs drawn again at the end from their rows alone: the proof that seed and sampler give these pictures."""


@dataclass(frozen=True)
class DiffusionDpo:
    """For `algorithm: diffusion_dpo`: offline preference training on the pairs of data.pairs."""

    types: dict[Literal["sigmoid", "hinge", "ipo", "mapo", "sft", "rwr"], Amount] = field(
        default_factory=lambda: {"sigmoid": 1.0}
    )
    """Loss functions and their weights; the loss is the weighted sum. sft is the chosen picture's own error, rwr
    regression on both weighed by exp(reward); sft, rwr and mapo need no reference and save its pass."""
    dpo_beta: Annotated[float, Between(1e-9, 1e9)] = 2000.0
    """Strength for mean errors (published: 2000 to 5000); larger stays closer to the reference. ipo wants far less:
    its target for the margin is 1 / (2 dpo_beta)."""
    reduction: Literal["mean", "sum"] = "mean"
    """Of squared errors over a latent's numbers. With sum the same strength is dpo_beta over their count; the run's
    results say it."""
    noise: Literal["shared", "generation"] = "shared"
    """shared: fresh noise, the same for both pictures (Diffusion-DPO). generation: each picture with the noise it was
    drawn from, which the pairs must know (PNAPO)."""
    pair_weight: Literal["none", "reward_gap"] = "none"
    """reward_gap: a pair counts by its margin, in units of the mean margin."""
    min_margin: Amount = 0.0
    """Pairs whose stored margin is not above this are left out and counted."""
    rwr_temperature: Annotated[float, Between(1e-3, 1e3)] = 1.0
    """Of rwr, in standard deviations of the pairs' rewards: smaller trusts the best alone."""
    resize: bool = False
    """Scale and crop pictures of another size than generation.resolution, as of Pick-a-Pic; false stops at the first
    one."""


@dataclass(frozen=True)
class DiffusionKto:
    """For `algorithm: diffusion_kto`: offline training on thumbs up and down, or on pairs taken as one of each."""

    kto_beta: Annotated[float, Between(1e-9, 1e9)] = 1000.0
    """Strength for mean errors; larger saturates sooner."""
    reduction: Literal["mean", "sum"] = "mean"
    """As in diffusion_dpo."""
    desirable_share: Annotated[float, Between(0.01, 0.99)] = 0.5
    """Share of liked pictures in a batch, whatever it is in the data (published: 0.8)."""
    desirable_weight: Amount = 1.0
    """Weight of liked pictures."""
    undesirable_weight: Amount = 1.0
    """Weight of the others."""
    kl_decay: Share = 0.9
    """What the running estimate of the distance to the reference keeps of itself a step."""
    resize: bool = False
    """As in diffusion_dpo."""
