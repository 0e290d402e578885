"""`python -m rlkit` as one of several processes on the CPU, under DeepSpeed or FSDP2 too; writes down what really ran.

accelerate 1.15 has neither engine for the CPU: told to use it, it trains by DDP and says nothing. Here it takes the
processes for GPUs that are called `cpu` and talk by gloo. ran-<rank>.json in the folder of RAN is written at the first
backward pass, by code that asks the network, its parameters and the optimiser, not the settings.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from rlkit import engine
from rlkit.running.folder import RunFolder


def take_processes_for_gpus() -> None:
    """Let accelerate see GPUs."""
    started, state = PartialState.__init__, AcceleratorState.__init__
    PartialState._prepare_backend = lambda self, *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    PartialState.__init__ = lambda self, cpu=False, **given: started(self, **given)
    AcceleratorState.__init__ = lambda self, mixed_precision=None, cpu=False, **given: state(
        self, mixed_precision, **given
    )
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed.comm.torch

        deepspeed.comm.torch.build_shm_op = lambda: None  # else it compiles a kernel for processes of one machine


def seen(parameters: list[torch.nn.Parameter], moved: list[torch.Tensor]) -> dict:
    """Numbers of weights as the network has them, as this process holds them, and as its optimiser moves them."""
    whole = held = 0
    for one in parameters:
        if hasattr(one, "ds_tensor"):  # ZeRO-3
            whole, held = whole + one.ds_numel, held + one.ds_tensor.ds_numel
        else:
            whole, held = whole + one.numel(), held + (one.to_local() if isinstance(one, DTensor) else one).numel()
    own = sum((one.to_local() if isinstance(one, DTensor) else one).numel() for one in moved)
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return {"whole": whole, "held": held, "moved": own, "processes": processes}


def weights_of(optimizer) -> list[torch.Tensor]:
    """What an optimiser of PyTorch moves."""
    return [one for group in optimizer.param_groups for one in group["params"]]


def write(told: dict) -> None:
    """Once."""
    path = Path(os.environ["RAN"]) / f"ran-{os.environ.get('RANK', '0')}.json"
    if not path.exists():
        path.write_text(json.dumps(told))


def watch() -> None:
    """Hook the first backward pass of both trainers."""
    backward, take = Accelerator.backward, engine.Loop.take

    def of_captioner(self, loss, **given):
        backward(self, loss, **given)
        stage = 0
        if self.distributed_type == DistributedType.DEEPSPEED:
            ran = self.deepspeed_engine_wrapped.engine
            stage, zero = ran.zero_optimization_stage(), ran.optimizer
            moved = zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
        else:
            moved = weights_of(self._optimizers[0].optimizer)
        parameters = [one for model in self._models for one in model.parameters() if one.requires_grad]
        write({"engine": self.distributed_type.name, "zero": stage} | seen(parameters, moved))

    def of_generator(self, losses):
        take(self, losses)
        parameters = list(self.generator.denoiser.parameters())
        name = "FSDP" if all(isinstance(one, DTensor) for one in parameters) else "DDP"
        trained = [one for one in parameters if one.requires_grad]
        write({"engine": name, "zero": 0} | seen(trained, weights_of(self.optimizer)))

    Accelerator.backward, engine.Loop.take = of_captioner, of_generator


def kill_after_checkpoint(step: int) -> None:
    """Let the main process die as soon as the checkpoint of this step is whole."""
    mark = RunFolder.checkpoint_complete

    def marked(self, at: int, keep: int | None = None) -> None:
        mark(self, at, keep)
        if at == step and self.main:
            os.kill(os.getpid(), signal.SIGKILL)

    RunFolder.checkpoint_complete = marked


if __name__ == "__main__":
    if any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("DEEPSPEED", "FSDP")):
        take_processes_for_gpus()
    watch()
    if "KILL_AT" in os.environ:
        kill_after_checkpoint(int(os.environ["KILL_AT"]))
    from rlkit.run import main

    main(sys.argv[1], sys.argv[2:])
