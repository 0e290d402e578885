"""Do the processes of a run reach each other? Joins a process group, checks an all-reduce, and times one of 16 MiB.

`rlkit doctor` starts two processes of this file on this machine. Under a launcher it tests the machines of a run, and
names the ranks that never came:
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m rlkit.collectives
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from datetime import timedelta

from rlkit.errors import RlkitError
from rlkit.running import ranks

PATIENCE_S = 60
MIB = 16
TIMED = 5


def between_two() -> dict[str, object]:
    """Start two processes here and return what `measure` found; raises RlkitError with the reason why not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = ranks.environment_alone() | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "rlkit.collectives"],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [one.communicate(timeout=2 * PATIENCE_S) for one in both]
    except subprocess.TimeoutExpired:
        raise RlkitError(f"two processes here did not finish an all-reduce within {2 * PATIENCE_S} s") from None
    finally:
        for one in both:
            one.kill()
    for one, (_, complaint) in zip(both, told, strict=True):
        if one.returncode:
            raise RlkitError((complaint.strip().splitlines() or [f"exit code {one.returncode}"])[-1])
    return json.loads(told[0][0].splitlines()[-1])


def measure() -> dict[str, object]:
    """Backend, ranks, and the milliseconds of an all-reduce of MIB; RlkitError names ranks that are missing."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what it says of a rank that is missing fills three screens
    import torch
    from torch import distributed

    patience = timedelta(seconds=PATIENCE_S)
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # torchrun's agent serves its own
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        served = distributed.TCPStore(address, port, count, serves, patience, wait_for_workers=False)
    except distributed.DistError as error:
        raise RlkitError(f"rank {rank} on {socket.gethostname()} at MASTER_ADDR:MASTER_PORT: {error}") from None
    store = distributed.PrefixStore("rlkit.collectives", served)
    _roll_call(store, rank, count, patience)
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", count))
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "nccl" if on_gpu else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=patience)
    total = torch.tensor([rank + 1.0], device=device)
    distributed.all_reduce(total)
    if total.item() != count * (count + 1) / 2:
        raise RlkitError(f"an all-reduce over {backend} is wrong: {total.item()}, expected {count * (count + 1) / 2}")
    data = torch.ones(MIB * 2**20 // 4, device=device)
    distributed.all_reduce(data)  # the first one connects
    seconds = []
    for _ in range(TIMED):
        start = time.perf_counter()
        distributed.all_reduce(data)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    distributed.barrier()
    distributed.destroy_process_group()
    return {"backend": backend, "ranks": count, "mib": MIB, "ms": round(1000 * sorted(seconds)[TIMED // 2], 2)}


def _roll_call(store, rank: int, count: int, patience: timedelta) -> None:
    """Every rank says that it is here, and waits for the others."""
    from torch import distributed

    store.set(f"here/{rank}", socket.gethostname())
    keys = [f"here/{other}" for other in range(count)]
    try:
        store.wait(keys, patience)
    except distributed.DistError:
        absent = [str(other) for other, key in enumerate(keys) if not store.check([key])]
        raise RlkitError(
            f"rank {rank} on {socket.gethostname()} waited {PATIENCE_S} s for rank {', '.join(absent)} of {count}: "
            "is every node started, and may it reach MASTER_ADDR:MASTER_PORT?"
        ) from None


def main() -> int:
    """Under a launcher: one line from the main process, exit code 1 with the reason where something is wrong."""
    if "RANK" not in os.environ:
        print("Start it under a launcher; alone, `rlkit doctor` tests two processes here.", file=sys.stderr)
        return 2
    try:
        found = measure()
    except (RlkitError, RuntimeError) as error:
        print(f"collectives: {error}".splitlines()[0], file=sys.stderr)
        return 1
    if os.environ["RANK"] == "0":
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
