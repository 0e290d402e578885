"""Keys of a generator's recipe that are fine alone but not together; see contradictions.py."""

from __future__ import annotations

from collections.abc import Iterator

from rlkit.recipe.schema import Recipe

GENERATORS = ("stable_diffusion_3", "stable_diffusion")
ONLINE = ("nft", "flow_grpo", "ddpo", "online_dpo")  # they draw groups of pictures and compare them
OFFLINE = ("diffusion_dpo", "diffusion_kto")
GENERATOR_ALGORITHMS = ("diffusion_sft", "pairs_image", "distill", *ONLINE, *OFFLINE, "reward_backprop", "bootstrap")


def of_generators(recipe: Recipe) -> Iterator[tuple[str, str]]:
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
