"""Every key a recipe may hold, with its type, default and meaning; reading is file.py's work. Sections of a single
algorithm, and `train`, are in sections_*.py.

To add a key: one annotated line and the docstring beneath it. Checks, `rlkit help`, overrides and the run folder's
copy follow by themselves. Keys of `train` are named as in transformers' TrainingArguments, keys of `loss` as in TRL,
keys of `lora` as in PEFT.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from rlkit.recipe.marks import ALGORITHM, NEGATIVE, REWARD, Between, Changes, OnDisk
from rlkit.recipe.sections_bootstrap import Bootstrap, BootstrapCaption
from rlkit.recipe.sections_caption import Grpo
from rlkit.recipe.sections_compare import Compare
from rlkit.recipe.sections_data import Feedback, PairMaking
from rlkit.recipe.sections_generator import (
    Ddpo,
    DiffusionDpo,
    DiffusionKto,
    Distill,
    FlowGrpo,
    Generation,
    HackingGuard,
    ImagePairs,
    Nft,
    Online,
    OnlineDpo,
    RewardBackprop,
)
from rlkit.recipe.sections_retain import Retain
from rlkit.recipe.sections_reward import EncoderReward
from rlkit.recipe.sections_rewriter import Rewriter
from rlkit.recipe.sections_train import Train
from rlkit.recipe.units import Amount, Count, CountOrZero, Share

LossName = Literal[
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
    "aot", "aot_unpaired", "discopop", "sft", "sigmoid_norm", "softmax", "plackett_luce",
]  # fmt: skip


@dataclass(frozen=True)
class PlugIn:
    """A named file with options: `order_swap`, `{event_replace: {weight: 2.0}}` or `./mine.py`."""

    name: str
    """As written; for a path the absolute path of the file."""
    weight: Amount = 1.0
    """Share among its siblings: 2.0 is drawn (negatives) or counts (rewards) twice as much as 1.0."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword-only arguments of the entry function, checked against its signature before the run."""


@dataclass(frozen=True)
class Lora:
    """PEFT's LoraConfig, for the language model; the vision tower has `model.vision`."""

    r: Count = 16
    """Rank. Memory and capacity grow with it; keep lora_alpha at r or 2 r when changing it."""
    lora_alpha: Amount = 32.0
    """Scale of the update: it is multiplied by lora_alpha / r."""
    lora_dropout: Share = 0.0
    """Must be 0 where answers share one row: the shared prefix would get one dropout mask for all."""
    target_modules: list[str] | str = "all-linear"
    """Names of the linear layers to adapt, or `all-linear`: those of the language model, never of a shared vision
    tower."""


@dataclass(frozen=True)
class Model:
    """Which model is trained, and which parts of it."""

    id: Annotated[str | None, OnDisk("model")] = None
    """Hub id or local folder of a Hugging Face checkpoint; `runs/sft_caption/final` is an ordinary folder. Give this
    or `init`."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; a commit makes the run reproducible. Quote it if it looks like a number."""
    init: (
        Literal[
            "qwen2_5_vl", "qwen3_vl", "llava_onevision", "convnextv2", "dinov2", "stable_diffusion_3",
            "stable_diffusion",
        ]
        | None
    ) = None  # fmt: skip
    """Family to build in a tiny configuration with fresh weights, its tokenizer trained on the captions, when `id` is
    null. convnextv2 and dinov2 are encoders, for `algorithm: reward` with a `reward:` section; stable_diffusion_3
    (flow) and stable_diffusion (epsilon) are generators, for `algorithm: diffusion_sft`."""
    tower: str | None = None
    """With `init`, a captioner's trained vision tower instead of a fresh one: `world`, which comes with rlkit for
    qwen2_5_vl and frames of 28 pixels, or the folder of a saved captioner of the same sizes."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights in memory. bfloat16 halves memory and needs a GPU that has it; bit-exact resume is promised for
    float32 on CPU."""
    attn_implementation: Literal["sdpa", "flex_attention", "flash_attention_2", "eager"] = "sdpa"
    """sdpa shares rows on any device, flex_attention on CUDA; flash_attention_2 cannot share rows and refuses
    `sharing: on`."""
    vision: Literal["frozen", "lora", "full"] = "frozen"
    """What of the vision tower is trained. Only a frozen tower is run once for policy and reference together."""
    sharing: Literal["auto", "on", "off"] = "auto"
    """One row holds the clip and all its answers. `on` stops the run where it cannot be done; `auto` falls back and
    says why."""
    lora: Lora | None = None
    """null trains all weights of the language model; `{}` trains an adapter with the defaults below."""


