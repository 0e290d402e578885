"""CaptionTrainer for online RL: each optimiser step trains on captions that the policy drew of the step's clips.

A round serves grpo.num_iterations steps; a checkpoint between them keeps it, so that a killed run goes on with the same
captions. Where every round serves one step, it is drawn again from the checkpoint's weights and its own seed.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader

from rlkit.caption.rounds import Round, Rounds
from rlkit.caption.trainer import CaptionTrainer
from rlkit.running import ranks


class PolicyTrainer(CaptionTrainer):
    """`loss_of` gives one value per caption; the step's loss is their mean over all captions with an advantage."""

    def __init__(self, *arguments: Any, rounds: Rounds, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.rounds = rounds
        self.round: Round | None = None
        self.iteration = 0
        """Of the step that is taken on the round, from 0."""
        self.steps_per_row = self.recipe.grpo.num_iterations

    def get_train_dataloader(self) -> DataLoader:
        """The clips of each step come once for each of its iterations."""
        repeated = Repeated(self.batches(), self.args.gradient_accumulation_steps, self.steps_per_row)
        return self.loader(repeated, list)

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
        """The parts of the step's round, drawn if it is new, and [captions with an advantage, their tokens]."""
        chunks = list(itertools.islice(epoch_iterator, num_batches))
        if not chunks:
            return [], None
        number, self.iteration = divmod(self.state.global_step, self.steps_per_row)
        if self.round is None or self.round.number != number:
            self.round = None  # its features go before the next are made
            with self.gathered():  # captions end at different lengths, so processes make different numbers of passes
                self.round = self._kept_round(number) or self.rounds.collect(
                    number, chunks, self.compute_loss_context_manager
                )
            for name, value in self.round.metrics.items():
                self.note(name, value)
        parts = self.round.parts
        batches = [{**part.batch, "part": torch.tensor(at)} for at, part in enumerate(parts)]
        captions = sum(int(part.mask.sum()) for part in parts)
        tokens = sum(int((part.batch["answer_lengths"] * part.mask).sum()) for part in parts)
        counts = torch.tensor([captions, tokens], dtype=torch.float64, device=device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, "sum")
        return batches, counts.clamp(min=1)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """As the parent's; after it, generate and training of this process have been seen to agree."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.rounds.checked |= self.iteration == 0
        return loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.round is not None and self.state.global_step % self.steps_per_row:
            save_file(
                self.round.tensors(), _kept(Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}")
            )

    def _kept_round(self, number: int) -> Round | None:
        """The round in whose midst a run that goes on was stopped."""
        path = _kept(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
        return self.rounds.restore(number, load_file(path)) if self.iteration and path.is_file() else None


def _kept(checkpoint: Path) -> Path:
    """The file of this process's round in a checkpoint."""
    return checkpoint / f"round-{ranks.number():05d}.safetensors"


class Repeated(BatchSampler):
    """The batches of every `accumulation` in a row `times` times, as the optimiser steps on one round take them."""

    def __init__(self, batches: Any, accumulation: int, times: int) -> None:
        self.batches, self.accumulation, self.times = batches, accumulation, times
        self.batch_size, self.drop_last = batches.batch_size, False

    def __len__(self) -> int:
        return len(self.batches) * self.times

    def set_epoch(self, epoch: int) -> None:
        """Choose the order."""
        self.batches.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        rest = iter(self.batches)
        while step := list(itertools.islice(rest, self.accumulation)):
            for _ in range(self.times):
                yield from step
