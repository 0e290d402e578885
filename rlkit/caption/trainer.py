"""One trainer for captioners: transformers' own loop around a loss on the log-probs of one-row batches.

Checked against transformers 5.23. Overrides: the loss, the batches (length-grouped), the count that accumulation
divides by, and loading a checkpoint (see there).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader
from transformers import PreTrainedModel, TrainerCallback
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from rlkit import losses, models
from rlkit.caption import one_row, rows
from rlkit.caption.dataset import Examples, LengthGroupedBatches
from rlkit.caption.retain import Replay
from rlkit.errors import RecipeError
from rlkit.models import Captioner, adapter_scale
from rlkit.recipe import Recipe
from rlkit.running import ranks, sharding
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

Loss = Callable[["CaptionTrainer", nn.Module, dict[str, Tensor], Tensor], tuple[Tensor, Mapping[str, Tensor]]]
"""(trainer, model, batch, counts) -> loss of each clip [B] and metrics; counts = [clips, chosen tokens] of the step."""


class CaptionTrainer(RecipeTrainer):
    """`loss_of` gives one value per clip; the step's loss is their mean over the whole accumulated batch."""

    steps_per_row = 1
    """Optimiser steps that a row serves in a pass over the data."""

    def __init__(
        self, captioner: Captioner, loss_of: Loss, recipe: Recipe, examples: Examples, **arguments: Any
    ) -> None:
        super().__init__(
            model=captioner.model, train_dataset=examples, processing_class=captioner.processor, **arguments
        )
        self.captioner, self.loss_of, self.recipe = captioner, loss_of, recipe
        self.replay: Replay | None = None
        self.loss_is_scaled_for_ga = True

    def get_train_dataloader(self) -> DataLoader:
        """Batches of like length; the same ones for every number of workers and after a resume."""
        return self.loader(self.batches(), Collator(self.captioner.processor.tokenizer.pad_token_id))

    def batches(self) -> LengthGroupedBatches:
        """This process's batches of row numbers."""
        examples = self.train_dataset
        args = self.args
        return LengthGroupedBatches(
            len(examples),
            self._train_batch_size,
            examples.length,
            seed=self.recipe.seed,
            accumulation=args.gradient_accumulation_steps,
            rank=args.process_index,
            ranks=args.world_size,
        )

    def loader(self, batches: BatchSampler, collate: Callable[[list[rows.Example]], Any]) -> DataLoader:
        """The rows of `batches`, encoded, as `collate` puts them together."""
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        # The batches are shared out already; accelerate would lose the last, smaller ones.
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside, weights that processes hold in parts are whole on each, which may then call the model, without
        gradients, as often as it likes."""
        if self.is_deepspeed_enabled:
            from trl.models.utils import unwrap_model_for_generation

            with unwrap_model_for_generation(self.model_wrapped, self.accelerator):
                yield
        else:
            with sharding.gathered(self.model):
                yield

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """[clips, chosen tokens] of the whole step, over all ranks."""
        clips = sum(len(batch["index"]) for batch in batch_samples)
        tokens = sum(int(batch["target_mask"][:, 0].sum()) for batch in batch_samples)
        counts = torch.tensor([clips, tokens], dtype=torch.float64, device=device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, "sum")
        return counts

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sum over this batch's clips over the clips of the whole step; times ranks, since DDP averages gradients."""
        losses, metrics = self.loss_of(self, model, inputs, num_items_in_batch)
        for name, value in metrics.items():
            self.note(name, float(value))
        self.note("sharing_ratio", one_row.check_sharing(self.captioner, inputs, self.recipe.model.sharing))
        loss = losses.sum() / num_items_in_batch[0].float() * self.args.world_size
        if self.replay is not None:
            loss = loss + self.replay.loss(self, model)
        return (loss, {}) if return_outputs else loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load whole weights under the model's own names, before an engine shares them out.

        save_pretrained writes the published names (`visual.blocks...`) and transformers 5.23's own loading looks for
        the module names (`model.visual.blocks...`) without being strict: it resumes from fresh weights and only warns.
        """
        model = self.model if model is None else model
        unset_hf_deepspeed_config()  # else transformers would share the weights out while it reads them (ZeRO-3)
        load_weights(model, Path(resume_from_checkpoint))
        if self.is_deepspeed_enabled:
            set_hf_deepspeed_config(self.accelerator.state.deepspeed_plugin.hf_ds_config)


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Put the weights of a checkpoint, or of a final/, into a model of its kind that no engine has shared out yet."""
    if not isinstance(model, PreTrainedModel):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(checkpoint / "adapter_model.safetensors"))
        return
    stored = type(model).from_pretrained(checkpoint, dtype=model.dtype)
    model.load_state_dict(stored.state_dict(), strict=True)


