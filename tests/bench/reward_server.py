"""Requests per second of the reward server with a trivial reward, beside a bare FastAPI endpoint of the same schema.

    python tests/bench/reward_server.py [--seconds 4] [--connections 32]

Both run as processes of their own under uvicorn; this process sends requests over kept connections, so that on two
cores a server has about one. `peer` validates the same request and answers at once: no token, no queue, no batches, no
deadlines. Seconds are those of 1,000 requests. Beside them stand requests per second, and the CPU time that the server
took for one (Linux), which other load on the machine moves less.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REWARD = """
def load(device="cpu"):
    def score(*, prompts, completions, **columns):
        return [float(len(one)) for one in completions]
    return score
"""
PEER = """
import sys
import uvicorn
from fastapi import FastAPI
from reward_models.serving import wire

app = FastAPI()

@app.post("/score")
async def score(request: wire.Request) -> wire.Reply:
    items = [wire.Scored(score=float(len(one.completion)), error=None) for one in request.items]
    return wire.Reply(schema=wire.SCHEMA, items=items, rewards={"length": items})

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False, ws="none")
"""
ROUNDS = 5


def main() -> None:
    """Measure in turns and print one JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    ports = [free_port(), free_port()]
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        servers = start(Path(folder), *ports)
        try:
            for port in ports:
                wait_for(port)
            for items in (1, 16):
                cases.append(compare(servers, ports, items, given))
        finally:
            for server in servers:
                server.send_signal(signal.SIGTERM)
            for server in servers:
                server.wait(40)
    print(json.dumps({"bench": "reward_server", "cases": cases}))


def compare(servers: list[subprocess.Popen], ports: list[int], items: int, given: argparse.Namespace) -> dict:
    """Both servers in turns, after a first round that does not count."""
    rates: list[list[float]] = [[], []]
    cpu: list[list[float]] = [[], []]
    for round_ in range(ROUNDS + 1):
        for side, port in enumerate(ports):
            before = cpu_seconds(servers[side].pid)
            seconds = given.seconds if round_ else 1.0
            count, took = asyncio.run(ask_for(port, items, seconds, given.connections))
            if round_:
                rates[side].append(count / took)
                cpu[side].append((cpu_seconds(servers[side].pid) - before) / count * 1e6)
    ours, peer = (statistics.median(found) for found in rates)
    print(f"items={items}: {[round(r) for r in rates[0]]} requests/s, bare FastAPI {[round(r) for r in rates[1]]}")
    return {
        "case": f"items={items}",
        "ours_s": round(1000 / ours, 4),
        "peer_s": round(1000 / peer, 4),
        "ratio": round(peer / ours, 3),
        "ours_requests_per_s": round(ours, 1),
        "peer_requests_per_s": round(peer, 1),
        "ours_cpu_us": round(statistics.median(cpu[0])),
        "peer_cpu_us": round(statistics.median(cpu[1])),
    }


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has taken, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(folder: Path, ours: int, peer: int) -> list[subprocess.Popen]:
    """Both servers, as `rlkit reward serve` starts ours."""
    (folder / "length.py").write_text(REWARD)
    (folder / "rewards.yaml").write_text("length: {reward: ./length.py}\n")
    (folder / "peer.py").write_text(PEER)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    code = f"from reward_models.serving.server import serve; serve({str(folder / 'rewards.yaml')!r}, port={ours})"
    commands = [[sys.executable, "-c", code], [sys.executable, str(folder / "peer.py"), str(peer)]]
    return [subprocess.Popen(command, env=environment) for command in commands]


async def ask_for(port: int, items: int, seconds: float, connections: int) -> tuple[int, float]:
    """(requests, seconds); each connection asks again as soon as it has its answer."""
    rows = [{"prompt": "Describe the clip.", "completion": "A dog barks. Then it runs away.", "columns": {}}] * items
    body = json.dumps({"schema": 1, "reward": "length", "items": rows}).encode()
    head = f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    request, started = head.encode() + body, time.perf_counter()
    counts = await asyncio.gather(*(_ask(port, request, items, started + seconds) for _ in range(connections)))
    return sum(counts), time.perf_counter() - started


async def _ask(port: int, request: bytes, items: int, until: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    done = 0
    while time.perf_counter() < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(length)
        if b" 200 " not in head[:20] or answer.count(b"31.0") != 2 * items:
            raise RuntimeError(f"unexpected answer: {head[:100]!r} {answer[:200]!r}")
        done += 1
    writer.close()
    return done


def wait_for(port: int) -> None:
    """Until the port answers."""
    for _ in range(300):
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing answers at port {port}")


def free_port() -> int:
    """A port nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    main()