@dataclass(frozen=True)
class Noise:
    """How wrong the world's web-like captions are; true captions are not touched."""

    salient_first: Share = 0.8
    """Share of captions that tell what changes its size first, whenever it happened."""
    padding: list[Share] = field(default_factory=lambda: [0.1, 0.3, 0.4, 0.2])
    """padding[n] is the share of captions with n sentences that say nothing about the clip; they add up to 1."""
    invented: Share = 0.1
    """Share of captions with one event that is not in the clip."""


@dataclass(frozen=True)
class Data:
    """Where clips and captions come from, and how clips become frames."""

    source: Literal["world", "folder", "pairs", "gallery"] = "world"
    """`world` renders clips with known events, `folder` reads video files and captions, `pairs` reads a finished
    preference set, `gallery` renders pictures and degrades them, for rewards."""
    folder: Annotated[str | None, OnDisk("folder")] = None
    """Folder of video files, for `source: folder`; for `source: pairs` where their videos lie, if not beside the pairs.
    Clips that do not decode are set aside with their reason; the run goes on. For `algorithm: bootstrap` about ten
    pictures, with or without captions.jsonl; null draws ten of the world's in a look of its own. With `source: gallery`
    photos, see reward.photo_cuts."""
    captions: Annotated[str | None, OnDisk("data")] = None
    """JSONL with `video` and `caption` on each line. Default: captions.jsonl in `folder`. `algorithm: pairs` also takes
    parquet, a Hugging Face data set (local, or its hub id), and rows of TRL, ms-swift, LLaMA-Factory and 2U1."""
    pairs: Annotated[str | None, OnDisk("file or folder")] = None
    """Parquet file or folder with TRL's preference columns, for `source: pairs`. diffusion_dpo and diffusion_kto read
    pictures in Pick-a-Pic's columns, JSON lines too."""
    log: Annotated[str | None, OnDisk("file")] = None
    """For `algorithm: feedback`: parquet or JSON lines with a row per showing: `prompt item click`, and as far as known
    `completion position propensity context conversion conversion_delay time elapsed session`. null simulates one."""
    num_clips: Count = 1000
    """Clips to train on; with `source: folder` at most this many."""
    num_labelled: CountOrZero | None = None
    """How many of them have a true caption; the others carry none. null: all."""
    noise: Noise | None = None
    """World only: null gives true captions, `{}` web-like ones with the default noise."""
    num_events: list[Count] = field(default_factory=lambda: [3, 3])
    """World only: least and greatest number of events in a clip."""
    world_seed: CountOrZero = 0
    """World only: which clips. Independent of `seed`, so that runs with other seeds see the same clips."""
    probe_share: Share = 0.0
    """World only: share of rows that ask a question (colour, shape, count, Chinese) instead of for a caption."""
    frame_size: Count | None = None
    """Height in pixels that frames are scaled to when decoded, width following; null keeps the file's size. The
    processor may scale further."""
    decoder: Literal["av", "torchcodec"] = "av"
    """What decodes clips. torchcodec gives the same frames with the system's FFmpeg, but does not notice damage inside
    a file; av does, and sets the file aside."""
    cache_gib: Amount = 2.0
    """Memory for rows that are tokenised and processed already; what does not fit is processed each time."""
    num_frames: Count | None = 8
    """Frames per clip, spread evenly, true timestamps kept. Vision tokens and time grow with it. Give this or `fps`."""
    fps: Annotated[float, Between(0.001, 1000)] | None = None
    """Frames per second of clip time instead of a fixed number; longer clips then make longer rows."""
    language: Literal["en", "zh"] = "en"
    """Language of the world's captions, and of the sentence splitter where a caption does not say its own."""
    shuffle_frames: bool = False
    """Control run: frames in random order, captions unchanged. What is still learnt did not come from order."""


@dataclass(frozen=True)
class Loss:
    """The preference loss; names and values as in TRL's DPOConfig unless said otherwise."""

    types: dict[LossName, Amount] = field(default_factory=lambda: {"sigmoid": 1.0})
    """Loss functions and their weights; the loss is the weighted sum. `softmax` is one cross-entropy over all K
    negatives."""
    beta: Annotated[float, Between(0, 1000)] = 0.1
    """Strength of the pull towards the reference: larger stays closer. `ipo` and `sigmoid_norm` use token means, so
    their scale differs."""
    label_smoothing: Annotated[float, Between(0, 0.5)] = 0.0
    """Share of pairs assumed to be labelled the wrong way round; as in TRL it acts on robust, exo_pair, aot and
    aot_unpaired alone."""
    ld_alpha: Share | None = None
    """Weight of the tokens beyond the shorter answer's length (LD-DPO), for policy and reference alike; null: 1."""
    discopop_tau: Annotated[float, Between(1e-6, 1e6)] = 0.05
    """Temperature of the discopop loss."""
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """Divergence from the reference; all but reverse_kl are for experiments."""
    f_alpha_divergence_coef: Annotated[float, Between(0, 1000)] = 0.5
    """Alpha of alpha_divergence."""
    average_log_prob: bool = False
    """Mean instead of sum over an answer's tokens: long answers no longer weigh more. Raise beta about tenfold with
    it."""
    anchor: Amount = 0.0
    """Weight of -log sigmoid(beta * (log p - log p_ref)) of the chosen answer (mDPO): keeps its likelihood from
    falling."""
    video_conditional: Amount = 0.0
    """Weight of the term that prefers the chosen caption under its own clip over the same caption under a wrong one."""
    span_weight: Annotated[float, Between(0, 1000)] = 1.0
    """Weight of the tokens inside the edited spans; 1 weighs all tokens alike."""


