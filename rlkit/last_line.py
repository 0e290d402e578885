"""Keeps our error the last line under a single-process `accelerate launch`, which prints a traceback beneath it.

torchrun repeats the error by itself (torch's `record`). The single-process launcher cannot be told to, so a small
process waits for it to end and writes the line once more. Only what is last survives in the tail people paste.
"""

from __future__ import annotations

import os
import subprocess
import sys

QUIET_LAUNCHER = "RLKIT_QUIET_LAUNCHER"
"""Set by `rlkit run`, whose launcher prints nothing."""

WAIT_AND_WRITE = """
import os, sys, time
launcher, line = int(sys.argv[1]), sys.argv[2]
for _ in range(200):
    try:
        os.kill(launcher, 0)
    except OSError:
        break
    time.sleep(0.05)
sys.stderr.write(line + "\\n")
"""


def repeat_after_launcher(error: BaseException) -> None:
    """Write `type: message` to standard error once the launcher above this process is gone, at most 10 s from now."""
    if not under_single_launcher():
        return
    line = f"{type(error).__name__}: {error}"
    command = [sys.executable, "-S", "-c", WAIT_AND_WRITE, str(os.getppid()), line]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)


def under_single_launcher() -> bool:
    """Whether accelerate started this process alone; its launcher says so in the environment."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    return launched and "TORCHELASTIC_RUN_ID" not in os.environ and QUIET_LAUNCHER not in os.environ
