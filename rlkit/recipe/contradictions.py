"""Keys of a recipe that are fine alone but not together."""

from __future__ import annotations

from collections.abc import Iterator

from rlkit.recipe.schema import Recipe


def contradictions(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Each contradiction of a recipe: (dotted key to blame, sentence)."""
    model, data, train = recipe.model, recipe.data, recipe.train
    if model.id is not None and model.init is not None:
        yield "model.init", "give either model.id or model.init: the first loads weights, the second makes fresh ones"
    if model.tower is not None and model.init is None:
        yield "model.tower", "a loaded model has its own tower; remove it, or give model.init instead of model.id"
    if model.dtype != "float32" and train.bf16:
        yield (
            "train.bf16",
            f"bf16 is mixed precision over float32 weights, but model.dtype is {model.dtype}; drop one of the two",
        )
    if model.lora is not None and model.lora.lora_dropout > 0 and model.sharing == "on":
        yield (
            "model.lora.lora_dropout",
            "the answers of a shared row would get one dropout mask; set it to 0 or model.sharing to off",
        )
    if model.vision == "lora" and model.lora is None:
        yield "model.vision", "lora needs model.lora; add `lora: {}` for the defaults, or set vision to frozen or full"
    if model.vision == "full" and model.lora is not None:
        yield "model.vision", "full beside model.lora; set vision to lora to adapt the tower too, or to frozen"
    if model.attn_implementation == "flash_attention_2" and model.sharing == "on":
        yield "model.sharing", "flash_attention_2 cannot share rows; use sdpa, or flex_attention on CUDA"
    if data.num_frames is not None and data.fps is not None:
        yield "data.fps", "give either num_frames or fps; to use fps write num_frames: null"
    if data.num_frames is None and data.fps is None:
        yield "data.num_frames", "give either num_frames or fps: both are null"
    if data.source == "folder" and data.folder is None:
        yield "data.folder", "source: folder needs the folder with the clips, for example data.folder=clips/"
    if data.source == "pairs" and data.pairs is None:
        yield "data.pairs", "source: pairs needs the parquet file or folder, for example data.pairs=pairs/"
    if data.source != "world" and recipe.sampling.judge == "world":
        yield "sampling.judge", "`world` knows the truth of rendered clips only; name a reward model, or remove it"
    if data.source not in ("world", "gallery") and recipe.evaluate.split != "test":
        yield "evaluate.split", "dev is a split of the world's clips; of your own, every fifth or fewer are held out"
    yield from _of_encoders(recipe)
    yield from _of_generators(recipe)
    if recipe.algorithm == "rewriter":
        yield from _of_rewriter(recipe)
    if recipe.algorithm == "pairs":
        yield from _of_pair_making(recipe)
    if recipe.algorithm == "grpo":
        yield from _of_grpo(recipe)
    if recipe.algorithm == "bootstrap_caption":
        yield from _of_bootstrap_caption(recipe)
    if recipe.feedback.method != "snips" and recipe.feedback.metric in ("conversion_per_click", "continuation"):
        yield (
            "feedback.method",
            f"{recipe.feedback.metric} is measured per click, a ratio, which takes snips; not {recipe.feedback.method}",
        )
    if data.num_labelled is not None and data.num_labelled > data.num_clips:
        yield (
            "data.num_labelled",
            f"{data.num_labelled} labelled clips out of {data.num_clips}: lower it, or raise data.num_clips",
        )
    if any(negative.name == "own_samples" for negative in recipe.negatives) and recipe.sampling.num_samples == 0:
        yield "sampling.num_samples", "the negative own_samples needs sampling.num_samples of at least 1"
    if recipe.negatives and sum(negative.weight for negative in recipe.negatives) <= 0:
        yield "negatives", "all weights are 0, so no negative would ever be drawn; give one of them a weight above 0"
    if recipe.loss.types and not any(recipe.loss.types.values()):
        yield "loss.types", "all weights are 0, so nothing would be learnt; give one of them a weight above 0"
    if not recipe.loss.types:
        yield "loss.types", "no loss is named; write for example `types: {sigmoid: 1.0}`"


def _of_pair_making(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What `algorithm: pairs` cannot do."""
    if recipe.data.captions is None and recipe.data.folder is None:
        yield "data.captions", "pairs are made from captions; give them, for example data.captions=captions.jsonl"
    if not recipe.negatives:
        yield "negatives", "none is named, so no pair could be made; write for example `negatives: [order_swap]`"
    if any(negative.name == "own_samples" for negative in recipe.negatives):
        yield "negatives", "own_samples needs a model, which `algorithm: pairs` has not; `algorithm: dpo` draws them"
    splits = recipe.pairs.splits
    if splits and abs(sum(splits.values()) - 1) > 1e-6:
        yield "pairs.splits", f"the shares add up to {sum(splits.values()):g}; they must add up to 1"


def _of_grpo(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What online RL of captioners cannot do."""
    if recipe.model.init is not None:
        yield "model.init", "grpo starts from a trained captioner; give model.id, for example runs/sft_caption/final"
    if not any(reward.weight for reward in recipe.rewards):
        yield "rewards", "nothing would be learnt: name one with a weight above 0, for example `rewards: [event_order]`"
    if recipe.data.source not in ("world", "folder"):
        yield "data.source", "grpo draws its own captions of clips; set it to world or folder"
    if recipe.sampling.temperature <= 0:
        yield "sampling.temperature", "greedy captions of a clip are all alike, and no group would differ; use 1.0"
    if recipe.sampling.top_p < 1:
        yield (
            "sampling.top_p",
            "log-probs of training are those of all tokens, so captions must be drawn from all of them; set it to 1.0",
        )


def _of_rewriter(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What `algorithm: rewriter` cannot do without."""
    model, settings, train = recipe.model, recipe.rewriter, recipe.train
    if settings.generator is None:
        yield "rewriter.generator", "no generator draws what is rewritten; give one, e.g. runs/base_flow/final"
    if not recipe.rewards or not any(one.weight for one in recipe.rewards):
        yield "rewards", "no reward judges the pictures; write for example `rewards: [world_picture]`"
    if recipe.evaluate.num_clips == 0:
        yield "evaluate.num_clips", "0 leaves no short prompts to measure on; give at least 1"
    if model.init is not None or model.tower is not None:
        yield "model.init", "the rewriter is a language model; give model.id, or neither for a tiny fresh one"
    if "{prompt}" not in settings.instruction:
        yield "rewriter.instruction", "does not say where the short prompt goes; write {prompt} in it"
    if not settings.steps:
        yield (
            "rewriter.steps",
            "no stage is named, so nothing would be learnt; write e.g. `{sft: 300, dpo: 100}`",
        )
    if "sft" in settings.steps and next(iter(settings.steps)) != "sft":
        yield "rewriter.steps", "sft comes first: dpo and grpo start where it ended"
    if missing := [stage for stage in settings.steps if stage not in settings.learning_rates]:
        yield "rewriter.learning_rates", f"has no rate for {missing[0]}"
    if missing := [stage for stage in settings.steps if stage != "sft" and stage not in settings.beta]:
        yield "rewriter.beta", f"has no value for {missing[0]}"
    if "dpo" in settings.steps and (ours := {"softmax", "plackett_luce"} & set(recipe.loss.types)):
        yield (
            "loss.types",
            f"{min(ours)} ranks several answers, but pairs have two; take for example sigmoid",
        )
    own = recipe.generation.prompts is not None and settings.examples is None
    if own and "sft" in settings.steps:
        yield "rewriter.examples", "sft on your own prompts needs full ones for them; give a JSONL file, or drop sft"
    if model.id is None and "sft" not in settings.steps:
        yield "rewriter.steps", "a fresh language model writes noise; begin with sft, or give model.id"
    rows = train.per_device_train_batch_size * train.gradient_accumulation_steps
    if "grpo" in settings.steps and rows % settings.num_rewrites:
        yield (
            "rewriter.num_rewrites",
            f"a step has {rows} rewrites (train.per_device_train_batch_size * train.gradient_accumulation_steps), "
            f"which are no whole groups of {settings.num_rewrites}",
        )


ENCODERS = ("convnextv2", "dinov2")


def _of_encoders(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What belongs to rewards with heads on a vision encoder alone, and what they cannot do."""
    if recipe.reward is None:
        if recipe.model.init in ENCODERS:
            yield "model.init", f"{recipe.model.init} sees and does not speak; it needs a `reward:` section"
        if recipe.data.source == "gallery":
            yield "data.source", "the gallery's pictures have no captions; they train rewards, with a `reward:` section"
        return
    if recipe.algorithm != "reward":
        yield "reward", f"the section is for `algorithm: reward`, not {recipe.algorithm}"
    if recipe.model.init is not None and recipe.model.init not in ENCODERS:
        yield "model.init", f"{recipe.model.init} is no vision encoder; with `reward:` use {' or '.join(ENCODERS)}"
    if recipe.model.init is not None and recipe.model.vision == "lora":
        yield "model.vision", "an adapter is stored without its base, and fresh weights are stored nowhere; use full"
    if recipe.data.source not in ("gallery", "folder"):
        yield "data.source", "labels come from the gallery, or from a folder: set it to gallery or folder"
    if recipe.reward.photo_cuts and recipe.data.source != "gallery":
        yield "reward.photo_cuts", "photos are cut and degraded beside rendered pictures; set data.source to gallery"
    if recipe.data.source == "gallery" and recipe.data.folder is not None and not recipe.reward.photo_cuts:
        yield "data.folder", "its photos would not be used; set reward.photo_cuts to, say, 40"
    if recipe.reward.ratings == "ordinal" and recipe.reward.levels < 2:
        yield "reward.levels", "ordinal ratings need the number of grades, at least 2"
    if not recipe.reward.crops and not recipe.reward.whole:
        yield "reward.whole", "neither crops nor the whole: the model would see nothing"


GENERATORS = ("stable_diffusion_3", "stable_diffusion")
ONLINE = ("nft", "flow_grpo", "ddpo", "online_dpo")  # they draw groups of pictures and compare them
OFFLINE = ("diffusion_dpo", "diffusion_kto")
GENERATOR_ALGORITHMS = ("diffusion_sft", "pairs_image", "distill", *ONLINE, *OFFLINE, "reward_backprop", "bootstrap")


def _of_generators(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What belongs to generators alone, and what they cannot do."""
    model, train = recipe.model, recipe.train
    if recipe.algorithm not in GENERATOR_ALGORITHMS:
        if model.init in GENERATORS:
            yield "model.init", f"{model.init} makes pictures; it needs `algorithm: diffusion_sft`"
        return
    if recipe.algorithm in OFFLINE and recipe.data.source != "pairs":
        yield "data.source", f"{recipe.algorithm} reads pairs; set it to pairs and data.pairs to, say, runs/pairs_image"
    if recipe.algorithm == "bootstrap":
        yield from _of_bootstrap(recipe)
    elif recipe.algorithm not in OFFLINE and recipe.data.source != "world":
        yield "data.source", f"{recipe.algorithm} draws its pictures or prompts from the world; use world"
    if recipe.algorithm == "pairs_image":
        yield from _of_picture_pairs(recipe)
        return
    if train.max_steps < 0:
        yield "train.max_steps", f"{recipe.algorithm} has no epochs; give the number of optimiser steps"
    if model.init is not None and model.init not in GENERATORS:
        yield "model.init", f"{model.init} makes no pictures; use {' or '.join(GENERATORS)}, or model.id"
    if model.init is not None and model.lora is not None:
        yield "model.lora", "an adapter on fresh weights would be stored without them; remove it, or give model.id"
    yield from _of_fresh_generators(recipe)
    if recipe.algorithm == "distill":
        if model.init is not None:
            yield "model.init", "distill starts from a trained generator; give model.id, say runs/base_flow/final"
        if recipe.distill.num_targets < train.per_device_train_batch_size:
            yield (
                "distill.num_targets",
                f"{recipe.distill.num_targets} targets make no batch of {train.per_device_train_batch_size} "
                "(train.per_device_train_batch_size)",
            )
    if recipe.guard.action == "rollback" and not recipe.evaluate.held_out_rewards:
        yield "guard.action", "a rollback goes to what a held-out judge likes best; name one: evaluate.held_out_rewards"
    if recipe.algorithm in OFFLINE:
        yield from _of_offline(recipe)
    if recipe.algorithm in (*ONLINE, "reward_backprop"):
        yield from _of_rewarded(recipe)
    if recipe.algorithm in ONLINE:
        yield from _of_rounds(recipe)


def _of_fresh_generators(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Sizes that no denoiser can have."""
    model, generation = recipe.model, recipe.generation
    if model.init == "stable_diffusion" and (generation.width % 32 or generation.resolution % 4):
        yield "generation.width", "width must divide by 32, resolution by 4: the UNet halves it twice"
    if model.init != "stable_diffusion_3":
        return
    if generation.width % 32 or generation.resolution % generation.patch_size:
        yield "generation.width", "width must divide by 32, resolution by patch_size"
    if generation.width < 3 * generation.patch_size**2:
        yield (
            "generation.patch_size",
            f"a patch holds {3 * generation.patch_size**2} numbers, more than generation.width {generation.width}: a "
            "velocity is mostly noise, which would not fit through; lower patch_size, or raise width",
        )


def _of_rewarded(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What RL of generators cannot do without, and guidance where it would be wrong."""
    name, generation = recipe.algorithm, recipe.generation
    if recipe.model.init is not None:
        yield "model.init", f"{name} starts from a trained generator; give model.id, for example runs/base_flow/final"
    if not recipe.rewards:
        yield "rewards", "none is named, so nothing would be learnt; write for example `rewards: [world_picture]`"
    elif not any(reward.weight for reward in recipe.rewards):
        yield "rewards", "all weights are 0, so nothing would be learnt; give one of them a weight above 0"
    if name == "reward_backprop" and recipe.reward_backprop.grad_steps > generation.num_inference_steps:
        yield (
            "reward_backprop.grad_steps",
            f"{recipe.reward_backprop.grad_steps} steps with a gradient, but the sampler takes "
            f"{generation.num_inference_steps} (generation.num_inference_steps); lower it to at most that",
        )
    guided = generation.rollout_guidance_scale > 1
    if guided and name in ("nft", "reward_backprop"):
        yield (
            "generation.rollout_guidance_scale",
            f"{name} trains the prediction without guidance, so pictures must be drawn without it too; set it to 1 "
            "(generation.guidance_scale, for measuring, may differ)",
        )
    if guided and name in ("flow_grpo", "ddpo") and recipe.online.num_iterations > 1:
        yield (
            "online.num_iterations",
            f"{name} with guidance in rollout and training takes one optimiser step a round, for guidance multiplies "
            "what a step changes; set it to 1, or generation.rollout_guidance_scale to 1",
        )


def _of_rounds(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Rounds that are no whole groups, and steps that have no log-prob."""
    train, generation = recipe.train, recipe.generation
    pictures, group = train.per_device_train_batch_size * train.gradient_accumulation_steps, generation.num_generations
    if pictures % group:
        fitting = [n for n in (pictures // group * group, -(-pictures // group) * group) if n]
        yield (
            "generation.num_generations",
            f"a rollout has {pictures} pictures per device (train.per_device_train_batch_size * "
            f"train.gradient_accumulation_steps), which are no whole groups of {group}; the nearest that are: "
            f"{' or '.join(map(str, fitting))}",
        )
    random, window = generation.num_inference_steps - 1, recipe.flow_grpo.window
    if recipe.algorithm in ("flow_grpo", "ddpo") and random < 1:
        yield (
            "generation.num_inference_steps",
            f"{recipe.algorithm} trains every step but the last, of which there is none; use at least 2, better 10",
        )
    if recipe.algorithm == "flow_grpo" and window is not None and window > random:
        yield (
            "flow_grpo.window",
            f"a window of {window} steps does not fit into the {random} that can be random "
            f"(generation.num_inference_steps - 1); the widest that does: {random}",
        )
    if recipe.algorithm == "ddpo" and recipe.ddpo.min_count > recipe.ddpo.buffer_size:
        yield "ddpo.min_count", f"{recipe.ddpo.min_count} rewards are never remembered; lower it to buffer_size"
    if recipe.algorithm == "online_dpo" and not any(recipe.online_dpo.types.values()):
        yield "online_dpo.types", "no loss has a weight above 0; write for example `types: {sigmoid: 1.0}`"


def _of_picture_pairs(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What `algorithm: pairs_image` cannot do without."""
    if recipe.model.id is None or recipe.model.init is not None or recipe.model.lora is not None:
        yield (
            "model",
            "pairs are drawn from a trained generator as it is; give model.id alone, e.g. runs/base_flow/final",
        )
    if not any(reward.weight for reward in recipe.rewards):
        yield "rewards", "nothing ranks the pictures; write for example `rewards: [world_picture]`"


def _of_offline(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What offline training of generators cannot do."""
    if recipe.model.id is None:
        yield (
            "model.id",
            f"{recipe.algorithm} starts from a trained generator; give it, for example runs/base_flow/final",
        )
    if recipe.evaluate.best_of and not recipe.rewards:
        yield "evaluate.best_of", "the best of several pictures is taken by `rewards`, and none is named"
    types, section = recipe.diffusion_dpo.types, "diffusion_dpo"
    if recipe.algorithm == "diffusion_dpo" and not any(types.values()):
        yield f"{section}.types", "no loss has a weight above 0; write for example `types: {sigmoid: 1.0}`"
    if recipe.algorithm == "diffusion_dpo" and types.get("mapo") and recipe.diffusion_dpo.reduction == "sum":
        yield f"{section}.reduction", "mapo needs mean errors: with sums its odds are 0; set it to mean"
    if recipe.algorithm == "diffusion_kto":
        size = recipe.train.per_device_train_batch_size
        liked = round(size * recipe.diffusion_kto.desirable_share)
        if not 0 < liked < size:
            yield (
                "diffusion_kto.desirable_share",
                f"of {size} pictures (train.per_device_train_batch_size) {liked} would be liked; both kinds must be in "
                "a batch: raise the batch, or move the share towards 0.5",
            )


def _of_bootstrap(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What `algorithm: bootstrap` cannot do without."""
    model, own = recipe.model, recipe.bootstrap
    if recipe.data.source not in ("world", "folder"):
        yield (
            "data.source",
            "bootstrap learns from a few pictures: world draws ten, data.folder=ten_pictures/ has yours",
        )
    if model.id is None or model.lora is None:
        yield "model.lora", "bootstrap trains a LoRA of a trained generator; give model.id, and `lora: {}` for defaults"
    if not own.likeness_weight and not any(reward.weight for reward in recipe.rewards):
        yield "rewards", "nothing ranks the samples; name a reward, or give bootstrap.likeness_weight above 0"
    if not own.likeness_weight and not recipe.evaluate.held_out_rewards:
        yield "evaluate.held_out_rewards", "without the likeness none tells which round was best; name one"
    if not own.num_class_images:
        yield "bootstrap.num_class_images", "the judge tells originals from these; give at least 8, better 64"
    if not recipe.evaluate.num_clips:
        yield "evaluate.num_clips", "0 held-out prompts leave nothing to measure; give evaluate.num_clips"
    if not recipe.guard.every:
        yield "guard.every", "its prompts tell which round was best; leave it above 0 (bootstrap looks once a round)"
    if recipe.generation.num_frames > 1:
        yield "generation.num_frames", "bootstrap learns from pictures; set it to 1"
    if own.num_samples * own.keep_share < 1:
        yield "bootstrap.keep_share", f"of {own.num_samples} samples none would be kept; raise keep_share"
    if len(set(own.seeds)) < len(own.seeds):
        yield "bootstrap.seeds", f"{own.seeds} names a seed twice"


def _of_bootstrap_caption(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What `algorithm: bootstrap_caption` cannot do without."""
    data, own, sampling = recipe.data, recipe.bootstrap_caption, recipe.sampling
    if data.source not in ("world", "folder"):
        yield "data.source", "bootstrap_caption draws captions of clips; set it to world or folder"
    if recipe.model.id is None:
        yield "model.id", "bootstrap_caption starts from a captioner; give it, for example runs/base_caption/final"
    if not data.num_labelled or data.num_labelled >= data.num_clips:
        yield (
            "data.num_labelled",
            f"of {data.num_clips} clips (data.num_clips) some must have a corrected caption and some none; set it to, "
            "say, 10",
        )
    rewarded = any(reward.weight for reward in recipe.rewards)
    if (sampling.judge is None) != rewarded:
        yield "sampling.judge", "captions are chosen by sampling.judge or by `rewards`; give one of the two"
    if sampling.num_samples < 1 or sampling.temperature <= 0:
        yield (
            "sampling.num_samples",
            "captions are drawn to choose from: give at least 1, better 4, and sampling.temperature above 0",
        )
    if recipe.train.max_steps < 0:
        yield "train.max_steps", "bootstrap_caption has no epochs; give the number of optimiser steps of a round"
    if not recipe.evaluate.num_clips:
        yield "evaluate.num_clips", "0 held-out clips leave nothing to measure; give evaluate.num_clips"
    if len(set(own.seeds)) < len(own.seeds):
        yield "bootstrap_caption.seeds", f"{own.seeds} names a seed twice"
    if recipe.variants:
        yield "variants", "bootstrap_caption runs systems of its own; compare two of its runs with `algorithm: compare`"
