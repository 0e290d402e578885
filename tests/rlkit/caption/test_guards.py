"""The self-test of time encoding passes on a sound model and names what is wrong with a broken one."""

from dataclasses import replace

import numpy as np
import pytest

from data_synth.records import make_record
from data_synth.video import Clip
from rlkit.caption import generate, rows
from rlkit.caption.guards import forcing_problem, time_problem, true_caption_log_prob
from rlkit.models import prepare, tiny

TEXT = "A red ball moves left. Then a blue ring grows."


def clip(frames: int = 6, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, 56, 56, 3), dtype=np.uint8)
    return Clip(pixels, np.arange(frames) * 0.5, frames * 0.5, 2.0)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def captioner(request):
    model, processor = tiny.build(request.param, [TEXT, "Describe the video."], hidden_size=64, num_layers=2)
    return prepare(model, processor, vision="frozen")


@pytest.fixture(scope="module")
def example(captioner):
    return rows.encode(captioner, make_record("Describe the video.", TEXT, [], videos=["a.mp4"]), clip())


def test_a_sound_model_passes(captioner, example):
    assert time_problem(captioner, example) is None
    assert forcing_problem(captioner, example) is None


def test_other_positions_in_training_than_in_generate_are_found(captioner, example):
    wrong = replace(example, positions=example.positions + torch_ramp(example))
    assert "teacher forcing and generate differ" in forcing_problem(captioner, wrong)


def torch_ramp(example):
    import torch

    return torch.arange(example.positions.shape[1])[None]


def test_greedy_captions_do_not_depend_on_the_batch(captioner):
    clips = [clip(frames, seed) for seed, frames in enumerate((4, 6, 8))]
    record = make_record("Describe the video.", TEXT, [], videos=["a.mp4"])
    examples = [rows.encode(captioner, record, one) for one in clips]
    together = generate.captions(captioner, examples, max_new_tokens=8, batch_size=3)
    alone = generate.captions(captioner, examples, max_new_tokens=8, batch_size=1)
    assert together == alone


def test_samples_are_reproducible_and_differ(captioner, example):
    options = {"max_new_tokens": 8, "num_return_sequences": 4, "temperature": 1.0}
    one, two = (generate.captions(captioner, [example], seed=3, **options) for _ in range(2))
    assert one == two
    assert len(set(one[0])) > 1
    assert generate.captions(captioner, [example], seed=4, **options) != one


def test_log_prob_per_token_does_not_depend_on_the_batch(captioner, example):
    longer = rows.encode(captioner, make_record("Describe the video.", TEXT + TEXT, [], videos=["a.mp4"]), clip(8, 1))
    both = [example, longer]
    assert true_caption_log_prob(captioner, both, 2) == pytest.approx(
        true_caption_log_prob(captioner, both, 1), abs=1e-5
    )
