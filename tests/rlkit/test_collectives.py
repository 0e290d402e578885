"""Processes that must reach each other: the launch lines of two machines work, and ranks that are absent are named."""

import json
import os
import socket
import subprocess
import sys

import pytest

from rlkit import collectives
from rlkit.errors import RlkitError
from rlkit.plugins import ROOT


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_launch_line_of_several_machines():
    """accelerate_configs/multi_node.yaml started twice here, as two machines of one process each."""
    line = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
    line += ["--config_file", str(ROOT / "accelerate_configs/multi_node.yaml"), "--num_processes", "2"]
    line += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [*line, "--machine_rank", str(rank), "-m", "rlkit.collectives"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [one.communicate(timeout=240) for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    found = json.loads(told[0][0].splitlines()[-1])
    assert found["ranks"] == 2 and found["backend"] == "gloo" and found["ms"] > 0
    assert told[1][0] == ""  # one process speaks


def test_a_rank_that_never_comes_is_named(monkeypatch, capsys):
    monkeypatch.setattr(collectives, "PATIENCE_S", 1)
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    assert collectives.main() == 1
    assert "waited 1 s for rank 1, 2 of 3" in capsys.readouterr().err


def test_a_main_process_that_cannot_be_reached_is_told(monkeypatch):
    monkeypatch.setattr(collectives, "PATIENCE_S", 1)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(RlkitError, match=r"rank 1 on .* at MASTER_ADDR:MASTER_PORT"):
        collectives.measure()


def test_alone_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.delenv("RANK", raising=False)
    assert collectives.main() == 2
    assert "rlkit doctor" in capsys.readouterr().err
