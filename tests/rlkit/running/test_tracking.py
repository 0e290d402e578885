"""Tracking: TRL's names in metrics.jsonl, samples in the folder, W&B offline without a login, no network."""

import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import PrinterCallback, Trainer, TrainerState, TrainingArguments

from rlkit.report.film_strip import film_strip, save
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import Null, RunCallback, Tracker, attach, for_transformers, logged_in, open_tracker


def lines(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def no_login(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def pair(**more):
    return {
        "clip": "a.mp4",
        "prompt": "Describe.",
        "chosen": "A, then B.",
        "rejected": ["B, then A.", "A, then B. Nice."],
        "rejected_kind": ["order_swap", "verbose"],
        "margin": [0.5, -0.1],
        **more,
    }


def test_metrics_are_logged_under_trls_names(tmp_path, console):
    tracker = open_tracker([], RunFolder(tmp_path), name="x", config={}, progress=Progress("x", console=console))
    tracker.log({"loss": 0.5, "rewards/margins": 1.0, "note": "text"}, 3)
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 0.5, "rewards/margins": 1.0}]
    assert isinstance(tracker.backend, Null)


def test_a_nan_loss_is_not_hidden(tmp_path, console):
    tracker = open_tracker([], RunFolder(tmp_path), name="x", config={}, progress=Progress("x", console=console))
    tracker.log({"loss": math.nan, "grad_norm": math.inf}, 1)
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": None, "grad_norm": None}]


def test_trainer_logs_reach_the_folder_and_the_panel_and_nothing_else_is_printed(tmp_path, console, capsys):
    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return {"x": torch.ones(1)}

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return {"loss": ((self.w - x) ** 2).mean()}

    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=4,
        logging_steps=2,
        per_device_train_batch_size=2,
        save_strategy="no",
        use_cpu=True,
        report_to=for_transformers(["wandb"]),
        remove_unused_columns=False,
    )
    trainer = Trainer(Model(), arguments, train_dataset=Data())
    with Progress("x", stages=1, console=console) as progress:
        attach(trainer, open_tracker([], RunFolder(tmp_path), name="x", config={}, progress=progress), progress)
        progress.stage("training", total=4)
        trainer.train()
    logged = lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in logged[:2]] == [2, 4]
    assert {"loss", "grad_norm", "learning_rate"} <= set(logged[0])
    assert "4/4  loss" in console.file.getvalue()
    captured = capsys.readouterr()
    assert "loss" not in captured.out and "it/s" not in captured.err
    assert not any(isinstance(callback, PrinterCallback) for callback in trainer.callback_handler.callbacks)


def test_a_part_of_a_run_logs_into_its_own_folder_under_its_own_name(tmp_path, console):
    heard = []

    class Listener(Null):
        def log(self, metrics, step):
            heard.append((metrics, step))

    run = RunFolder(tmp_path)
    tracker = Tracker(run, Listener())
    tracker.log({"loss": 2.0}, 1)
    tracker.part("dpo_k1", run.part("variants/dpo_k1")).log({"loss": 1.0}, 1)
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}]
    assert lines(tmp_path / "variants/dpo_k1/metrics.jsonl") == [{"step": 1, "loss": 1.0}]
    assert heard == [({"loss": 2.0}, 1), ({"dpo_k1/loss": 1.0}, 1)]


def test_samples_go_into_the_folder(tmp_path, console):
    tracker = open_tracker([], RunFolder(tmp_path), name="x", config={}, progress=Progress("x", console=console))
    tracker.pairs([pair()], 10)
    row = {"clip": "a.mp4", "prompt": "Describe.", "truth": "红圆。", "captions": {"base": "x"}, "events": {}}
    tracker.captions([row], 10)
    assert lines(tmp_path / "samples/pairs.jsonl")[0]["rejected_kind"] == ["order_swap", "verbose"]
    assert lines(tmp_path / "samples/eval.jsonl")[0]["truth"] == "红圆。"