def nll(
    trainer: CaptionTrainer, model: nn.Module, batch: dict[str, Tensor], counts: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of the chosen answer per clip; their mean over the step is the mean over its tokens."""
    log_probs, mask = one_row.log_probs(trainer.captioner, batch, model=model)
    tokens_per_clip = counts[1] / counts[0]
    loss = losses.sft(log_probs[:, 0], mask[:, 0], num_items_in_batch=float(tokens_per_clip))
    chosen = log_probs[:, 0].detach().sum(-1)
    return loss, {"logps/chosen": chosen.mean()}


class Collator:
    """rows.collate with the tokenizer's padding; a class so that worker processes can be spawned."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, examples: list[rows.Example]) -> dict[str, Tensor]:
        return rows.collate(examples, pad_token_id=self.pad_token_id)


def train(
    captioner: Captioner,
    loss_of: Loss,
    recipe: Recipe,
    examples: Examples,
    folder: RunFolder,
    tracker: Tracker,
    progress: Progress,
    *,
    stage: str,
    callbacks: list[TrainerCallback] | None = None,
    build: Callable[..., CaptionTrainer] = CaptionTrainer,
    replay: Replay | None = None,
) -> float:
    """Train, resuming from the folder's last whole checkpoint, and save to the folder's final/; returns the seconds it
    took. `build` makes the trainer, called as CaptionTrainer is. The captioner comes out whole on every process, ready
    to be measured, however its weights were shared out. An adapter is saved at the first of retain.adapter_scales;
    raises RecipeError for scales where weights are shared out."""
    trainer = build(
        captioner,
        loss_of,
        recipe,
        examples,
        args=training_arguments(recipe, folder),
        callbacks=[MarkCheckpoints(folder, recipe.train.save_total_limit), StopWhenAsked(), *(callbacks or [])],
        optimizers=(optimizer(captioner.model, recipe), None),
    )
    trainer.replay = replay
    scale = recipe.retain.adapter_scales[0] if recipe.retain is not None else 1.0
    if ranks.sharded() and recipe.retain is not None and recipe.retain.adapter_scales != [1.0]:
        raise RecipeError(
            "retain.adapter_scales scales an adapter that every process holds whole, but this launch shares weights "
            "out (DeepSpeed or FSDP); use accelerate_configs/ddp.yaml or single.yaml"
        )
    seconds = fit(trainer, recipe, len(examples) * trainer.steps_per_row, folder, tracker, progress, stage=stage)
    if ranks.sharded():
        _save_gathered(trainer, folder)
        captioner.model = _whole(recipe, folder)
    else:
        adapter_scale.multiply(captioner.model, scale)
        save(captioner, folder.final, is_main_process=folder.main)
    captioner.model.eval()
    return seconds


def _save_gathered(trainer: CaptionTrainer, folder: RunFolder) -> None:
    """Weights that processes hold in parts, written whole by the main process."""
    captioner, state = trainer.captioner, trainer.whole_weights()
    tied = captioner.base.all_tied_weights_keys  # copies now, which save_pretrained would no longer notice
    state = {name: tensor for name, tensor in (state or {}).items() if name not in tied}
    save(captioner, folder.final, is_main_process=folder.main, state_dict=state)
    trainer.accelerator.free_memory()


def _whole(recipe: Recipe, folder: RunFolder) -> nn.Module:
    """The trained model from the folder's final/, whole on this process, an adapter merged."""
    unset_hf_deepspeed_config()  # else transformers would share the weights out while it reads them (ZeRO-3)
    return models.load(replace(recipe.model, id=str(folder.final), init=None, lora=None, vision="full")).model


def save(captioner: Captioner, path: Path, *, is_main_process: bool = True, state_dict: dict | None = None) -> None:
    """Model or adapter, and processor, as transformers and PEFT load them; written when this returns, for every
    process. `state_dict` are the whole weights of a model that is shared out; only the main process needs them."""
    if is_main_process:
        captioner.model.save_pretrained(path, state_dict=state_dict)
        captioner.processor.save_pretrained(path)
    ranks.wait()