@dataclass(frozen=True)
class Sampling:
    """The model's own answers, drawn before or during training."""

    num_samples: CountOrZero = 0
    """Samples per clip; 0 draws none. The negative `own_samples` needs at least 1."""
    temperature: Annotated[float, Between(0, 100)] = 1.0
    """0 is greedy; 1 draws from the model's own distribution."""
    top_p: Annotated[float, Between(0.001, 1)] = 1.0
    """Draw only from the smallest set of tokens with this probability."""
    max_completion_length: Count = 64
    """Longest sample, in tokens; longer ones are cut and counted."""
    judge: str | None = None
    """Who says which sample is wrong: `world` (the truth), the folder of a trained judge, the folder of a better
    captioner, which judges by likelihood, or a reward's name or path."""
    judge_margin: Amount = 0.05
    """Least difference of the judge's scores between the chosen sample and a rejected one, in the judge's own unit: the
    world's scores lie in [0, 1], a trained judge's are logits, likelihoods are in nats."""
    gate: Literal["off", "warn", "stop"] = "stop"
    """What to do with a judge whose best sample does not beat the model's greedy caption on labelled held-out clips,
    and with rewards of bootstrap and rewriter whose choice a held-out judge likes no better."""
    gate_clips: Count = 400
    """Labelled clips of the gate; with 400, a gain of about 0.02 opens it."""


@dataclass(frozen=True)
class Evaluate:
    """What is measured before and after training, on held-out clips."""

    num_clips: CountOrZero = 200
    """Held-out clips; 0 skips the evaluation. The interval of a share of n clips is about +-1/sqrt(n)."""
    split: Literal["test", "dev"] = "test"
    """World and gallery: choose settings on `dev` and report on `test`; neither shares a script or a picture with
    training. The gallery's real pictures are scored for `test` alone."""
    controls: list[Literal["blind", "shuffled", "other_clip"]] = field(
        default_factory=lambda: ["blind", "shuffled", "other_clip"]
    )
    """Captions without the clip, with its frames shuffled, with another clip: what is gained here was not seen."""
    control_clips: Count = 100
    """The first of the clips, which the controls are measured on: their accuracy is near 0 or alarming."""
    probe_clips: CountOrZero = 100
    """Clips asked about skills that preference training never saw (colour, count, shape, camera, the other language):
    what was lost. Five questions a clip."""
    max_new_tokens: Count = 64
    """Longest generated caption, in tokens."""
    per_device_eval_batch_size: Count = 16
    """Clips per forward pass; changes speed and memory, not the result."""
    unseen_negatives: list[Annotated[PlugIn, NEGATIVE]] = field(default_factory=list)
    """For `algorithm: reward`: kinds of wrong answers that are measured but not trained on."""
    held_out_rewards: list[Annotated[PlugIn, REWARD]] = field(default_factory=list)
    """For generators: rewards that are measured and not trained on, weighed like `rewards`; what is gained by hacking
    the trained ones is not gained here. For `algorithm: bootstrap_caption` they say which round is best."""
    best_of: CountOrZero = 0
    """For generators: also measure the start where the best of so many pictures, by `rewards`, is taken for each; what
    training is weighed against. 0 leaves it out."""
    compare_with: dict[str, str] = field(default_factory=dict)
    """Finished runs shown beside this one, name -> run folder; they must have measured the same held-out clips."""


@dataclass(frozen=True)
class Guards:
    """Checks inside the loop that notice a run going wrong."""

    every: CountOrZero = 0
    """Optimiser steps between measurements of grounding and order; 0 measures at the end only."""
    num_clips: Count = 32
    """Held-out clips per measurement."""
    displacement: Literal["off", "warn", "stop"] = "warn"
    """What to do when the chosen answer's log-probability falls below its start."""
    time_encoding: Literal["off", "warn", "stop"] = "stop"
    """What to do when the self-test of timestamps and positions fails at the start."""


