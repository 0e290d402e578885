"""The keys of `retain:`, what a model must not lose by what it learns; see schema.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from rlkit.recipe.marks import Between, OnDisk
from rlkit.recipe.units import Amount, Count


@dataclass(frozen=True)
class Retain:
    """What the model can do before training: measured before and after, and what holds against losing it. A KL to the
    start holds too: loss.beta, grpo.beta, and kl_weight of generators."""

    probes: Annotated[str | None, OnDisk("file")] = None
    """Captioners: JSON lines of `video question answer`, perhaps `skill start end`, videos named from the file's
    folder; null asks the world's questions about evaluate.probe_clips clips. Generators: a prompt a line."""
    replay: Annotated[str | None, OnDisk("file or folder")] = None
    """What to go on training on. Captioners: questions and answers, as in `probes`; null: the world's about training
    clips. Generators: a folder of pictures, with or without captions.jsonl; null: the world's."""
    replay_weight: Amount = 0.0
    """Weight of the loss on it, the mean negative log-likelihood of an answer's tokens or the mean denoising error; 0
    replays nothing."""
    replay_rows: Count = 4
    """Questions or pictures beside each forward pass."""
    adapter_scales: list[Annotated[float, Between(0.01, 4)]] = field(default_factory=lambda: [1.0])
    """What a trained LoRA is multiplied by: the first is saved, each is measured. Below 1 lies between the start and
    what was learnt."""
