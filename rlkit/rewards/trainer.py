"""Trains a vision encoder with heads: transformers' own loop around rlkit/rewards/loss.py, one row being a group.

Checked against transformers 5.23. Overrides: the batches, the counts that accumulation divides by, the loss, and
loading a checkpoint (whole and strictly).
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from reward_models.vision.encoder import HEADS, Spec, VisionReward, backbone_of, stored_spec
from reward_models.vision.heads import OVERALL, Outputs
from reward_models.vision.views import ViewPlan, Views
from rlkit.errors import ModelError, RecipeError
from rlkit.models import tiny_encoder
from rlkit.recipe import EncoderReward, Model, Recipe
from rlkit.rewards import loss
from rlkit.rewards.dataset import EpochBatches, Featured, Groups
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker
from rlkit.running.training import (
    MarkCheckpoints,
    RecipeTrainer,
    StopWhenAsked,
    fit,
    optimizer,
    training_arguments,
)

STANDARDISE_ON = 64  # groups


class RewardTrainer(RecipeTrainer):
    """The step's loss is each term's mean over the labels of the whole accumulated batch, over all processes."""

    def __init__(self, model: nn.Module, recipe: Recipe, examples: Groups | Featured, **arguments: Any) -> None:
        super().__init__(model=model, train_dataset=examples, **arguments)
        self.recipe, self.settings = recipe, recipe.reward
        self.loss_is_scaled_for_ga = True

    def get_train_dataloader(self) -> DataLoader:
        """The same batches for every number of workers and after a resume."""
        args, examples = self.args, self.train_dataset
        batches = EpochBatches(
            len(examples),
            self._train_batch_size,
            lambda index: 0,
            seed=self.recipe.seed,
            accumulation=args.gradient_accumulation_steps,
            rank=args.process_index,
            ranks=args.world_size,
        )
        loader = DataLoader(
            examples,
            batch_sampler=batches,
            collate_fn=examples.collator,
            num_workers=args.dataloader_num_workers,
            persistent_workers=args.dataloader_num_workers > 0,
        )
        return prepare_data_loader(loader, args.device, num_processes=1, process_index=0, put_on_device=True)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Labels of every term in the whole step, over all processes."""
        found = torch.stack([loss.counts(batch) for batch in batch_samples]).sum(0).to(device)
        return self.accelerator.reduce(found, "sum") if self.args.world_size > 1 else found

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sum over this batch's labels over the labels of the whole step; times ranks, since DDP averages gradients."""
        judged = model(**{name: inputs[name] for name in self.train_dataset.inputs})
        found = loss.terms(judged, inputs, self.settings)
        here = loss.counts(inputs)
        total = loss.everything(judged) * 0  # engines that share weights out want a gradient of each, on every process
        for number, name in enumerate(loss.TERMS):
            share = float(here[number]) / max(float(num_items_in_batch[number]), 1.0)
            total = total + self.settings.terms.get(name, 0.0) * share * found[name]
            if here[number]:
                self.note(f"loss/{name}", float(found[name].detach()), float(here[number]))
        self._note_pairs(judged, inputs)
        total = total * self.args.world_size
        return (total, {}) if return_outputs else total

    def _note_pairs(self, judged, inputs) -> None:
        """TRL's words for pairs: the margin, and how often it has the right sign."""
        better, worse, attribute = inputs["pair"][~inputs["tie"]].unbind(1)
        if len(better):
            scores = judged.scores.detach()
            margin = scores[better, attribute] - scores[worse, attribute]
            self.note("rewards/margins", float(margin.mean()), len(margin))
            self.note("rewards/accuracies", float((margin > 0).float().mean()), len(margin))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        stored = load_file(Path(resume_from_checkpoint) / "model.safetensors")
        (self.model if model is None else model).load_state_dict(stored, strict=True)


def spec_of(settings: EncoderReward) -> Spec:
    """The recipe's `reward:` section as the model keeps it. Raises ModelError for values that do not go together."""
    try:
        outputs = Outputs(
            (OVERALL, *settings.attributes),
            tuple(settings.vetoes),
            settings.bins,
            settings.levels if settings.ratings == "ordinal" else 0,
            tuple(settings.experts),
            settings.hidden,
        )
        plan = ViewPlan(settings.crops, settings.whole)
    except ValueError as error:
        raise ModelError(f"reward: {error}") from error
    return Spec(outputs, plan, settings.features, settings.measures, settings.pooling)


def load(model: Model, settings: EncoderReward, *, frames: int | None = 8, seed: int = 0) -> VisionReward:
    """What the recipe's `model:` and `reward:` sections ask for, with fresh heads, or those of a trained reward.

    `vision` frozen trains the heads alone, lora an adapter with them, full everything. Raises ModelError for a model
    that is no vision encoder.
    """
    from transformers import AutoImageProcessor

    spec = spec_of(settings)
    if frames is not None:
        spec = replace(spec, views=replace(spec.views, frames=frames))
    try:
        if model.id is None:
            if model.init not in tiny_encoder.FAMILIES:
                raise ModelError(f"model.init is {model.init}; encoders are {', '.join(tiny_encoder.FAMILIES)}.")
            backbone, processor = tiny_encoder.build(model.init, window=settings.window, seed=seed)
        else:
            backbone = backbone_of(model.id, revision=model.revision)
            revision = {} if model.revision is None else {"revision": model.revision}
            processor = AutoImageProcessor.from_pretrained(model.id, **revision)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"model.id {model.id!r} cannot be loaded as a vision encoder: {first}") from error
    backbone.requires_grad_(model.vision == "full")
    if model.vision == "lora":
        backbone = with_lora(backbone, model)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            reward = VisionReward(backbone, Views(processor, spec.views), spec)
    except ValueError as error:
        raise ModelError(f"model: {error}") from error
    if goes_on(model):
        _take_heads(reward, Path(model.id))
    return reward.to(ranks.device(), getattr(torch, model.dtype))


