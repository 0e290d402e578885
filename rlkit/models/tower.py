"""A trained vision tower for a fresh tiny captioner: large models are never trained from nothing either.

`world` names weights that come with the package (world_tower.safetensors, half precision): the tower of
recipes/base_caption_scratch.yaml, which saw 6,000 of the world's training clips, and no test clip. Made anew with

    accelerate launch recipes/base_caption_scratch.yaml
    python -c "from rlkit.models import tower; tower.save('runs/base_caption_scratch/final', 'world_tower.safetensors')"
"""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rlkit.errors import ModelError

_TOWER = re.compile(r"(^|\.)((visual|vision_tower|multi_modal_projector)\.|image_newline$)")
WORLD = Path(__file__).with_name("world_tower.safetensors")


def save(source: str | Path, path: str | Path) -> None:
    """Write the tower of a saved captioner in half precision. Raises ModelError where `source` has none."""
    weights = {name: tensor.half().contiguous() for name, tensor in _read(str(source)).items()}
    save_file(dict(sorted(weights.items())), path)


def load(network: nn.Module, source: str, pattern: str) -> None:
    """Copy the tower's weights into `network`: from `world`, a saved captioner's folder, or a file that `save` wrote.

    `pattern` is the family's VISION. Raises ModelError where a weight is missing or of another shape.
    """
    given = _read(source)
    own = {name: weight for name, weight in network.named_parameters() if re.match(pattern, name)}
    for name, weight in own.items():
        found = given[name].shape if name in given else None
        if found != weight.shape:
            problem = "missing" if found is None else f"of shape {list(found)}"
            raise ModelError(
                f"model.tower {source}: {name} is {problem}, expected {list(weight.shape)}; take a tower of the same "
                "family, data.frame_size and sizes."
            )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(given[name])


def _read(source: str) -> dict[str, torch.Tensor]:
    """The tower's weights by the names that the model gives them: transformers stores them without `model.`."""
    path = WORLD if source == "world" else Path(source)
    path = path / "model.safetensors" if path.is_dir() else path
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"model.tower {source}: {path} cannot be read ({error}); give `world`, the folder of a saved captioner, or "
            "a safetensors file of one."
        ) from error
    found = {f"model.{name.removeprefix('model.')}": weight for name, weight in weights.items() if _TOWER.search(name)}
    if not found:
        raise ModelError(f"model.tower {source}: {path} holds no vision tower.")
    return found
