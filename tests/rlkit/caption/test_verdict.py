"""The score of an answer is read at its end, whatever else the row and the batch hold."""

import pytest
import torch

from rlkit.caption import one_row, rows, verdict
from rlkit.errors import ModelError
from rlkit.models import tiny


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_scores_are_those_of_the_stock_forward_on_separate_rows(tiny_captioner, make_record, make_clip, family):
    captioner = tiny_captioner(family)
    frames = 6 if family == "llava_onevision" else 4
    examples = [
        rows.encode(captioner, make_record(k, "video", offset=k), make_clip(frames, seed=k)) for k in (3, 1)
    ]  # rows with four and with two answers: where one is not there, nothing may be read
    batch = rows.collate(examples)
    yes, no = verdict.tokens(captioner)
    with torch.no_grad():
        found = verdict.scores(captioner, batch)
        for row, example in enumerate(examples):
            for number, answer in enumerate(example.answers):
                ids = torch.cat([example.prompt["input_ids"], answer[None]], 1)
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                if "mm_token_type_ids" in example.prompt:
                    types = example.prompt["mm_token_type_ids"]
                    inputs["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, len(answer)))
                logits = captioner.model(**inputs, **one_row.media(rows.collate([example])), use_cache=False).logits
                expected = logits[0, -1, yes] - logits[0, -1, no]
                torch.testing.assert_close(found[row, number], expected, rtol=1e-5, atol=1e-5)
    assert found.shape == (2, 4) and (found[1, 2:] == 0).all()


def test_a_model_whose_answers_share_no_row_is_refused(tiny_captioner, make_record, make_clip):
    captioner = tiny_captioner("qwen2_5_vl", sharing="off")
    batch = rows.collate([rows.encode(captioner, make_record(), make_clip())])
    with pytest.raises(ModelError, match="sharing is off"):
        verdict.scores(captioner, batch)
