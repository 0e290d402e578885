"""Muon for weight matrices with AdamW for everything else, as one optimiser.

Keller Jordan et al., Muon: An optimizer for hidden layers (2024), as torch.optim.Muon implements it, with its updates
scaled to AdamW's (https://huggingface.co/papers/2502.16982), so that one learning rate serves both. Training a tiny
captioner from nothing, it reached in 400 steps what AdamW had not reached in 900.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Matrices of linear layers go to Muon; embeddings, norms, biases and convolutions to AdamW."""

    def __init__(self, model: nn.Module, *, lr: float, weight_decay: float, betas: tuple[float, float]) -> None:
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim == 2 and id(p) not in embeddings]
        ids = {id(p) for p in matrices}
        others = [p for p in trained if id(p) not in ids]
        super().__init__(trained, {"lr": lr})
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self.parts.append(muon)
        if others:
            self.parts.append(torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=betas))
        self._share()

    def _share(self) -> None:
        """The groups of both are this optimiser's: schedulers set their rates through it."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One step of both."""
        for part in self.parts:
            part.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """The states of both, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share()
