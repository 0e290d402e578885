"""A DPO step does not depend on how its clips are cut into batches, and starts from margin 0."""

import numpy as np
import pytest
import torch

from data_synth.video import Clip
from rlkit import losses, models
from rlkit.caption import one_row, reference, rows
from rlkit.models import tiny

CAPTIONS = [
    "A red circle moves left. Then a blue square spins.",
    "A blue square spins.",
    "A green star grows. Then it moves left. Finally a red circle spins.",
    "A red circle spins. It is calm.",
]


def message(role, *parts):
    return [{"role": role, "content": list(parts)}]


@pytest.fixture(scope="module")
def captioner():
    sizes = {"hidden_size": 32, "num_layers": 2, "vision_hidden_size": 32, "vision_depth": 1}
    return models.prepare(*tiny.build("qwen2_5_vl", [*CAPTIONS * 10, "Describe the video."], **sizes))


@pytest.fixture(scope="module")
def examples(captioner):
    """Eight clips of different lengths with one to three negatives each."""
    found = []
    for number in range(8):
        answers = [message("assistant", {"type": "text", "text": CAPTIONS[(number + at) % 4]}) for at in range(4)]
        record = {
            "prompt": message("user", {"type": "video"}, {"type": "text", "text": "Describe the video."}),
            "chosen": answers[0],
            "rejected": answers[1 : 2 + number % 3],
        }
        frames = np.random.default_rng(number).integers(0, 255, (4 + 2 * (number % 2), 56, 56, 3), dtype=np.uint8)
        clip = Clip(frames, np.arange(len(frames)) / 2, len(frames) / 2, 2.0)
        found.append(rows.encode(captioner, record, clip, index=number))
    return found


def gradient(captioner, examples, size, types, kept):
    """Gradient of the mean loss over all examples, taken in batches of `size`."""
    captioner.model.zero_grad()
    tokens_per_clip = sum(len(example.answers[0]) for example in examples) / len(examples)
    total = 0.0
    for start in range(0, len(examples), size):
        batch = rows.collate(examples[start : start + size])
        log_probs, mask = one_row.log_probs(captioner, batch)
        loss, _ = losses.preference_loss(
            log_probs, 0.9 * kept.lookup(batch), mask, types=types, num_items_in_batch=tokens_per_clip,
            rejected_weight=batch["rejected_weight"],
        )  # fmt: skip
        part = loss.sum() / len(examples)
        part.backward()
        total += part.item()
    return total, torch.cat([p.grad.flatten() for p in captioner.model.parameters() if p.grad is not None])


@pytest.fixture(scope="module")
def kept(captioner, examples, tmp_path_factory):
    return reference.precompute(captioner, examples, tmp_path_factory.mktemp("reference"), data="invariant")


@pytest.mark.parametrize("types", [{"sigmoid": 1.0, "sft": 0.3}, {"softmax": 1.0}, {"plackett_luce": 1.0, "ipo": 0.1}])
def test_one_batch_of_eight_equals_eight_of_one(captioner, examples, kept, types):
    whole, gradient_whole = gradient(captioner, examples, 8, types, kept)
    parts, gradient_parts = gradient(captioner, examples, 1, types, kept)
    assert parts == pytest.approx(whole, rel=1e-5)
    assert (gradient_whole - gradient_parts).norm() <= 1e-5 * gradient_whole.norm()


def test_the_starting_policy_has_margin_zero(captioner, examples, kept):
    batch = rows.collate(examples)
    with torch.no_grad():
        log_probs, mask = one_row.log_probs(captioner, batch)
    for extra in ({}, {"ld_alpha": 0.2}, {"average_log_prob": True}, {"span_weight": 4.0}):
        _, metrics = losses.preference_loss(
            log_probs, kept.lookup(batch), mask, types={"sigmoid": 1.0}, span_mask=mask & mask, **extra
        )
        assert abs(float(metrics["rewards/margins"])) < 1e-5


def test_padding_does_not_reach_the_loss(captioner, examples, kept):
    """A short row beside a long one gives what it gives alone."""
    short = min(examples, key=lambda example: example.length)
    long = max(examples, key=lambda example: example.length)
    alone, mask = one_row.log_probs(captioner, rows.collate([short]))
    beside, wide = one_row.log_probs(captioner, rows.collate([short, long]))
    torch.testing.assert_close(beside[0][wide[0]], alone[0][mask[0]], rtol=1e-5, atol=1e-6)
