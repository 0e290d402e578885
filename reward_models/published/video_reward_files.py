"""VideoReward's files: its config, and its weights as one state dict whether they were saved whole or as LoRA."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from reward_models.published.checkpoint import CheckpointError, read, read_folder
from reward_models.published.video_reward_prompt import TOKENS

CONFIG = "model_config.json"
FILES = [CONFIG, "checkpoint-*/model.*", "checkpoint-*/adapter_model.safetensors", "checkpoint-*/non_lora_state_dict.*"]
PREFIX = "base_model.model."
"""What PEFT puts before every name."""

RULES = [
    (r"rm_head\.weight", "head.weight"),
    (r"lm_head\.weight", None),  # the language model's, which the score does not use
    (r"model\.(language_model|visual)\.(.*)", r"model.\1.\2"),
    (r"visual\.(.*)", r"model.visual.\1"),
    (r"model\.(.*)", r"model.language_model.\1"),
]
"""From Qwen2-VL's names, those of the original's transformers 4.45 and today's, to this module's."""


def read_config(path: Path) -> dict[str, Any]:
    """model_config.json. Raises CheckpointError where it is missing, or tells of a model other than the published."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}; expected VideoReward's folder.")
    config = json.loads(path.read_text(encoding="utf-8"))
    expected = {
        ("data_config", "prompt_template_type"): "detailed_special",
        ("data_config", "sample_type"): "uniform",
        ("model_config", "use_special_tokens"): True,
        ("data_config", "eval_dim"): list(TOKENS),
    }
    for (section, key), value in expected.items():
        found = config.get(section, {}).get(key, value)
        if found != value:
            raise CheckpointError(f"{path}: {section}.{key} is {found!r}; only {value!r} can be scored here.")
    return config


def statistics_of(config: Mapping[str, Any], *, required: bool) -> tuple[list[float], list[float]] | None:
    """The means and deviations of VQ, MQ, TA; None where the config has none and they are not `required`.

    Raises CheckpointError where they are.
    """
    told = config.get("inference_config") or {}
    names = [f"{attribute}_{kind}" for kind in ("mean", "std") for attribute in TOKENS]
    absent = [name for name in names if name not in told]
    if absent and not required:
        return None
    if absent:
        raise CheckpointError(
            f"inference_config lacks {', '.join(absent)}, and a score normalised by nothing is not the published one; "
            "load with normalise=False for raw values."
        )
    means, deviations = [[float(told[f"{name}_{kind}"]) for name in TOKENS] for kind in ("mean", "std")]
    return means, deviations


def state_of(folder: Path, step: int | None, base: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights with LoRA merged and without PEFT's prefixes. Raises CheckpointError."""
    checkpoint = _checkpoint(folder, step)
    whole = [checkpoint / name for name in ("model.safetensors", "model.pth") if (checkpoint / name).is_file()]
    adapter = checkpoint / "adapter_model.safetensors"
    if whole:
        state = _plain(read(whole[0]))
    elif adapter.is_file():
        state = read_folder(base) | _plain(read(_non_lora(checkpoint))) | _plain(read(adapter))
    else:
        raise CheckpointError(f"{checkpoint} has neither model.pth, model.safetensors nor {adapter.name}.")
    lora = config.get("peft_lora_config") or {}
    return merged(state, _scale(lora), str(checkpoint))


def merged(state: Mapping[str, Tensor], scale: float | None, source: str) -> dict[str, Tensor]:
    """W + scale B A, in fp32 and back, for every pair <layer>.lora_A, <layer>.lora_B.

    Raises CheckpointError for one without the other or without W, and for LoRA without a scale.
    """
    pattern = re.compile(r"(.*)\.lora_(A|B)(\.default)?\.weight")
    pairs: dict[str, dict[str, Tensor]] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = pattern.fullmatch(name)
        if match:
            pairs.setdefault(match[1], {})[match[2]] = tensor
        else:
            found[name.replace(".base_layer.", ".")] = tensor
    if pairs and scale is None:
        raise CheckpointError(f"{source} holds LoRA, and its config has no lora_r and lora_alpha to merge it by.")
    for layer, pair in pairs.items():
        weight = found.get(f"{layer}.weight")
        if weight is None or len(pair) != 2:
            raise CheckpointError(
                f"{source}: {layer} has {', '.join(f'lora_{one}' for one in pair)}, expected lora_A, "
                f"lora_B and the weight that they change."
            )
        change = scale * (pair["B"].float() @ pair["A"].float())
        found[f"{layer}.weight"] = (weight.float() + change).to(weight.dtype)
    return found


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without PEFT's; of a layer saved beside its original, the saved one."""
    kept = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if ".original_module." not in name}
    return {name.replace(".modules_to_save.default.", "."): tensor for name, tensor in kept.items()}


def _checkpoint(folder: Path, step: int | None) -> Path:
    steps = {int(path.name.split("-")[1]): path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()}
    wanted = max(steps, default=None) if step is None else step
    if wanted not in steps:
        held = ", ".join(map(str, sorted(steps))) or "none"
        raise CheckpointError(f"{folder} has no checkpoint-{step or '<step>'}; its steps: {held}.")
    return steps[wanted]


def _non_lora(checkpoint: Path) -> Path:
    for name in ("non_lora_state_dict.safetensors", "non_lora_state_dict.pth"):
        if (checkpoint / name).is_file():
            return checkpoint / name
    raise CheckpointError(f"{checkpoint} has LoRA and no non_lora_state_dict.pth, which holds the reward's head.")


def _scale(lora: Mapping[str, Any]) -> float | None:
    if not lora.get("lora_r") or not lora.get("lora_alpha"):
        return None
    return lora["lora_alpha"] / (math.sqrt(lora["lora_r"]) if lora.get("use_rslora") else lora["lora_r"])
