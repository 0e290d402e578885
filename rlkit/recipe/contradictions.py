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
    if recipe.algorithm == "pairs":
        yield from _of_pair_making(recipe)
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
    if recipe.reward.ratings == "ordinal" and recipe.reward.levels < 2:
        yield "reward.levels", "ordinal ratings need the number of grades, at least 2"
    if not recipe.reward.crops and not recipe.reward.whole:
        yield "reward.whole", "neither crops nor the whole: the model would see nothing"


GENERATORS = ("stable_diffusion_3",)
GENERATOR_ALGORITHMS = ("diffusion_sft", "nft")


def _of_generators(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What belongs to generators alone, and what they cannot do."""
    model, train, generation = recipe.model, recipe.train, recipe.generation
    if recipe.algorithm not in GENERATOR_ALGORITHMS:
        if model.init in GENERATORS:
            yield "model.init", f"{model.init} makes pictures; it needs `algorithm: diffusion_sft`"
        return
    if recipe.data.source != "world":
        yield "data.source", f"{recipe.algorithm} draws its pictures or prompts from the world; use world"
    if train.max_steps < 0:
        yield "train.max_steps", f"{recipe.algorithm} has no epochs; give the number of optimiser steps"
    if model.init is not None and model.init not in GENERATORS:
        yield "model.init", f"{model.init} makes no pictures; use {' or '.join(GENERATORS)}, or model.id"
    if model.init is not None and model.lora is not None:
        yield "model.lora", "an adapter on fresh weights would be stored without them; remove it, or give model.id"
    if model.init is not None and (generation.width % 32 or generation.resolution % generation.patch_size):
        yield "generation.width", "width must divide by 32, resolution by patch_size"
    if model.init is not None and generation.width < 3 * generation.patch_size**2:
        yield (
            "generation.patch_size",
            f"a patch holds {3 * generation.patch_size**2} numbers, more than generation.width {generation.width}: a "
            "velocity is mostly noise, which would not fit through; lower patch_size, or raise width",
        )
    if recipe.algorithm == "nft":
        if model.init is not None:
            yield "model.init", "nft starts from a trained generator; give model.id, for example runs/base_flow/final"
        if not recipe.rewards:
            yield "rewards", "none is named, so nothing would be learnt; write for example `rewards: [world_picture]`"
        elif not any(reward.weight for reward in recipe.rewards):
            yield "rewards", "all weights are 0, so nothing would be learnt; give one of them a weight above 0"
        pictures, group = (
            train.per_device_train_batch_size * train.gradient_accumulation_steps,
            generation.num_generations,
        )
        if pictures % group:
            fitting = [n for n in (pictures // group * group, -(-pictures // group) * group) if n]
            yield (
                "generation.num_generations",
                f"a rollout has {pictures} pictures per device (train.per_device_train_batch_size * "
                f"train.gradient_accumulation_steps), which are no whole groups of {group}; the nearest that are: "
                f"{' or '.join(map(str, fitting))}",
            )
