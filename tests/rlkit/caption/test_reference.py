"""Cached reference log-probs: the right values, found again after a kill, refused when anything changed."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rlkit import models
from rlkit.caption import one_row, reference, rows
from rlkit.errors import ModelError
from rlkit.models import tiny
from rlkit.recipe import Lora
from rlkit.running import ranks


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(reference, "CHUNK", 4)


@pytest.fixture
def captioner():
    sizes = {"hidden_size": 32, "num_layers": 1, "vision_hidden_size": 32, "vision_depth": 1}
    model, processor = tiny.build("qwen2_5_vl", ["A red circle moves left. Describe the video."] * 5, **sizes)
    return models.prepare(model, processor, vision="frozen")


@pytest.fixture
def examples(captioner, make_record, make_clip):
    """Ten rows of one to three negatives."""
    return [
        rows.encode(captioner, make_record(1 + row % 3, offset=row), make_clip(seed=row), index=row)
        for row in range(10)
    ]


def stored(kept, captioner, examples):
    batch = rows.collate(examples)
    with torch.no_grad():
        expected, mask = one_row.separate_log_probs(captioner, batch)
    return kept.lookup(batch), expected, mask


def test_lookup_gives_the_models_log_probs(small_chunks, tmp_path, captioner, examples):
    kept = reference.precompute(captioner, examples, tmp_path, data="d", batch_size=3)
    found, expected, mask = stored(kept, captioner, [examples[7], examples[0], examples[5]])
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-5, atol=1e-5)
    assert not found[~mask].any()


def test_the_reference_of_lora_is_the_adapter_disabled(small_chunks, tmp_path, captioner, examples):
    plain = reference.precompute(captioner, examples, tmp_path, data="d")
    adapted = models.prepare(captioner.model, captioner.processor, vision="frozen", lora=Lora(r=2))
    for name, parameter in adapted.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    kept = reference.precompute(adapted, examples, tmp_path, data="d")
    assert kept.folder == plain.folder  # the same reference weights: the same key
    adapted.model.train()
    with reference.reference_mode(adapted):
        assert not adapted.model.training
    assert adapted.model.training


def test_finished_chunks_are_not_computed_again(small_chunks, tmp_path, captioner, examples):
    kept = reference.precompute(captioner, examples, tmp_path, data="d")
    files = sorted(kept.folder.glob("*.safetensors"))
    assert len(files) == 3
    before = {path.name: path.read_bytes() for path in files}
    files[1].unlink()  # as after a kill: the others are whole
    untouched = files[0].stat().st_mtime_ns
    reference.precompute(captioner, examples, tmp_path, data="d")
    assert files[0].stat().st_mtime_ns == untouched
    assert {path.name: path.read_bytes() for path in files} == before


def test_a_half_written_file_is_never_read(small_chunks, tmp_path, captioner, examples):
    kept = reference.precompute(captioner, examples, tmp_path, data="d")
    name = "log_probs-000001.safetensors"
    (kept.folder / name).rename(kept.folder / f".{name}.123")  # what a kill during the write leaves
    again = reference.precompute(captioner, examples, tmp_path, data="d")
    found, expected, mask = stored(again, captioner, examples[4:8])
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", ["data", "settings", "weights", "processor", "count"])
def test_anything_that_changes_the_values_changes_the_folder(small_chunks, tmp_path, captioner, examples, change):
    arguments = {"data": "d", "settings": {"num_frames": 6}}
    first = reference.precompute(captioner, examples, tmp_path, **arguments)
    if change == "weights":
        with torch.no_grad():
            captioner.model.lm_head.weight[0, 0] += 1e-3
    elif change == "processor":
        captioner.processor.chat_template += " "
    elif change == "count":
        examples = examples[:5]
    else:
        arguments[change] = {"num_frames": 8} if change == "settings" else "other"
    assert reference.precompute(captioner, examples, tmp_path, **arguments).folder != first.folder


def test_a_sample_that_differs_is_an_error(small_chunks, tmp_path, captioner, examples, make_clip, make_record):
    """Pixels that changed under the same key, as when a decoder was updated."""
    kept = reference.precompute(captioner, examples, tmp_path, data="d")
    other = [rows.encode(captioner, make_record(1 + row % 3, offset=row), make_clip(seed=99), index=row)
             for row in range(10)]  # fmt: skip
    with pytest.raises(ModelError, match=f"differ from the stored ones by up to.*delete {kept.folder}"):
        reference.precompute(captioner, other, tmp_path, data="d")


def test_answers_that_changed_are_noticed_at_lookup(small_chunks, tmp_path, captioner, examples):
    kept = reference.precompute(captioner, examples, tmp_path, data="d")
    batch = rows.collate([dataclasses.replace(examples[0], index=1)])
    with pytest.raises(ModelError, match="row 1 has answers of"):
        kept.lookup(batch)


def test_the_chosen_answer_alone_can_be_looked_up(small_chunks, tmp_path, captioner, examples):
    kept = reference.precompute(captioner, examples, tmp_path, data="d")
    alone = dataclasses.replace(
        examples[2], answers=examples[2].answers[:1], spans=examples[2].spans[:1], rejected_weight=[]
    )
    whole = kept.lookup(rows.collate([examples[2]]))
    found = kept.lookup(rows.collate([alone]))
    assert torch.equal(found[0, 0], whole[0, 0, : found.shape[-1]])


def test_processes_share_the_chunks(small_chunks, tmp_path, captioner, examples, monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "wait", lambda: None)
    for rank in (1, 0):
        monkeypatch.setattr(ranks, "number", lambda rank=rank: rank)
        kept = reference.precompute(captioner, examples, tmp_path, data="d", num_checked=0)
        assert len(list(kept.folder.glob("*.safetensors"))) == (1 if rank else 3)


def test_reading_one_row_does_not_load_the_file(tmp_path):
    """Memory does not grow with the data set: a row of a 100 MB chunk costs a few MiB."""
    from safetensors.numpy import save_file

    lengths = np.full((256, 2), 50_000, dtype=np.int32)
    starts = np.arange(256, dtype=np.int64) * 100_000
    values = np.zeros(256 * 100_000, dtype=np.float32)
    save_file({"log_probs": values, "starts": starts, "lengths": lengths}, tmp_path / "log_probs-000000.safetensors")
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("resident memory is read from /proc")
    before = int(status.read_text().split()[1])
    row = reference.ReferenceLogProbs(tmp_path, 256).row(100)
    grown = (int(status.read_text().split()[1]) - before) * 4096
    assert len(row[0]) == 50_000 and grown < 20 * 2**20


def test_fingerprint_reads_text_and_files(tmp_path, make_record):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"one")
    record = make_record(2) | {"videos": ["a.mp4"]}
    first = reference.fingerprint([record], tmp_path)
    assert reference.fingerprint([json.loads(json.dumps(record))], tmp_path) == first
    video.write_bytes(b"two")
    second = reference.fingerprint([record], tmp_path)
    record["rejected"] = record["rejected"][::-1]
    assert len({first, second, reference.fingerprint([record], tmp_path)}) == 3
