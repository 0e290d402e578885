"""Tiny captioners of every family, built once a session, and records and clips to feed them."""

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
    """family -> (model, processor); two layers, so that a whole parity test takes a fraction of a second."""
    built = {}

    def get(family):
        if family not in built:
            sizes = {"hidden_size": 64, "num_layers": 2, "vision_hidden_size": 32, "vision_depth": 2}
            built[family] = tiny.build(family, [*CAPTIONS * 20, PROMPT, "Yes\n\nNo\n\nYes"], **sizes)
        return built[family]

    return get


@pytest.fixture
def tiny_captioner(tiny_model):
    """(family, options of prepare) -> Captioner on shared weights, all of them trainable unless asked otherwise."""

    def get(family, **options):
        model, processor = tiny_model(family)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        model.zero_grad()
        return prepare(model, processor, **options)

    return get


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
