"""The states of Python's, NumPy's and torch's global random numbers in files: safetensors and JSON, a pair a process.

What trains from its own generators, seeded by the step, does not need them; libraries that draw from the global ones
do.
"""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlkit.running import ranks
from rlkit.running.folder import write_text


def save(folder: Path, told: Mapping[str, Any] | None = None) -> None:
    """Write rng-<process>.safetensors and .json, and into the latter what else this process alone knows."""
    path = folder / f"rng-{ranks.number()}.safetensors"
    tensors, plain = _state()
    save_file(tensors, path)
    write_text(path.with_suffix(".json"), json.dumps({"rng": plain, **(told or {})}))


def load(folder: Path) -> dict[str, Any] | None:
    """Go on with what `save` wrote, and return what was told; None where this process is one more than there were."""
    path = folder / f"rng-{ranks.number()}.safetensors"
    if not path.is_file():
        return None
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    _restore(load_file(path), told.pop("rng"))
    return told


def _state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Of this process: tensors, and what JSON takes."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(keys.astype(np.int64))}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    version, words, gauss = random.getstate()
    return tensors, {"python": [version, list(words), gauss], "numpy": [kind, position, has_gauss, cached]}


def _restore(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """What `_state` gave."""
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    kind, position, has_gauss, cached = plain["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    version, words, gauss = plain["python"]
    random.setstate((version, tuple(words), gauss))
