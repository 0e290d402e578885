"""`rlkit run`: finds the accelerate config and starts `accelerate launch` without its chatter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import psutil

from rlkit.errors import RlkitError
from rlkit.last_line import QUIET_LAUNCHER
from rlkit.plugins import ROOT
from rlkit.running import environment

GRACE, GRACE_S = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300"
"""Seconds from SIGTERM to SIGKILL: torch's 30 are too few for a step and a large checkpoint."""
HANDED_ON = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if os.name == "posix" else []))
DEFAULTS = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]


def launch(recipe: Path, overrides: Sequence[str], config: str | None, processes: int | None) -> int:
    """Run the recipe under accelerate and wait for it; the exit code, which is the shell's for a signal that came.

    Ctrl-C and SIGTERM are handed on to the run, which saves: accelerate's launcher of one process would leave it alone
    with SIGTERM, and end before it on Ctrl-C.
    """
    variables = {GRACE: GRACE_S} | os.environ | {QUIET_LAUNCHER: "1"}
    received: list[int] = []
    line = command(recipe, overrides, config, processes)
    process = subprocess.Popen(line, env=variables, start_new_session=True)  # else Ctrl-C reaches the launcher too

    def hand_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        below = psutil.Process(process.pid).children()
        one = below[0] if len(below) == 1 else process  # torchrun hands signals on by itself
        one.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    before = {number: signal.signal(number, hand_on) for number in HANDED_ON}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + received[0] if received and code else code


def command(recipe: Path, overrides: Sequence[str], config: str | None, processes: int | None) -> list[str]:
    """The command line of `accelerate launch`. Recipes are read as data (`-m rlkit`), so plain YAML works too."""
    tail = ["-m", "rlkit", str(recipe), *overrides]
    several = processes is not None and processes > 1
    # accelerate starts several CPU processes through MPI only
    if several and config is None and not environment.gpu_numbers():
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *tail]
    start = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    if config is not None:
        start += ["--config_file", str(find_config(config))]
    elif not _own_default().is_file():
        start += DEFAULTS + ([] if processes is not None else ["--num_processes", "1"])
    if processes is not None:
        start += ["--num_processes", str(processes), *(["--multi_gpu"] if several else [])]
    return [*start, *tail]


def find_config(name: str) -> Path:
    """A path, or the name of a file in accelerate_configs here or beside the package."""
    folders = [Path("accelerate_configs"), ROOT / "accelerate_configs"]
    for path in [Path(name), *(folder / f"{name}.yaml" for folder in folders)]:
        if path.is_file():
            return path
    names = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    error = RlkitError(f"no accelerate config '{name}'. There are: {', '.join(names)}; or give a path.")
    error.exit_code = 2
    raise error


def _own_default() -> Path:
    """Where `accelerate config` keeps the user's own choice."""
    home = os.environ.get("HF_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    return Path(home).expanduser() / "accelerate" / "default_config.yaml"
