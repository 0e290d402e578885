"""Networks of which every process holds a part of weights, gradients and optimiser states: PyTorch's FSDP2.

ZeRO (https://arxiv.org/abs/1910.02054) as PyTorch has it (https://arxiv.org/abs/2304.11277). The launcher says how:
zero2 keeps a block gathered from its forward to its backward pass, so that gradients and optimiser states are what is
shared out; zero3 and fsdp2 gather a block for one pass at a time. DeepSpeed itself trains captioners only: a generator
has adapters that change places and companions that follow, which want tensors and not an engine around the network.

Passes through such a network, and all functions here, are calls of all processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from rlkit.running import ranks


def keeps_gathered() -> bool:
    """Whether blocks stay whole between their forward and backward pass; unless the launcher says so, they do not."""
    told = os.environ
    if told.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return told.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3") in ("0", "1", "2")
    return told.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "false"


def _offloads() -> bool:
    """Whether weights wait in the CPU's memory."""
    told = os.environ
    return (
        told.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true"
        or told.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none") == "cpu"
    )


def shard(network: nn.Module) -> None:
    """Share a network out, in place, a block at a time: the classes that it names in `_no_split_modules`."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    ranks.join()
    device = ranks.device().type
    policy = CPUOffloadPolicy() if _offloads() and device != "cpu" else OffloadPolicy()
    options = {"mesh": init_device_mesh(device, (ranks.count(),)), "offload_policy": policy}
    blocks = set(network._no_split_modules or ())
    for module in reversed(list(network.modules())):  # children before their parents
        if module is network or type(module).__name__ in blocks:
            fully_shard(module, reshard_after_forward=not keeps_gathered(), **options)


def whole(part: Tensor) -> Tensor:
    """A tensor as one process would hold it: gathered where it is shared out, else as it is."""
    return part.full_tensor() if isinstance(part, DTensor) else part


def own(part: Tensor) -> Tensor:
    """What this process holds of a tensor, sharing its memory."""
    return part.to_local() if isinstance(part, DTensor) else part


def like(tensor: Tensor, part: Tensor) -> Tensor:
    """A whole tensor, which every process has, shared out as `part` is."""
    tensor = tensor.to(part.device)
    if not isinstance(part, DTensor):
        return tensor
    return distribute_tensor(tensor, part.device_mesh, part.placements, src_data_rank=None)


def forget(network: nn.Module) -> None:
    """Drop what is gathered, after this process's parts were written to; the next pass gathers anew."""
    for block in _blocks(network):
        block.reshard()


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Inside, the network is whole on every process, and passes without gradients are this process's own affair."""
    blocks = _blocks(network)
    for block in blocks:
        block.set_reshard_after_forward(False, recurse=False)
        block.unshard()
    try:
        yield
    finally:
        for block in blocks:
            block.reshard()
            block.set_reshard_after_forward(not keeps_gathered(), recurse=False)


def _blocks(network: nn.Module) -> list:
    from torch.distributed.fsdp import FSDPModule

    return [module for module in network.modules() if isinstance(module, FSDPModule)]
