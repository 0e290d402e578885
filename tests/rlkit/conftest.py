"""Tiny captioners of every family, records and clips to feed them, and a whole chain of runs; made once a session."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_synth.video import Clip
from rlkit.models import prepare, tiny

CAPTIONS = [
    "A red circle moves left. Then a blue square spins. Finally a green star grows.",
    "A blue square spins. Then a red circle moves left.",
    "A green star grows. It grows and grows. Finally a red circle moves left. The scene is calm.",
    "A red circle spins.",
    "Finally a green star moves left. Then a blue square grows. A red circle spins. Nothing else happens.",
]
PROMPT = "Describe the video."


@pytest.fixture(scope="session")
def tiny_model():
    """family -> (model, processor) of two layers, a copy for each caller; a parity test takes well under a second."""
    built = {}

    def get(family):
        if family not in built:
            sizes = {"hidden_size": 64, "num_layers": 2, "vision_hidden_size": 32, "vision_depth": 2}
            built[family] = tiny.build(family, [*CAPTIONS * 20, PROMPT, "Yes\n\nNo\n\nYes"], **sizes)
        return copy.deepcopy(built[family])  # adapters, steps and frozen parts of one test are not the next one's

    return get


@pytest.fixture
def tiny_captioner(tiny_model):
    """(family, options of prepare) -> Captioner of its own, all of it trainable unless asked otherwise."""
    return lambda family, **options: prepare(*tiny_model(family), **options)


@pytest.fixture
def make_record():
    """(number of negatives, media kind, offset) -> record with TRL's columns."""

    def get(k=1, kind="video", offset=0, prompt=PROMPT):
        def answer(number):
            return [{"role": "assistant", "content": [{"type": "text", "text": CAPTIONS[number % len(CAPTIONS)]}]}]

        parts = [{"type": kind}] if kind in ("video", "image") else []
        return {
            "prompt": [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}],
            "chosen": answer(offset),
            "rejected": [answer(offset + 1 + number) for number in range(k)],
        }

    return get


@pytest.fixture
def make_clip():
    """(frames, seconds between them, seed) -> Clip of noise."""

    def get(num_frames=6, spacing=0.5, seed=0, size=56):
        frames = np.random.default_rng(seed).integers(0, 255, (num_frames, size, size, 3), dtype=np.uint8)
        times = np.arange(num_frames) * spacing
        return Clip(frames, times, num_frames * spacing, 1 / spacing)

    return get


@pytest.fixture
def make_image():
    """seed -> PIL image of noise."""

    def get(seed=0, size=(56, 56)):
        pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return get


HEADER, FOOTER = 'rlkit: r"""\n', '# """; import rlkit; rlkit.main(__name__)\n'

BASE = """\
algorithm: sft
model: {init: qwen2_5_vl, vision: full}
data: {num_clips: 16, noise: {}, probe_share: 0.3, num_frames: 6, frame_size: 56}
train: {learning_rate: 1.0e-3, per_device_train_batch_size: 8, max_steps: 4, logging_steps: 2, save_steps: 2}
evaluate: {num_clips: 4, max_new_tokens: 8, probe_clips: 2, controls: [blind]}
variants: {base_shuffled: {data.shuffle_frames: true}}
"""

DPO = """\
algorithm: dpo
needs: [base_caption.yaml]
model: {id: runs/base_caption/final}
data: {num_clips: 12, num_labelled: 8, num_frames: 6, frame_size: 56}
negatives: [own_samples, order_swap, verbose, event_replace]
num_negatives: 3
sampling: {num_samples: 2, judge: world, max_completion_length: 8}
loss: {types: {softmax: 1.0, sft: 0.5}, beta: 0.2, anchor: 0.1, video_conditional: 0.1}
train: {learning_rate: 1.0e-3, per_device_train_batch_size: 4, max_steps: 6, logging_steps: 1, save_steps: 2}
guards: {every: 3, num_clips: 4}
evaluate: {num_clips: 4, max_new_tokens: 8, probe_clips: 2, controls: [blind], compare_with: {base: runs/base_caption}}
variants:
  dpo_k1: {num_negatives: 1}
  dpo_shuffled: {data.shuffle_frames: true, model.id: runs/base_caption/variants/base_shuffled/final}
"""


def write_recipes(folder: Path) -> None:
    """base_caption.yaml and dpo_caption.yaml, launchable."""
    for name, text in (("base_caption", BASE), ("dpo_caption", DPO)):
        (folder / f"{name}.yaml").write_text(HEADER + text + FOOTER, encoding="utf-8")


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    """The folder in which dpo_caption.yaml was run, with all it needs."""
    from rlkit.run import run

    folder = tmp_path_factory.mktemp("chain")
    write_recipes(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        run("dpo_caption.yaml")
    finally:
        os.chdir(before)
    return folder


# Redness, so that any picture differs from any other; stops the run at the call that the file stop_at names.
REDNESS = """\
from pathlib import Path
import numpy as np
calls = 0
def load(device="cpu", *, missing: bool = False, flat: bool = False):
    def score(*, prompts, completions, **_):
        global calls
        calls += 1
        stop = Path("stop_at")
        if stop.is_file() and int(stop.read_text()) == calls:
            stop.unlink()
            raise RuntimeError("power cut")
        found = [0.5 if flat else float(np.asarray(one, np.float64)[..., 0].mean()) for one in completions]
        return [None if missing and at % 4 == 0 else float("nan") if missing and at % 4 == 1 else value
                for at, value in enumerate(found)]
    def score_tensors(*, prompts, pixels):
        return 255 * pixels[:, 0].mean((1, 2))
    score.score_tensors = score_tensors
    return score
"""
GENERATOR_RECIPE = """\
algorithm: {algorithm}
model:
  id: {model}
  lora: {{r: 4, lora_alpha: 8.0}}
rewards: [./redness.py]
generation: {{resolution: 16, num_inference_steps: 3, num_generations: 4, eval_inference_steps: 2, eval_samples: 2}}
online: {{num_iterations: 2}}
train:
  learning_rate: 1.0e-2
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 2
  max_steps: 3
  logging_steps: 1
evaluate: {{num_clips: 2}}
guard: {{every: 0}}
"""


@pytest.fixture(scope="session")
def flow_folder(tmp_path_factory):
    """A flow pipeline of the smallest size that paints 16 x 16 pixels, with random weights."""
    from data_synth.world import pictures
    from rlkit.models import tiny_pipelines

    folder = tmp_path_factory.mktemp("flow")
    texts = [pictures.prompt(one) for one in pictures.descriptions()[::9]]
    tiny_pipelines.flow_default(texts, size=16, patch_size=8, width=32, layers=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def epsilon_folder(tmp_path_factory):
    """The same of an epsilon pipeline."""
    from data_synth.world import pictures
    from rlkit.models import tiny_pipelines

    folder = tmp_path_factory.mktemp("epsilon")
    texts = [pictures.prompt(one) for one in pictures.descriptions()[::9]]
    tiny_pipelines.epsilon_default(texts, size=16, widths=(8, 16)).save_pretrained(folder)
    return folder


@pytest.fixture
def generator_recipe(flow_folder, epsilon_folder, tmp_path, monkeypatch):
    """algorithm -> recipe.yaml on the pipeline it trains, with the reward redness.py, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "redness.py").write_text(REDNESS)

    def write(algorithm):
        path = tmp_path / f"tiny_{algorithm}.yaml"
        model = epsilon_folder if algorithm == "ddpo" else flow_folder
        path.write_text(GENERATOR_RECIPE.format(algorithm=algorithm, model=model))
        return path

    return write
