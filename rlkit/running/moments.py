"""What an optimiser remembers of every weight, whole and by the weight's name: any engine writes it, any reads it.

Engines are PyTorch's optimisers alone or under DDP, FSDP2 (https://arxiv.org/abs/2304.11277) and DeepSpeed's ZeRO 1 to
3 (https://arxiv.org/abs/1910.02054), checked against DeepSpeed 0.19.8. Where DeepSpeed trains in bf16, the fp32 weights
behind what the network computes with are kept too. All functions are calls of all processes.

Cost: one weight's state at a time is gathered on every process's device and moved to the main process's memory, which
ends up with all of it, 8 bytes per trained weight (12 under DeepSpeed in bf16), and writes it as one file. Reading, a
process holds one weight's state whole at a time, beside its own parts.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rlkit.errors import ModelError
from rlkit.muon import MuonWithAdamW
from rlkit.running import ranks, sharding

WEIGHT = "weight"
"""The fp32 copy of a weight, beside the optimiser's own keys."""
ADAM = ("exp_avg", "exp_avg_sq")


def save(model: nn.Module, optimizer: Any, path: Path) -> None:
    """Write `<weight's name>/<key of its state>` -> tensor. `optimizer` is one of PyTorch's, or DeepSpeed's around one.

    Raises ModelError for an optimiser of DeepSpeed's that is not ZeRO around torch.optim.AdamW.
    """
    found = {}
    states = _of_torch if isinstance(optimizer, torch.optim.Optimizer) else _of_deepspeed
    for name, key, value in states(model, optimizer):
        if ranks.is_main():
            found[f"{name}/{key}"] = value.detach().cpu().contiguous()
    if ranks.is_main():
        save_file(found, path)


