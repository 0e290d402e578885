"""The score of a caption is what its clip adds; hidden, it adds nothing."""

import pytest
import torch

from rlkit.caption import information, one_row, rows
from rlkit.models import tiny


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_both_terms_are_those_of_separate_rows(tiny_captioner, make_record, make_clip, family):
    captioner = tiny_captioner(family)
    frames = 6 if family == "llava_onevision" else 4
    records = [make_record(k, "video", offset=k) for k in (3, 1)]  # rows with four and with two answers
    shown = [rows.encode(captioner, record, make_clip(frames, seed=k)) for k, record in enumerate(records)]
    with torch.no_grad():
        found = information.likelihood(captioner, rows.collate(shown))
        hidden = information.prior(captioner, records)
        for given, examples in ((found, shown), (hidden, [rows.encode(captioner, record) for record in records])):
            expected = one_row.separate_log_probs(captioner, rows.collate(examples))[0].sum(-1)
            torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-4)
    assert found.shape == (2, 4) and (found[1, 2:] == 0).all() and (hidden[1, 2:] == 0).all()


def test_the_prior_carries_no_gradient(tiny_captioner, make_record):
    """With it, a judge would learn to find true captions unlikely without a clip."""
    assert not information.prior(tiny_captioner("qwen2_5_vl"), [make_record(1)]).requires_grad
