"""Reads published weights strictly: every tensor finds its place, or loading stops and names those that did not.

    state = read(fetch("xswu/HPSv2", "HPS_v2.1_compressed.pt"))
    load_strictly(module, state, rules=[(r"visual\\.proj", "visual_projection.weight")], source="xswu/HPSv2")

A head that was not in the file keeps its random numbers and scores without complaint; that is what this file prevents.
A pickle is read as tensors only (torch's weights_only), never run.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

Rules = Sequence[tuple[str, str | None]]
"""(pattern of a whole name in the file, its name in the module with \\1 for groups; None where it is not needed)."""
SHOWN = 8


class CheckpointError(ValueError):
    """The weights cannot be had, read, or do not fill the model exactly."""


def fetch(model: str | Path, file: str, revision: str | None = None) -> Path:
    """The local path of `file` of a folder or hub id; a `model` that is itself a file is that file.

    Raises CheckpointError when a folder lacks it (saying what it holds), and when the hub has none or is out of reach.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    path = Path(model)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / file).is_file():
            return path / file
        held = ", ".join(sorted(entry.name for entry in path.iterdir())[:SHOWN]) or "nothing"
        raise CheckpointError(f"{path} has no {file}; it holds {held}.")
    try:
        return Path(hf_hub_download(str(model), file, revision=revision))
    except HFValidationError as error:
        raise CheckpointError(f"{model} is neither a folder here nor a hub id `owner/name`.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{file} of {model} is not in the local cache, and the hub gave: {_first_line(error)} Download it where "
            f"there is a network (`hf download {model} {file}`), or pass the folder that holds it as model=."
        ) from error


def fetch_folder(model: str | Path, patterns: Sequence[str], revision: str | None = None) -> Path:
    """A folder itself, or the local copy of the files of a hub id that match `patterns`. Raises CheckpointError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(str(model), allow_patterns=list(patterns), revision=revision))
    except HFValidationError as error:
        raise CheckpointError(f"{model} is neither a folder here nor a hub id `owner/name`.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{model} is not in the local cache, and the hub gave: {_first_line(error)} Download it where there is a "
            f"network (`hf download {model}`), or pass its folder as model=."
        ) from error


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of one .safetensors file or of one .pt/.pth/.bin pickle, unwrapped from a `state_dict` entry.

    Raises CheckpointError for a damaged file, a pickle with anything but plain data, and one without tensors.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a whole .safetensors file: {error}.") from error
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{path} is damaged, or a pickle that holds more than tensors and could run code when opened, so it was "
            "not. Convert it to .safetensors where you trust it."
        ) from error
    held = held["state_dict"] if isinstance(held, Mapping) and "state_dict" in held else held
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        raise CheckpointError(f"{path} holds {type(held).__name__}, expected tensors by name.")
    return dict(held)


def read_folder(model: str | Path, revision: str | None = None) -> dict[str, Tensor]:
    """All tensors of an ordinary Hugging Face folder or hub id: one file, or its shards by their index.

    model.safetensors before pytorch_model.bin. Raises CheckpointError.
    """
    for file in ("model.safetensors", "pytorch_model.bin"):
        try:
            index = fetch(model, f"{file}.index.json", revision)
        except CheckpointError:
            try:
                return read(fetch(model, file, revision))
            except CheckpointError:
                continue
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        return {name: tensor for shard in shards for name, tensor in read(fetch(model, shard, revision)).items()}
    return read(fetch(model, "model.safetensors", revision))  # the error that names what is expected first


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, source: str, rules: Rules = ()) -> None:
    """Fill every parameter and persistent buffer of `module` from `state`, and use every tensor of it.

    The first rule whose pattern matches the whole name renames it (None: left out); a name without a rule stays.
    Raises CheckpointError with all that is missing, unexpected, of another shape, or given twice, and where tensors
    that differ in the file are tied in the module, so that the second would overwrite the first.
    """
    wanted, found, named, unexpected, shapes = module.state_dict(), {}, set(), [], []
    for name, tensor in state.items():
        new = _renamed(name, rules)
        if new is None:
            continue
        if new not in wanted:
            unexpected.append(name if new == name else f"{name} (as {new})")
        elif new in named:
            shapes.append(f"{name} and another tensor both become {new}")
        elif tensor.shape != wanted[new].shape:
            shapes.append(f"{name} is {list(tensor.shape)}, expected {list(wanted[new].shape)}")
        else:
            found[new] = tensor
        named.add(new)
    refuse(source, [name for name in wanted if name not in named], unexpected, shapes)
    places: dict[nn.Parameter, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first = places.setdefault(parameter, name)
        if first != name and not torch.equal(found[first], found[name]):
            raise CheckpointError(f"{source}: {first} and {name} differ, and are one tensor in this model.")
    module.load_state_dict(found)


def pretrained(
    kind: Any, model: str | Path, *, device: str, dtype: str, revision: str | None = None, ignore: Sequence[str] = ()
) -> nn.Module:
    """`kind.from_pretrained(model)` in eval mode without gradients to its weights, refused unless the file fills it.

    `ignore`: patterns of whole names in the file that are not needed. Raises CheckpointError.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of missing tensors, which an error below names
    try:
        module, told = kind.from_pretrained(
            model, revision=revision, dtype=dtype_of(dtype), output_loading_info=True, ignore_mismatched_sizes=True
        )
    except OSError as error:
        raise CheckpointError(_unreachable(str(model), error)) from error
    finally:
        logging.set_verbosity(verbosity)
    leftovers = [name for name in told["unexpected_keys"] if not any(re.fullmatch(one, name) for one in ignore)]
    shapes = [f"{name} is {list(found)}, expected {list(wanted)}" for name, found, wanted in told["mismatched_keys"]]
    refuse(str(model), sorted(told["missing_keys"]), sorted(leftovers), shapes)
    return module.to(device).eval().requires_grad_(False)


def tokenizer_of(model: str | Path, revision: str | None = None) -> Any:
    """AutoTokenizer of a folder or hub id. Raises CheckpointError where it cannot be had."""
    from transformers import AutoTokenizer

    return _loaded(AutoTokenizer, model, revision)


def processor_of(model: str | Path, revision: str | None = None) -> Any:
    """AutoProcessor of a folder or hub id. Raises CheckpointError where it cannot be had."""
    from transformers import AutoProcessor

    return _loaded(AutoProcessor, model, revision)


def dtype_of(name: str) -> torch.dtype:
    """torch's dtype of that name. Raises ValueError."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ValueError(f"dtype is {name!r}, expected one of {', '.join(known)}.")
    return known[name]


def refuse(source: str, missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str] = ()) -> None:
    """Raise CheckpointError unless all three lists are empty."""
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source} does not fill this model, and a reward with random or unread weights must not score. "
            f"Tensors {'; '.join(problems)}. Is it the right file, revision and options?"
        )


def _renamed(name: str, rules: Rules) -> str | None:
    for pattern, new in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return None if new is None else match.expand(new)
    return name


def _loaded(kind: Any, model: str | Path, revision: str | None) -> Any:
    try:
        return kind.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(_unreachable(f"{kind.__name__} of {model}", error)) from error


def _unreachable(what: str, error: Exception) -> str:
    return (
        f"{what} cannot be loaded: {_first_line(error)} Without a network, download it elsewhere (`hf download`) and "
        "pass its folder."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