def load(model: nn.Module, optimizer: Any, path: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Give a fresh optimiser what `save` wrote, and each process the parts that it keeps. `weights` are the model's
    before DeepSpeed rounded them to bf16; those in the file go before.

    Raises ModelError where the file is missing, or is of other weights than the model trains.
    """
    if not path.is_file():
        raise ModelError(
            f"{path.parent.name} holds no {path.name}, which the optimiser goes on from: an older version wrote it. "
            "Move the folder checkpoints/ away to train from the start, or let that version finish the run."
        )
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    third = _third(optimizer)  # there the weight itself is empty between passes
    shapes = {name: list(one.ds_shape if third else one.shape) for name, one in trained.items()}
    with safe_open(path, "pt") as stored:
        kept: dict[str, dict[str, Any]] = {}
        for entry in sorted(stored.keys()):
            name, _, key = entry.rpartition("/")
            kept.setdefault(name, {})[key] = stored.get_slice(entry)
        for name, state in kept.items():
            expected = shapes.get(name)
            for key, value in state.items():
                if expected is None or (value.get_shape() != expected and key != "step"):
                    raise ModelError(
                        f"{path.parent.name}/{path.name} holds {key} of {name} {value.get_shape()}; the model has it "
                        f"as {expected or 'no weight that is trained'}. It is of another model."
                    )
        if isinstance(optimizer, torch.optim.Optimizer):
            _into_torch(trained, optimizer, kept)
        else:
            _into_deepspeed(trained, optimizer, kept, weights or {})


# ---- PyTorch's optimisers, weights whole or DTensors ----------------------------------------------------------------


def _parts(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    return optimizer.parts if isinstance(optimizer, MuonWithAdamW) else [optimizer]


def _weights(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _of_torch(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str, Tensor]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    for part in _parts(optimizer):
        for parameter in _weights(part):
            for key, value in part.state.get(parameter, {}).items():
                yield names[parameter], key, sharding.whole(value)


def _into_torch(
    trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, kept: Mapping[str, Mapping[str, Any]]
) -> None:
    names = {parameter: name for name, parameter in trained.items()}
    states = []
    for part in _parts(optimizer):
        state: dict[int, dict[str, Tensor]] = {}
        for number, parameter in enumerate(_weights(part)):
            found = {key: value[...].clone() for key, value in kept.get(names[parameter], {}).items()}  # off the file
            own = {key: value if key == "step" else sharding.like(value, parameter) for key, value in found.items()}
            if WEIGHT in own:
                parameter.detach().copy_(own.pop(WEIGHT))
            if own:
                state[number] = own
        states.append({"state": state, "param_groups": part.state_dict()["param_groups"]})
    optimizer.load_state_dict({"parts": states} if isinstance(optimizer, MuonWithAdamW) else states[0])


# ---- DeepSpeed: AdamW on one flat fp32 piece of many weights ---------------------------------------------------------


def _third(optimizer: Any) -> bool:
    """Whether this is ZeRO-3, which shares the weights out too."""
    if isinstance(optimizer, torch.optim.Optimizer):
        return False
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3

    return isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3)


def _flat(zero: Any) -> list[Tensor]:
    """The pieces that this process's AdamW moves."""
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    third = _third(zero)
    if (third or isinstance(zero, DeepSpeedZeroOptimizer)) and isinstance(zero.optimizer, torch.optim.AdamW):
        return list(zero.fp32_partitioned_groups_flat if third else zero.single_partition_of_fp32_groups)
    inner = type(zero.optimizer).__name__
    raise ModelError(
        f"DeepSpeed trains with {type(zero).__name__} around {inner}; a checkpoint can be of ZeRO 1 to 3 around "
        "torch.optim.AdamW: leave `optimizer` out of the DeepSpeed configuration, or use accelerate_configs/zero2.yaml."
    )


def _link(zero: Any) -> None:
    """Let ZeRO 1 and 2 find a weight's state. By themselves they do so after their first step with the first group of
    weights, before the other groups have a state."""
    from deepspeed.utils import lazy_init_hp_params_optimizer_state

    for weights, piece in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
        lazy_init_hp_params_optimizer_state(weights, piece, zero.optimizer.state)


def _of_deepspeed(model: nn.Module, zero: Any) -> Iterator[tuple[str, str, Tensor]]:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    step = zero.optimizer.state[_flat(zero)[0]]["step"]
    if not _third(zero):
        _link(zero)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, "step", step.clone()
            for key in ADAM:
                yield name, key, safe_get_full_optimizer_state(parameter, key)
            if parameter.dtype != torch.float32:
                yield name, WEIGHT, safe_get_full_fp32_param(parameter)


def _into_deepspeed(
    trained: Mapping[str, nn.Parameter],
    zero: Any,
    kept: Mapping[str, Mapping[str, Any]],
    weights: Mapping[str, Tensor],
) -> None:
    adamw, third = zero.optimizer, _third(zero)
    step = max(float(state["step"][...]) for state in kept.values())
    for piece in _flat(zero):
        where = piece.device if adamw.defaults["fused"] else torch.device("cpu")
        adamw.state[piece] = {key: torch.zeros_like(piece) for key in ADAM}
        adamw.state[piece]["step"] = torch.tensor(step, dtype=torch.float32, device=where)
    if not third:
        _link(zero)
    put = _put_third if third else _put
    for name, parameter in trained.items():
        state = kept.get(name, {})
        for key in state.keys() - {"step", WEIGHT}:
            put(parameter, state[key][...], key)
        if WEIGHT in state:
            put(parameter, state[WEIGHT][...], None)
        elif name in weights and parameter.dtype != torch.float32:
            put(parameter, weights[name], None)


def _put(parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    if key is None:
        safe_set_full_fp32_param(parameter, value)
    else:
        safe_set_full_optimizer_state(parameter, value, key)


def _put_third(parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
    """This process's piece, with zeros behind the end: safe_set_full_optimizer_state reads over it, and fails."""
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    size = parameter.ds_tensor.numel()
    piece = value.flatten()[ranks.number() * size : (ranks.number() + 1) * size]
    piece = nn.functional.pad(piece, (0, size - piece.numel()))
    if key is None:
        safe_set_local_fp32_param(parameter, piece)
    else:
        safe_set_local_optimizer_state(parameter, piece, key)