def goes_on(model: Model) -> bool:
    """Whether model.id is a trained reward, whose heads are trained on."""
    return model.id is not None and (Path(model.id) / HEADS).is_file()


def _take_heads(reward: VisionReward, folder: Path) -> None:
    """Raises ModelError where the recipe's `reward:` section is another than the one they were trained for."""
    stored, spec = stored_spec(folder), reward.spec
    parts = (("outputs", stored.outputs, spec.outputs), ("features", stored.features, spec.features))
    for name, found, wanted in (*parts, ("pooling", stored.pooling, spec.pooling)):
        if found != wanted:
            raise ModelError(
                f"model.id {folder} was trained with {name} {found}; the recipe's `reward:` says {wanted}."
            )
    try:
        reward.load_heads(folder)
    except ValueError as error:
        raise ModelError(f"model.id: {error}") from error


def with_lora(backbone: nn.Module, model: Model) -> nn.Module:
    """The encoder in PEFT; `all-linear` are all its linear layers. Raises ModelError for names it does not have."""
    from peft import LoraConfig, get_peft_model

    lora = model.lora
    config = LoraConfig(
        r=lora.r, lora_alpha=lora.lora_alpha, lora_dropout=lora.lora_dropout, target_modules=lora.target_modules
    )
    try:
        return get_peft_model(backbone, config)
    except ValueError as error:
        raise ModelError(f"model.lora: {error}") from error


@torch.no_grad()
def standardise(reward: VisionReward, examples: Groups | Featured) -> None:
    """Let the heads see features of mean 0 and deviation 1 over some groups of all parts; a checkpoint brings its
    own."""
    reward.eval()
    some = range(0, len(examples), -(-len(examples) // STANDARDISE_ON))
    if isinstance(examples, Featured):
        found = [examples.features[index][0] for index in some]
    else:
        found = [pooled(reward, examples, index)[0] for index in some]
    reward.heads.standardise(torch.cat(found).to(ranks.device()))


def pooled(reward: VisionReward, examples: Groups, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The features of a group's items, and of their regions; on the CPU."""
    batch = examples.collator([examples[index, 0]])
    shown = [batch[name].to(ranks.device()) for name in ("pixel_values", "view", "time")]
    features, region = reward.pooled(shown[0].to(next(reward.parameters()).dtype), *shown[1:])
    return features.cpu(), region.cpu()


def frozen(reward: VisionReward) -> bool:
    """Whether nothing but the heads is trained."""
    return not any(p.requires_grad for part in (reward.backbone, reward.pool) for p in part.parameters())


@torch.no_grad()
def featured(reward: VisionReward, examples: Groups, progress: Progress) -> Featured:
    """The examples as features: what does not change is computed once. Processes share the work."""
    reward.eval()
    progress.stage(f"features of {len(examples):,} groups", total=len(examples))

    def some(part: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found = []
        for index in part:
            found.append(pooled(reward, examples, index))
            progress.advance()
        return found

    return Featured(examples.groups, ranks.spread(some, list(range(len(examples)))), reward.spec.outputs)


def train(
    reward: VisionReward,
    recipe: Recipe,
    examples: Groups | Featured,
    folder: RunFolder,
    tracker: Tracker,
    progress: Progress,
    *,
    stage: str,
) -> float:
    """Train, resuming from the folder's last whole checkpoint; returns the seconds it took. On Featured examples the
    heads alone are trained; they come out whole on every process. Raises RecipeError for an encoder that is trained
    under DeepSpeed or FSDP."""
    if ranks.sharded() and not isinstance(examples, Featured):
        raise RecipeError(
            "an encoder that is trained needs whole weights, but this launch shares them out (DeepSpeed or FSDP); use "
            "accelerate_configs/ddp.yaml or single.yaml, or train the heads alone with model.vision=frozen"
        )
    model = reward.heads if isinstance(examples, Featured) else reward
    whole = copy.deepcopy(reward.heads) if ranks.sharded() else None
    trainer = RewardTrainer(
        model,
        recipe,
        examples,
        args=training_arguments(recipe, folder),
        callbacks=[MarkCheckpoints(folder, recipe.train.save_total_limit), StopWhenAsked()],
        optimizers=(optimizer(model, recipe), None),
    )
    seconds = fit(trainer, recipe, len(examples), folder, tracker, progress, stage=stage)
    if whole is not None:
        whole.load_state_dict(ranks.gathered(trainer.whole_weights())[0])
        reward.heads = whole
        trainer.accelerator.free_memory()
        unset_hf_deepspeed_config()  # else transformers would share out what is loaded next (ZeRO-3)
    reward.eval()
    return seconds
