"""A gradient that is not finite ends training before it reaches the weights, and the last checkpoint stands."""

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainingArguments

from rlkit.errors import ModelError
from rlkit.running.training import RecipeTrainer


class Line(nn.Module):
    """A model with a loss of its own; NaN for the input NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x=None):
        return {"loss": (self.weight * x).square().mean()}


def rows(bad: int | None):
    return [{"x": torch.full((2,), float("nan") if at == bad else 1.0 + at)} for at in range(8)]


def train(kind, folder, bad, max_grad_norm=1.0, resume=None):
    """Eight steps of one row each, in order; returns the model."""
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=1, max_steps=8, save_steps=2, learning_rate=0.1,
        max_grad_norm=max_grad_norm, train_sampling_strategy="sequential", report_to=[], disable_tqdm=True,
        use_cpu=True,
    )  # fmt: skip
    trainer = kind(model=Line(), args=arguments, train_dataset=rows(bad))
    trainer.train(resume_from_checkpoint=resume)
    return trainer.model


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_gradient_that_is_not_finite_ends_training(tmp_path, max_grad_norm):
    start = partial(train, RecipeTrainer, max_grad_norm=max_grad_norm)
    with pytest.raises(ModelError, match="step 6: the gradient is not finite"):
        start(tmp_path, bad=5)
    kept = load_file(tmp_path / "checkpoint-4/model.safetensors")
    assert kept["weight"].isfinite().all() and not (tmp_path / "checkpoint-6").exists()
    whole = start(tmp_path / "whole", bad=None)
    resumed = start(tmp_path, bad=None, resume=str(tmp_path / "checkpoint-4"))
    assert torch.equal(whole.weight, resumed.weight)


def test_transformers_alone_goes_on_with_ruined_weights(tmp_path):
    """Should it stop by itself one day, ours can go."""
    assert train(Trainer, tmp_path, bad=5).weight.isnan().all()
    assert Path(tmp_path / "checkpoint-8").exists()
