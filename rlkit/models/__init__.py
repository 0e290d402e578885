"""Captioners: loading, what of them is trained, and whether their answers can share one row.

One file per family, named by transformers' model_type, with what differs as plain functions: VISION (module names of
the tower), positions, features, time_table.
"""

import importlib
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from rlkit.caption import patch_projection, row_attention, tower_attention
from rlkit.errors import ModelError
from rlkit.running import ranks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rlkit.recipe import Model

# Layers whose state mixes everything before them: a mask cannot keep one answer from the next.
RECURRENT = ("linear_attention", "mamba", "mamba2", "recurrent", "conv")


@dataclass
class Captioner:
    """A model, its processor, and what is known about running them."""

    model: nn.Module
    """The transformers model, or the PEFT model around it."""
    processor: Any
    family: str
    """transformers' model_type."""
    sharing: bool
    """Whether all answers of a clip go through the model in one row."""
    reason: str
    """Why sharing is on or off, to be shown to the user."""
    vision: str = "full"
    """frozen, lora or full. A frozen tower is run once, without gradient, for policy and reference together."""
    layouts: dict[Hashable, dict[str, Any]] = field(default_factory=dict, repr=False)
    """What `rows.encode` found out about prompts: the same question about clips of one shape differs in pixels only."""

    @property
    def base(self) -> nn.Module:
        """The transformers model without PEFT's wrapper (its layers still carry the adapter)."""
        return self.model.get_base_model() if is_adapted(self.model) else self.model


def is_adapted(model: nn.Module) -> bool:
    """Whether this is a PEFT model, whose reference is itself with the adapter disabled."""
    from peft import PeftModel

    return isinstance(model, PeftModel)


def family_module(name: str) -> ModuleType:
    """The file of a family; `other` for one that has none."""
    known = Path(__file__).with_name(f"{name}.py").exists() and name not in ("tiny", "other", "__init__")
    return importlib.import_module(f"rlkit.models.{name if known else 'other'}")


def load(model: "Model", *, texts: "Iterable[str]" = (), frame_size: int = 56, seed: int = 0) -> Captioner:
    """Load what a recipe's `model:` section asks for.

    `model.id` is a hub id or a folder; a folder with a PEFT adapter is merged into its base, so that the start, and
    with it the reference, is one plain model. `model.init` builds a tiny configuration with fresh weights, whose
    tokenizer is trained on `texts`. Raises ModelError when neither loads, or when `sharing: on` cannot be had.
    """
    from rlkit.models import tiny, tower

    if model.attn_implementation == "flex_attention" and not torch.cuda.is_available():
        raise ModelError("model.attn_implementation is flex_attention, which cannot train without CUDA; use sdpa.")
    if model.id is None:
        if model.init is None:
            raise ModelError("model.id and model.init are both null; give a hub id, a folder or a tiny family.")
        network, processor = tiny.build(model.init, texts, frame_size=frame_size, seed=seed)
        if model.tower is not None:
            tower.load(network, model.tower, family_module(model.init).VISION)
        network = network.to(getattr(torch, model.dtype))
    else:
        network, processor = _from_pretrained(model)
    if model.attn_implementation == "flex_attention":
        # transformers 5.23 lists no flex_attention for the Qwen-VL classes, but their language models take it as any
        # other; the towers keep sdpa, which they run clip by clip.
        network.config.get_text_config()._attn_implementation = "flex_attention"
    elif model.id is None:
        network.set_attn_implementation(model.attn_implementation)
    network = network.to(ranks.device())
    return prepare(network, processor, vision=model.vision, sharing=model.sharing, lora=model.lora)


def prepare(model: nn.Module, processor, *, vision: str = "full", sharing: str = "auto", lora=None) -> Captioner:
    """Freeze, adapt and judge a loaded model.

    `lora` has the fields of recipe.Lora (r, lora_alpha, lora_dropout, target_modules) or is None for full
    fine-tuning. Vision modules carry an adapter only with `vision: lora`.
    """
    family = model.config.model_type
    module = family_module(family)
    if vision == "lora" and lora is None:
        raise ModelError("model.vision is lora but model.lora is null; give model.lora, or vision: frozen or full.")
    if vision == "full" and lora is not None:
        raise ModelError("model.vision is full beside model.lora; adapt the tower too (vision: lora) or freeze it.")
    if lora is not None:
        model = _with_lora(model, module.VISION, lora, adapt_vision=vision == "lora")
    elif vision == "frozen":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(re.match(module.VISION, name) is None)
    obstacle = obstacle_to_sharing(model, family, lora_dropout=0.0 if lora is None else lora.lora_dropout)
    if sharing == "on" and obstacle:
        raise ModelError(f"model.sharing is on, but {obstacle}; use sharing: auto for separate rows.")
    if sharing == "off":
        obstacle = "model.sharing is off"
    text = model.config.get_text_config()
    if not obstacle and text._attn_implementation == "sdpa":
        text._attn_implementation = row_attention.NAME  # sdpa, but for the rows that this package builds
    tower = getattr(model.config, "vision_config", None)
    if getattr(module, "PACKED_TOWER", False):
        if tower._attn_implementation == "sdpa":
            tower._attn_implementation = tower_attention.NAME  # sdpa, but one call for all windows of a size
        if vision != "frozen":
            patch_projection.replace(model)
    reason = obstacle or f"{family}: one row per clip, all answers share its prefix"
    return Captioner(model, processor, family, not obstacle, reason, vision)


