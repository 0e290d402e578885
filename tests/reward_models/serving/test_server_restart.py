"""kill -9 of the server in the middle of a scoring job, and a new start: nothing lost, nothing doubled, masked counted.

python tests/reward_models/serving/test_server_restart.py 5000     # the same by hand, with that many items
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq

import reward_models
from reward_models.serving.calling import Row
from reward_models.serving.scoring_job import Item, score_file

ROOT = Path(__file__).parents[3]
REWARD = """
import time

def load(device="cpu"):
    def score(*, prompts, completions):
        time.sleep(0.002 * len(completions))
        return [None if int(one) % 7 == 0 else 10.0 * int(one) for one in completions]
    return score
"""


def start(folder: Path, port: int) -> subprocess.Popen:
    (folder / "tens.py").write_text(REWARD)
    (folder / "rewards.yaml").write_text("tens: {reward: ./tens.py}\n")
    command = ["reward", "serve", str(folder / "rewards.yaml"), "--port", str(port)]
    code = f"from rlkit.cli import main; main({command})"
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def restart_while_scoring(folder: Path, count: int, kills: int):
    """(summary, rows of the file, the client's stats) of a job whose server is killed and started again."""
    port = free_port()
    servers = [start(folder, port)]
    score = reward_models.load("http", url=f"http://127.0.0.1:{port}", reward="tens", batch_size=4)
    items = (Item(f"item {k}", lambda k=k: Row("", str(k))) for k in range(count))
    out, found = folder / "scores.parquet", []
    job = threading.Thread(target=lambda: found.append(score_file(score, items, out, job={}, batch_size=16)))
    try:
        job.start()
        for number in range(1, kills + 1):
            while score.stats.rows < count * number // (kills + 1):
                assert job.is_alive()
                time.sleep(0.005)
            servers[-1].send_signal(signal.SIGKILL)
            servers[-1].wait()
            assert job.is_alive() and score.stats.rows < count, "the server has to die in the middle of the job"
            servers.append(start(folder, port))
        job.join()
    finally:
        servers[-1].send_signal(signal.SIGTERM)
        code = servers[-1].wait(40)
    assert code in (0, -signal.SIGTERM)
    return found[0], pq.read_table(out).to_pylist(), score.stats


def check(found, rows, stats, count: int) -> None:
    masked = (count + 6) // 7  # 0, 7, 14, ..
    assert [row["id"] for row in rows] == [f"item {k}" for k in range(count)]
    assert [row["score"] for row in rows] == [None if k % 7 == 0 else 10.0 * k for k in range(count)]
    assert (found.rows, found.masked, found.scored) == (count, masked, count - masked)
    assert (stats.rows, stats.abstained, stats.failed, stats.scored) == (count, masked, 0, count - masked)
    assert stats.retries > 0


def test_a_scoring_job_survives_the_death_of_its_server(tmp_path):
    check(*restart_while_scoring(tmp_path, 400, kills=1), 400)


def test_a_server_told_to_stop_answers_what_it_has_begun(tmp_path):
    port = free_port()
    server = start(tmp_path, port)
    score = reward_models.load("http", url=f"http://127.0.0.1:{port}", batch_size=500, timeout=20.0)
    assert score(prompts=[""], completions=["1"]) == [10.0]  # it is up
    found = []
    asking = threading.Thread(
        target=lambda: found.extend(score(prompts=[""] * 250, completions=[str(k + 1) for k in range(250)]))
    )
    before = score.stats.retries
    asking.start()
    time.sleep(0.2)  # of 0.5 that the reward takes
    server.send_signal(signal.SIGTERM)
    asking.join()
    assert server.wait(20) in (0, -signal.SIGTERM)
    assert found == [None if k % 7 == 0 else 10.0 * k for k in range(1, 251)] and score.stats.retries == before


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", type=int, default=5000, nargs="?")
    parser.add_argument("--kills", type=int, default=3)
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        told = restart_while_scoring(Path(place), given.items, given.kills)
    check(*told, given.items)
    print(f"{given.items} items, {given.kills} kills, {time.monotonic() - began:.1f} s: {told[0]} {told[2]}")
