"""Keys of a recipe that are fine alone but not together."""

from __future__ import annotations

from collections.abc import Iterator

from rlkit.recipe.contradictions_generators import GENERATOR_ALGORITHMS, of_generators
from rlkit.recipe.schema import Recipe


def contradictions(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Each contradiction of a recipe: (dotted key to blame, sentence)."""
    data = recipe.data
    yield from _of_model(recipe)
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
    if recipe.retain is not None:
        yield from _of_retention(recipe)
    yield from _of_encoders(recipe)
    yield from of_generators(recipe)
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


def _of_model(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What a model cannot be, or cannot be trained as."""
    model, train = recipe.model, recipe.train
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


CAPTIONERS = ("sft", "dpo", "grpo", "bootstrap_caption")
UNRETAINED = ("diffusion_sft", "pairs_image", "bootstrap")
"""They train nothing, start from nothing, or measure what is kept by themselves (bootstrap.num_class_images)."""


def _of_retention(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What cannot be kept, or not measured."""
    retain, model = recipe.retain, recipe.model
    captioner = recipe.algorithm in CAPTIONERS
    if not captioner and (recipe.algorithm not in GENERATOR_ALGORITHMS or recipe.algorithm in UNRETAINED):
        yield (
            "retain",
            f"{recipe.algorithm} does not measure it; captioners ({', '.join(CAPTIONERS)}) and generators do",
        )
        return
    if model.init is not None:
        yield "retain", f"a fresh {model.init} knows nothing yet that it could lose; remove it, or give model.id"
    if retain.probes is None and not captioner:
        yield (
            "retain.probes",
            "generators need a file with a prompt on each line, for example retain.probes=prompts.txt",
        )
    if retain.probes is None and captioner and recipe.data.source != "world":
        yield "retain.probes", "only the world has questions of its own; give JSON lines of video, question and answer"
    if retain.probes is None and captioner and not (recipe.evaluate.num_clips and recipe.evaluate.probe_clips):
        yield (
            "retain.probes",
            "the world's questions are about held-out clips; raise evaluate.num_clips and probe_clips",
        )
    if retain.replay_weight and recipe.algorithm == "distill":
        yield (
            "retain.replay_weight",
            "distill learns from its teacher's own pictures, which hold it already; set it to 0",
        )
    if retain.replay_weight and not captioner and recipe.generation.num_frames > 1:
        yield "retain.replay_weight", "only pictures are replayed; set it to 0, or generation.num_frames to 1"
    if retain.replay_weight and captioner and retain.replay is None and recipe.data.source != "world":
        yield "retain.replay", "only the world has questions of its own; give JSON lines of video, question and answer"
    if not retain.adapter_scales:
        yield "retain.adapter_scales", "names no scale; [1.0] is the adapter as it was trained"
    if len(set(retain.adapter_scales)) < len(retain.adapter_scales):
        yield "retain.adapter_scales", f"{retain.adapter_scales} names a scale twice"
    if retain.adapter_scales != [1.0] and model.lora is None:
        yield "retain.adapter_scales", "scales an adapter, and none is trained; add `lora: {}` to `model:`"


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
    if recipe.grpo.use_vllm and recipe.model.vision == "lora":
        yield (
            "model.vision",
            "vLLM is handed adapters of the language model alone; set it to frozen, or drop use_vllm",
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
        yield "data.folder", "its photos would not be used; set reward.photo_cuts to, say, 8"
    if recipe.reward.ratings == "ordinal" and recipe.reward.levels < 2:
        yield "reward.levels", "ordinal ratings need the number of grades, at least 2"
    if not recipe.reward.crops and not recipe.reward.whole:
        yield "reward.whole", "neither crops nor the whole: the model would see nothing"


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
    if recipe.retain is not None and recipe.retain.adapter_scales != [1.0]:
        yield "retain.adapter_scales", "every round would scale what the one before has scaled; leave it at [1.0]"
    if recipe.variants:
        yield "variants", "bootstrap_caption runs systems of its own; compare two of its runs with `algorithm: compare`"