def obstacle_to_sharing(model: nn.Module, family: str, *, lora_dropout: float = 0.0) -> str | None:
    """Why the answers of one clip may not share a row, or None when they may."""
    text = model.config.get_text_config()
    layers = set(text.to_dict().get("layer_types") or ())
    recurrent = layers.intersection(RECURRENT)
    if recurrent:
        return (
            f"{family} has {', '.join(sorted(recurrent))} layers, whose state runs through the whole row: "
            "the second answer would see the first whatever the mask says"
        )
    if family_module(family).__name__.endswith(".other"):
        return f"rlkit has no file for the family {family!r} and does not know its positions"
    attention = text._attn_implementation
    if attention not in ("sdpa", "eager", "flex_attention", row_attention.NAME):
        return f"attn_implementation {attention} takes no mask with several answers in a row; sdpa does"
    dropout = text.to_dict().get("attention_dropout") or 0.0
    if dropout > 0 or lora_dropout > 0:
        kind, value = ("attention_dropout", dropout) if dropout > 0 else ("lora_dropout", lora_dropout)
        return f"{kind} is {value}: the shared prefix would get one dropout mask for all answers"
    return None


def _from_pretrained(model: "Model"):
    """Model and processor of a hub id or folder; a PEFT adapter is merged into its base."""
    attention = "sdpa" if model.attn_implementation == "flex_attention" else model.attn_implementation
    options = {"dtype": getattr(torch, model.dtype), "attn_implementation": attention}
    revision = {} if _is_adapter(model.id) or model.revision is None else {"revision": model.revision}
    try:
        network = _merged(model.id, options, revision)
        source = model.id
        while _is_adapter(source) and not (Path(source) / "processor_config.json").exists():
            source = _base_of(source)
        processor = AutoProcessor.from_pretrained(source, **revision)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"model.id {model.id!r} cannot be loaded as a captioner: {first_line}") from error
    return network, processor


def _is_adapter(source: str) -> bool:
    return (Path(source) / "adapter_config.json").exists()


def _base_of(source: str) -> str:
    from peft import PeftConfig

    return PeftConfig.from_pretrained(source).base_model_name_or_path


def _merged(source: str, options: dict, revision: dict) -> nn.Module:
    """The network of a hub id or folder. An adapter is merged into what it was trained on, which may be a folder with
    another adapter."""
    if not _is_adapter(source):
        return AutoModelForImageTextToText.from_pretrained(source, **options, **revision)
    from peft import PeftModel

    network = PeftModel.from_pretrained(_merged(_base_of(source), options, {}), source).merge_and_unload()
    network.name_or_path = source  # what PEFT names as the base of an adapter that is trained on it
    return network


def _with_lora(model: nn.Module, vision: str, lora, *, adapt_vision: bool) -> nn.Module:
    """Wrap in PEFT; `all-linear` means the language model's linear layers, and the tower's only when asked."""
    from peft import LoraConfig, get_peft_model
    from transformers.integrations import is_deepspeed_zero3_enabled

    targets, leaves = lora.target_modules, set()
    if isinstance(targets, str) and targets != "all-linear":
        targets = [targets]
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or name == "lm_head":
            continue
        parent, leaf = ("." + name).rsplit(".", 2)[-2:]
        if (targets == "all-linear" or leaf in targets) and (adapt_vision or not re.match(vision, name + ".")):
            leaves.add(f"{parent}.{leaf}" if leaf.isdigit() else leaf)  # members of an nn.Sequential are 0, 1, 2
    if not leaves:
        raise ModelError(f"model.lora.target_modules {targets} name no linear layer of {type(model).__name__}.")
    # PEFT matches the whole module name; the tower has layers of the same names (gate_proj, proj).
    outside = "" if adapt_vision else f"(?!{vision})"
    targets = rf"{outside}.*\.({'|'.join(sorted(map(re.escape, leaves)))})"
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    # PEFT would keep the adapter in fp32 beside a bf16 base; ZeRO-3 gathers both in one buffer of one dtype and fails.
    return get_peft_model(model, config, autocast_adapter_dtype=not is_deepspeed_zero3_enabled())