def test_pictures_go_into_the_folder_and_as_pictures_to_the_listener(tmp_path, console):
    tracker = open_tracker([], RunFolder(tmp_path), name="x", config={}, progress=Progress("x", console=console))
    told = []
    tracker.backend = SimpleNamespace(table=lambda *all: told.append(all))
    save(film_strip(np.zeros((2, 8, 8, 3), np.uint8), [0, 1]), tmp_path / "samples/pictures/0.png")
    row = {"kind": "worst", "number": 0, "prompt": "A red ball.", "reward": {"base": 0.5, "nft": 0.25}}
    row["pictures"] = {"base": "samples/pictures/0.png", "nft": "samples/pictures/gone.png"}
    tracker.pictures([row], 10)
    assert lines(tmp_path / "samples/pictures.jsonl") == [{**row, "step": 10}]
    ((name, columns, table, step),) = told
    assert (name, step) == ("samples/pictures", 10)
    assert dict(zip(columns, table[0], strict=True)) == {
        "kind": "worst", "prompt": "A red ball.", "base": tmp_path / "samples/pictures/0.png", "nft": None,
        "reward/base": 0.5, "reward/nft": 0.25, "held_out/base": None, "held_out/nft": None,
    }  # fmt: skip


def test_login_is_found_in_environment_and_netrc(no_login, monkeypatch):
    assert not logged_in()
    no_login.write_text("machine api.wandb.ai login user password " + "0" * 40)
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.com")
    assert not logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert logged_in()


def test_without_login_wandb_runs_offline_says_so_once_and_writes_the_run(tmp_path, no_login, console):
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    save(film_strip(frames, [0, 1]), tmp_path / "samples/a.jpg")
    tracker = open_tracker(
        ["wandb"], RunFolder(tmp_path), name="demo", config={"seed": 0}, progress=Progress("x", console=console)
    )
    tracker.log({"loss": 0.5, "eval_loss": 0.25}, 1)
    tracker.pairs([pair(frames="samples/a.jpg"), pair()], 1)
    summary = dict(tracker.backend.run.summary)
    tracker.finish()
    assert console.file.getvalue().count("W&B runs offline, since there is no login") == 1
    assert summary["train/loss"] == 0.5 and summary["eval/loss"] == 0.25
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    table = next((tmp_path / "wandb").rglob("*pairs*.table.json"))
    content = json.loads(table.read_text())
    assert content["columns"] == ["frames", "prompt", "chosen", "rejected", "kind", "margin"]
    assert [row[4] for row in content["data"]] == ["order_swap", "verbose"] * 2
    assert [row[0] for row in content["data"]] == ["Image", "Image", None, None]


def test_other_processes_write_nothing(tmp_path, no_login, console):
    folder = RunFolder(tmp_path / "run", main=False)
    tracker = open_tracker(["wandb"], folder, name="x", config={}, progress=Progress("x", console=console))
    tracker.log({"loss": 1.0}, 1)
    tracker.pairs([pair()], 1)
    assert isinstance(tracker.backend, Null) and not folder.path.exists()


def test_what_the_clock_measured_is_kept_apart(tmp_path, console):
    tracker = open_tracker([], RunFolder(tmp_path), name="x", config={}, progress=Progress("x", console=console))
    tracker.log({"train_runtime": 3.5, "eval_samples_per_second": 7.0, "train_loss": 0.5}, 9)
    logged = {"step": 9, "time/train_runtime": 3.5, "time/eval_samples_per_second": 7.0, "train_loss": 0.5}
    assert lines(tmp_path / "metrics.jsonl") == [logged]


def test_a_trainings_last_line_is_not_kept_since_a_run_killed_after_its_last_step_has_none(tmp_path, console):
    progress = Progress("x", console=console)
    tracker = open_tracker([], RunFolder(tmp_path), name="x", config={}, progress=progress)
    callback, state = RunCallback(tracker, progress), TrainerState(global_step=9)
    callback.on_log(None, state, None, {"loss": 0.5})
    callback.on_log(None, state, None, {"train_runtime": 3.5, "train_loss": 0.5, "total_flos": 1.0})
    assert lines(tmp_path / "metrics.jsonl") == [{"step": 9, "loss": 0.5}]


def test_wandb_is_not_logged_twice():
    assert for_transformers(["wandb"]) == ["none"]
    assert for_transformers(["wandb", "tensorboard"]) == ["tensorboard"]
