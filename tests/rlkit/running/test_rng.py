"""Random numbers go on where a checkpoint left them, by files that hold no pickle."""

import random

import numpy as np
import torch

from rlkit.running import ranks, rng


def drawn():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), np.random.randn(), random.random(), random.gauss(0, 1)


def test_all_three_go_on_from_the_files(tmp_path):
    np.random.randn(), random.gauss(0, 1)  # each keeps a second number for the next call
    rng.save(tmp_path, {"measured": {"loss": [0.5]}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rng-0.json", "rng-0.safetensors"]
    first, second = drawn(), drawn()
    assert first != second
    assert rng.load(tmp_path) == {"measured": {"loss": [0.5]}}
    assert (drawn(), drawn()) == (first, second)


def test_a_process_more_than_there_were_goes_on_as_it_is(tmp_path, monkeypatch):
    rng.save(tmp_path)
    monkeypatch.setattr(ranks, "number", lambda: 1)
    before = torch.get_rng_state()
    assert rng.load(tmp_path) is None and torch.equal(torch.get_rng_state(), before)
