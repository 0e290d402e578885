"""What a run ran on: versions, commit, hardware. No secrets, no host or user names, no absolute paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from rlkit.running import ranks

PACKAGES = (
    "rlkit", "torch", "torchvision", "transformers", "trl", "peft", "accelerate", "diffusers", "datasets", "tokenizers",
    "safetensors", "numpy", "av", "torchcodec", "deepspeed", "wandb", "rich", "PyYAML",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """The environment as env.json keeps it."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": versions(),
        "commit": commit(),
        "cpu": {"model": cpu_model(), "cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS")},
        "devices": devices(),
        "processes": ranks.count(),
    }


def versions() -> dict[str, str]:
    """Version of each package that is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Commit of this source tree, with `+changes` where files differ from it; None outside git."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")


def gpu_numbers() -> list[str]:
    """Numbers of NVIDIA's devices, told by the driver's files, so that no torch is imported."""
    return [path.name.removeprefix("nvidia") for path in sorted(Path("/dev").glob("nvidia[0-9]*"))]


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def cpu_model() -> str:
    """Name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def devices() -> list[dict[str, Any]]:
    """The CUDA devices; an empty list on machines without."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [{"name": one.name, "memory_gib": round(one.total_memory / 2**30, 1)} for one in found]
