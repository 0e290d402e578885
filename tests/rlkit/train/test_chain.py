"""What a finished run leaves behind, and what its numbers must be whatever the model learnt."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_synth.records import read_records


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_results_name_every_system_with_intervals(chain):
    results = json.loads((chain / "runs/dpo_caption/results.json").read_text())
    assert results["complete"]
    assert set(results["systems"]) == {"base", "dpo", "dpo_k1", "dpo_shuffled"}
    for system in results["systems"].values():
        for metric in ("order_exact", "event_recall", "extra_sentences", "skill_probe", "blind_order_exact"):
            assert set(system[metric]) >= {"value", "low", "high", "n"}
    assert results["systems"]["dpo"]["order_exact"]["n"] == 4


def test_the_final_folder_is_an_ordinary_hugging_face_folder(chain):
    final = chain / "runs/dpo_caption/final"
    model = AutoModelForImageTextToText.from_pretrained(final)
    start = AutoModelForImageTextToText.from_pretrained(chain / "runs/base_caption/final")
    assert AutoProcessor.from_pretrained(final).tokenizer.eos_token == "<|im_end|>"
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, start.state_dict()[name])}
    assert any("language_model" in name for name in moved)
    assert not any("visual" in name for name in moved)  # vision: frozen


def test_only_safetensors_and_plain_files_are_left_in_final(chain):
    names = {path.suffix for path in (chain / "runs/dpo_caption/final").iterdir()}
    assert names <= {".safetensors", ".json", ".jinja", ".md", ".txt"}


def test_checkpoints_hold_no_pickle(chain):
    files = [path for path in (chain / "runs").glob("*/checkpoints/checkpoint-*/*") if path.is_file()]
    assert {"moments.safetensors", "schedule.json", "rng-0.safetensors"} <= {path.name for path in files}
    starts = {path.name: path.read_bytes()[:4] for path in files}
    assert not {name for name, start in starts.items() if start.startswith((b"PK", b"\x80"))}  # torch.save's, pickle's


def test_the_first_step_has_margin_zero_for_policy_equals_reference(chain):
    first = next(line for line in lines(chain / "runs/dpo_caption/metrics.jsonl") if "rewards/margins" in line)
    assert first["step"] == 1
    assert first["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert first["rewards/chosen"] == pytest.approx(0.0, abs=1e-5)


def test_rows_share_their_prefix(chain):
    ratios = [
        line["sharing_ratio"] for line in lines(chain / "runs/dpo_caption/metrics.jsonl") if "sharing_ratio" in line
    ]
    assert ratios
    assert min(ratios) > 1.2  # 1 + 3 answers on a short prompt; 1.0 would be no sharing


def test_guards_were_measured_from_the_start(chain):
    measured = [line["step"] for line in lines(chain / "runs/dpo_caption/metrics.jsonl") if "order_accuracy" in line]
    assert measured == [0, 3, 6]


def test_pairs_carry_provenance_and_load_memory_mapped(chain):
    records = read_records(chain / "runs/dpo_caption/pairs")
    assert len(records) >= 8
    for record in records:
        assert record["source_id"].startswith("train-")
        assert record["operator"]
        assert len(record["rejected"]) == len(record["rejected_kind"]) <= 3
        assert record["chosen"] not in record["rejected"]


def test_the_k1_variant_has_one_negative_per_pair(chain):
    records = read_records(chain / "runs/dpo_caption/variants/dpo_k1/pairs")
    assert {len(record["rejected"]) for record in records} == {1}


def test_a_finished_run_is_not_run_again(chain, monkeypatch, capsys):
    from rlkit.run import run

    monkeypatch.chdir(chain)
    path = chain / "runs/dpo_caption/results.json"
    before = path.stat().st_mtime_ns
    run("dpo_caption.yaml")
    assert path.stat().st_mtime_ns == before
    assert "already finished" in capsys.readouterr().out


def test_the_report_is_one_file_with_the_captions(chain):
    text = (chain / "runs/dpo_caption/report.html").read_text(encoding="utf-8")
    assert "<table" in text
    assert 'src="http' not in text
    assert "data:image/jpeg;base64," in text


def test_a_run_killed_after_its_last_step_ends_with_the_same_bytes(chain, tmp_path, monkeypatch):
    # transformers 5.23 would load nothing from a Qwen2.5-VL checkpoint, and take one more step
    from rlkit.run import run

    shutil.copytree(chain / "runs/base_caption", tmp_path / "runs/base_caption")
    shutil.copy(chain / "base_caption.yaml", tmp_path)
    folder = tmp_path / "runs/base_caption"
    for name in ("results.json", "evaluation.jsonl"):
        (folder / name).unlink()
    shutil.rmtree(folder / "final")
    monkeypatch.chdir(tmp_path)
    run("base_caption.yaml")
    for name in ("final/model.safetensors", "evaluation.jsonl"):
        assert (folder / name).read_bytes() == (chain / "runs/base_caption" / name).read_bytes(), name


def test_a_variant_of_sft_has_weights_of_its_own_and_dpo_starts_from_them(chain):
    own = AutoModelForImageTextToText.from_pretrained(chain / "runs/base_caption/final").state_dict()
    shuffled_folder = chain / "runs/base_caption/variants/base_shuffled/final"
    shuffled = AutoModelForImageTextToText.from_pretrained(shuffled_folder).state_dict()
    started = AutoModelForImageTextToText.from_pretrained(chain / "runs/dpo_caption/variants/dpo_shuffled/final")
    visual = [name for name in own if "visual" in name]
    assert any(not torch.equal(own[name], shuffled[name]) for name in visual)
    assert all(torch.equal(started.state_dict()[name], shuffled[name]) for name in visual)  # DPO froze them
    results = json.loads((chain / "runs/base_caption/results.json").read_text())
    assert set(results["systems"]) == {"base", "base_shuffled"}
