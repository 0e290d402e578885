"""Generators of the smallest size as folders, and a finished set of pairs of one's pictures; made once a session."""

import json
import os
from pathlib import Path

import pytest

# Redness of a picture or clip, so that any one differs from any other; `missing` leaves out each fourth of a call.
REDNESS = """\
import numpy as np
def load(device="cpu", *, missing: bool = False, constant: bool = False):
    def score(*, prompts, completions, **_):
        found = [1.0 if constant else float(np.asarray(one, np.float64)[..., 0].mean()) for one in completions]
        return [None if missing and at % 4 == 0 else value for at, value in enumerate(found)]
    return score
"""
PAIRS = """\
algorithm: pairs_image
model: {{id: {model}}}
rewards: {rewards}
generation: {{resolution: 16, num_inference_steps: 2, num_generations: 4}}
image_pairs: {{num_groups: 10, rows_per_shard: 4, batch_size: 8, redraw: 2}}
"""
OFFLINE = """\
algorithm: {algorithm}
model:
  id: {model}
  lora: {{r: 4, lora_alpha: 8.0}}
data: {{source: pairs, pairs: {pairs}}}
rewards: [./redness.py]
guard: {{every: 0}}
generation: {{resolution: 16, eval_inference_steps: 2, eval_samples: 2}}
train:
  learning_rate: 1.0e-2
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 2
  max_steps: 3
  lr_scheduler_type: constant
  logging_steps: 1
  save_steps: {save}
evaluate:
  num_clips: 3
  best_of: 2
  held_out_rewards: [{{world_picture: {{measure: saturation}}}}]
"""


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory):
    """family -> folder of its tiny pipeline of tiny_pipelines.build."""
    pytest.importorskip("diffusers")
    from data_synth.world import pictures
    from rlkit.models import tiny_pipelines

    folders = {}

    def folder(family):
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            texts = [pictures.prompt(one) for one in pictures.descriptions()[::9]]
            tiny_pipelines.build(family, texts).save_pretrained(folders[family])
        return folders[family]

    return folder


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working directory with redness.py in it; (name, text) -> path of a recipe there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "redness.py").write_text(REDNESS)

    def write(name, text):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture(scope="session")
def picture_pairs(flow_folder, tmp_path_factory):
    """The folder of ten pairs of the flow pipeline's pictures, ranked by redness."""
    from rlkit.run import run

    folder = tmp_path_factory.mktemp("pairs")
    (folder / "redness.py").write_text(REDNESS)
    (folder / "pairs_image.yaml").write_text(PAIRS.format(model=flow_folder, rewards="[./redness.py]"))
    before = Path.cwd()
    os.chdir(folder)
    try:
        return run("pairs_image.yaml")[-1].path
    finally:
        os.chdir(before)


@pytest.fixture
def offline_recipe(workplace, flow_folder, picture_pairs):
    """(algorithm, save_steps, pairs, model) -> path of a recipe that trains on these pairs."""

    def write(algorithm, *, save=0, pairs=picture_pairs, model=flow_folder):
        text = OFFLINE.format(algorithm=algorithm, model=model, pairs=pairs, save=save)
        return workplace(algorithm, text)

    return write


@pytest.fixture
def numbers():
    """folder -> metrics.jsonl without the clock."""

    def read(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if not name.startswith("time")} for line in lines]

    return read
