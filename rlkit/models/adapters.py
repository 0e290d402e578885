"""What a trained generator is saved as: diffusers' LoRA file, a kohya LoRA file, or an ordinary pipeline folder.

Files hold lora_alpha / r multiplied into the up matrices and say alpha = r: readers differ in whether they look for
alpha in the header, in the tensors or not at all, and all of them then give the same picture.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from rlkit.errors import ModelError
from rlkit.models.generator import ADAPTER, POLICY, Generator
from rlkit.running import ranks

WEIGHT_NAME = "pytorch_lora_weights.safetensors"


def save_lora(generator: Generator, folder: Path, name: str = POLICY) -> Path:
    """`folder`/pytorch_lora_weights.safetensors, which stock pipe.load_lora_weights(folder) reads.

    `name` is policy, old or ema; written by the main process. Raises ModelError for a generator without LoRA.
    """
    weights = lora_weights(generator, name)
    if not ranks.is_main():
        return folder / WEIGHT_NAME
    module, config = generator.family.DENOISER, generator.denoiser.peft_config[ADAPTER]
    told = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    layers = {
        f"{module}_lora_layers": weights,
        f"{module}_lora_adapter_metadata": told | {"lora_alpha": config.r},
    }
    with _aside(folder) as aside:
        generator.pipe.save_lora_weights(aside, weight_name=WEIGHT_NAME, **layers)
        _sort_header(aside / WEIGHT_NAME)
        folder.mkdir(parents=True, exist_ok=True)
        (aside / WEIGHT_NAME).replace(folder / WEIGHT_NAME)
    return folder / WEIGHT_NAME


def _sort_header(path: Path) -> None:
    """Write a safetensors file's header with sorted keys: the library orders metadata anew in every call, and equal
    adapters must be equal files."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])


def lora_weights(generator: Generator, name: str = POLICY) -> dict[str, Tensor]:
    """PEFT's names -> fp32 CPU tensors, with the scale lora_alpha / r multiplied into every lora_B."""
    if generator.trained != "lora":
        raise ModelError("this generator is fully fine-tuned and has no LoRA; save it as a pipeline folder.")
    config = generator.denoiser.peft_config[ADAPTER]
    scale = config.lora_alpha / config.r
    return {
        key: (weight * scale if ".lora_B." in key else weight).detach().float().cpu().contiguous()
        for key, weight in generator.weights(name).items()
    }


def save_pipeline(generator: Generator, folder: Path, name: str = POLICY) -> Path:
    """The whole pipeline as pipe.save_pretrained writes it, with the denoiser of `name`; for full fine-tuning.

    An older pipeline in `folder` is replaced; the main process writes. Raises ModelError when `folder` holds anything
    else.
    """
    if generator.trained == "lora":
        raise ModelError("this generator trains a LoRA; save it with save_lora, the pipeline itself is unchanged.")
    if folder.exists() and any(folder.iterdir()) and not (folder / "model_index.json").exists():
        raise ModelError(f"{folder} is not empty and no pipeline; nothing was written. Give an empty or new folder.")
    whole, policy, module = generator.weights(name), generator.denoiser, generator.family.DENOISER
    if not ranks.is_main():
        return folder
    denoiser = type(policy).from_config(policy.config)
    denoiser.load_state_dict(whole)
    with _aside(folder) as aside:
        try:
            generator.pipe.register_modules(**{module: denoiser})
            generator.pipe.save_pretrained(aside, safe_serialization=True)
        finally:
            generator.pipe.register_modules(**{module: policy})
        older = aside.with_suffix(".old")
        if folder.exists():
            folder.replace(older)
        aside.replace(folder)
        shutil.rmtree(older, ignore_errors=True)
    return folder


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write in, gone afterwards."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)