@dataclass(frozen=True)
class Recipe:
    """One run, completely."""

    algorithm: Annotated[str, ALGORITHM] = ""
    """What to do: the name of a file in rlkit/train, or the path of your own with a function `run(recipe, folder)`."""
    needs: list[str] = field(default_factory=list)
    """Recipes whose finished run this one reads, as paths from this file's folder; those not yet finished are run
    first."""
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0
    """Of weights, data order, corruption and sampling. Same seed, same machine, same numbers."""
    out: str | None = None
    """Run folder; null: runs/<name of this file>. An interrupted run of the same recipe is resumed there."""
    model: Model = field(default_factory=Model)
    """Which model is trained, and which parts of it."""
    data: Data = field(default_factory=Data)
    """Where clips and captions come from, and how clips become frames."""
    negatives: list[Annotated[PlugIn, NEGATIVE]] = field(default_factory=list)
    """How wrong answers are made from true ones: files in data_synth/negatives, your own paths, or `own_samples`."""
    num_negatives: Count = 1
    """Wrong answers per clip (K). All K ride in the same row, so 4 cost little more than 1."""
    loss: Loss = field(default_factory=Loss)
    """The preference loss."""
    sampling: Sampling = field(default_factory=Sampling)
    """The model's own answers."""
    train: Train = field(default_factory=Train)
    """The optimiser and its schedule."""
    variants: dict[str, Annotated[dict[str, Any], Changes()]] = field(default_factory=dict)
    """Further systems trained from the same start, name -> dotted keys with their other values; for controls such as
    `dpo_shuffled: {data.shuffle_frames: true}`."""
    pairs: PairMaking = field(default_factory=PairMaking)
    """For `algorithm: pairs`: how captions become preference pairs."""
    feedback: Feedback = field(default_factory=Feedback)
    """For `algorithm: feedback`: how a log of clicks becomes rewards and pairs."""
    compare: Compare = field(default_factory=Compare)
    """For `algorithm: compare`: the systems and seeds."""
    evaluate: Evaluate = field(default_factory=Evaluate)
    """What is measured on held-out clips."""
    reward: EncoderReward | None = None
    """For `algorithm: reward`: null trains a captioner to judge captions, a section a vision encoder with heads."""
    rewards: list[Annotated[PlugIn, REWARD]] = field(default_factory=list)
    """For generators, `grpo` and `bootstrap_caption`: files in reward_models, your own paths, or `{http: {url: ...}}`,
    with weights. Each is normalised within its group before they are weighed and added."""
    grpo: Grpo = field(default_factory=Grpo)
    """For `algorithm: grpo`."""
    generation: Generation = field(default_factory=Generation)
    """For generators: the prompts, the size of pictures and how they are sampled."""
    online: Online = field(default_factory=Online)
    """For online algorithms of generators: rounds, and how rewards become advantages."""
    nft: Nft = field(default_factory=Nft)
    """For `algorithm: nft`."""
    flow_grpo: FlowGrpo = field(default_factory=FlowGrpo)
    """For `algorithm: flow_grpo`."""
    ddpo: Ddpo = field(default_factory=Ddpo)
    """For `algorithm: ddpo`."""
    online_dpo: OnlineDpo = field(default_factory=OnlineDpo)
    """For `algorithm: online_dpo`."""
    reward_backprop: RewardBackprop = field(default_factory=RewardBackprop)
    """For `algorithm: reward_backprop`."""
    image_pairs: ImagePairs = field(default_factory=ImagePairs)
    """For `algorithm: pairs_image`."""
    diffusion_dpo: DiffusionDpo = field(default_factory=DiffusionDpo)
    """For `algorithm: diffusion_dpo`."""
    diffusion_kto: DiffusionKto = field(default_factory=DiffusionKto)
    """For `algorithm: diffusion_kto`."""
    distill: Distill = field(default_factory=Distill)
    """For `algorithm: distill`."""
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    """For `algorithm: bootstrap`."""
    bootstrap_caption: BootstrapCaption = field(default_factory=BootstrapCaption)
    """For `algorithm: bootstrap_caption`."""
    rewriter: Rewriter = field(default_factory=Rewriter)
    """For `algorithm: rewriter`."""
    retain: Retain | None = None
    """For captioners and generators: null measures the outcome alone, `{}` what was lost as well."""
    guard: HackingGuard = field(default_factory=HackingGuard)
    """For generators: notices inside the loop that a reward is hacked."""
    guards: Guards = field(default_factory=Guards)
    """Of captioners: checks inside the loop."""


NO_DEFAULT = ("algorithm",)
"""Keys every recipe must give."""
