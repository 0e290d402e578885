"""A reward server that is killed in the middle of a run, and one that never comes back."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("fastapi")

import reward_models
from rlkit.run import run as launch

ROOT = Path(__file__).parents[3]
RECIPE = """\
algorithm: nft
model:
  id: {model}
  lora: {{r: 4, lora_alpha: 8.0}}
rewards: [{reward}]
generation: {{resolution: 16, num_inference_steps: 2, num_generations: 4, eval_inference_steps: 2, eval_samples: 2}}
guard: {{every: 0}}
train:
  learning_rate: 1.0e-2
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 2
  max_steps: 8
  logging_steps: 1
  save_steps: 0
evaluate:
  num_clips: 2
"""


class Server:
    """`rlkit reward serve` of redness.py as "red", on a port of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        (folder / "rewards.yaml").write_text("red: {reward: ./redness.py}\n")
        self.folder = folder
        self.start()

    def start(self) -> None:
        command = ["reward", "serve", str(self.folder / "rewards.yaml"), "--port", str(self.port)]
        code = f"from rlkit.cli import main; main({command})"
        self.process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def reward(self, **options) -> str:
        told = {"url": f"http://127.0.0.1:{self.port}", "reward": "red", "columns": [], **options}
        return f"{{http: {told}}}"


@pytest.fixture
def server(workplace, tmp_path):
    one = Server(tmp_path)
    asked = reward_models.load("http", url=f"http://127.0.0.1:{one.port}", columns=[])
    assert asked(prompts=[""], completions=[Image.new("RGB", (16, 16))]) == [0.0]  # it is up
    yield one
    one.kill()


def launched(recipe: Path, server: Server, *, again: bool):
    """The folder of a run whose server is killed after its first step, and `again` started again at once."""
    metrics, taken = Path("runs/there/metrics.jsonl"), []

    def watch():
        while not (metrics.is_file() and metrics.read_text()):
            time.sleep(0.002)
        server.kill()
        taken.append(metrics.read_text().count("\n"))
        if again:
            server.start()

    watching = threading.Thread(target=watch)
    watching.start()
    folder = launch(recipe)[-1]
    watching.join()
    assert taken[0] < 6, "the server has to die in the middle of the run"
    return folder


def test_killed_and_started_again_it_changes_nothing(server, workplace, flow_folder):
    here = launch(workplace("here", RECIPE.format(model=flow_folder, reward="./redness.py")))[-1]
    there = launched(workplace("there", RECIPE.format(model=flow_folder, reward=server.reward())), server, again=True)
    name = "pytorch_lora_weights.safetensors"
    assert (there.final / name).read_bytes() == (here.final / name).read_bytes()
    assert there.results()["cost"]["missing_rewards"] == 0


def test_gone_for_good_its_rewards_are_masked_and_counted(server, workplace, flow_folder):
    recipe = workplace("there", RECIPE.format(model=flow_folder, reward=server.reward(retries=0, timeout=20.0)))
    found = launched(recipe, server, again=False).results()
    assert found["complete"] and 8 <= found["cost"]["missing_rewards"] <= 7 * 8  # rounds of eight pictures
