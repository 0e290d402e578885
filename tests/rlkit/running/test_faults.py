"""Both training engines through what clusters do: signals, a full or read-only disk, a clock that jumps, torn files.

Each fault strikes a training of eight steps; started again, it must end with the weights of one that nothing struck.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

pytest.importorskip("diffusers")

from rlkit import engine
from rlkit.recipe import Recipe, Train
from rlkit.run import explain
from rlkit.running import interrupt
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import Null, Tracker
from rlkit.running.training import MarkCheckpoints, RecipeTrainer, StopWhenAsked, fit, training_arguments

STEPS = 8
ROWS = 2 + torch.arange(STEPS)[:, None] * torch.tensor([0.25, -0.5])
Hook = Callable[[int], object]
"""Called in the middle of each step, with its number from 1 on."""


class Line(nn.Module):
    """A model with a loss of its own, and `size` more weights that only take room."""

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.room = nn.Parameter(torch.zeros(size))

    def forward(self, x):
        return {"loss": (self.weight * x).square().mean() + self.room.mean()}


def recipe(**train) -> Recipe:
    settings = {"learning_rate": 0.1, "per_device_train_batch_size": 1, "max_steps": STEPS, "save_steps": 2}
    return Recipe(algorithm="nft", train=Train(**settings | {"logging_steps": 1, "save_total_limit": 2} | train))


def by_transformers(path: Path, hook: Hook, size: int = 1) -> torch.Tensor:
    """The way of captioners and rewards: transformers' Trainer under rlkit/running/training.py."""
    folder, settings, model = RunFolder(path), recipe(), Line(size)
    path.mkdir(parents=True, exist_ok=True)
    trainer = RecipeTrainer(
        model=model,
        args=training_arguments(settings, folder),
        train_dataset=[{"x": row} for row in ROWS],
        callbacks=[MarkCheckpoints(folder, settings.train.save_total_limit), StopWhenAsked()],
    )
    model.register_forward_hook(lambda *_: hook(trainer.state.global_step + 1))
    fit(trainer, settings, STEPS, folder, Tracker(folder, Null()), Progress("faults"), stage="training")
    return model.weight.detach()


def by_loop(path: Path, hook: Hook, size: int = 1) -> torch.Tensor:
    """The way of generators: rlkit/engine.py."""
    folder, model = RunFolder(path), Line(size)
    path.mkdir(parents=True, exist_ok=True)
    generator = SimpleNamespace(
        keep=(),
        denoiser=model,
        parameters=lambda: list(model.parameters()),
        weights=lambda name: model.state_dict(),
        load_weights=lambda state, name: model.load_state_dict(state),
    )

    def losses(step):
        hook(step + 1)
        yield model(ROWS[step])["loss"], {}

    engine.train(generator, recipe(), folder, Tracker(folder, Null()), Progress("faults"), losses, stage="training")
    return model.weight.detach()


ENGINES = {"transformers": by_transformers, "loop": by_loop}
SAVING = {"transformers": (torch, "save"), "loop": (engine, "save_file")}
"""What an engine calls in the middle of a checkpoint, with what it writes and where."""
FULL = {
    "transformers": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    "loop": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
}
"""How each is told that the disk is full."""


@pytest.fixture(params=ENGINES)
def name(request):
    return request.param


@pytest.fixture
def start(name, tmp_path):
    """(hook) -> the final weights, in the folder that is to be hit."""
    return lambda hook=lambda step: None: ENGINES[name](tmp_path / "cut", hook)


@pytest.fixture
def as_undisturbed(name, tmp_path):
    """Whether these weights, and the numbers on the way, are those of a run that nothing struck."""

    def check(weights):
        whole = ENGINES[name](tmp_path / "whole", lambda step: None)
        lines = [RunFolder(tmp_path / one).metrics() for one in ("whole", "cut")]
        kept = [[{k: v for k, v in line.items() if not k.startswith("time")} for line in one] for one in lines]
        return torch.equal(whole, weights) and kept[0] == kept[1] and len(kept[0]) >= STEPS

    return check


def checkpoints(tmp_path) -> dict[int, bool]:
    """Step -> whether it is marked as whole."""
    found = (tmp_path / "cut/checkpoints").iterdir()
    return {int(one.name.rpartition("-")[2]): (one / "complete").is_file() for one in found}


def at(step: int, act: Callable[[], object]) -> Hook:
    def hook(now: int) -> None:
        if now == step:
            act()

    return hook


# ---- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_the_step_and_saves(start, as_undisturbed, tmp_path, number):
    with pytest.raises(interrupt.Interrupted) as stopped, interrupt.caught():
        start(at(5, partial(signal.raise_signal, number)))
    assert stopped.value.exit_code == 128 + number
    assert checkpoints(tmp_path) == {4: True, 5: True}
    assert as_undisturbed(start())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_that_comes_twice_is_one(start, as_undisturbed, tmp_path, number):
    """Slurm sends SIGTERM to every process of a job, and torchrun hands on what it got: each rank hears it twice."""

    def twice():
        signal.raise_signal(number)
        signal.raise_signal(number)

    with pytest.raises(interrupt.Interrupted), interrupt.caught():
        start(at(5, twice))
    assert checkpoints(tmp_path) == {4: True, 5: True}
    assert as_undisturbed(start())


def test_a_second_sigterm_changes_nothing_however_late(start, tmp_path, monkeypatch):
    monkeypatch.setattr(interrupt, "COPY_S", 0.0)
    with pytest.raises(interrupt.Interrupted) as stopped, interrupt.caught():
        start(at(5, lambda: [signal.raise_signal(signal.SIGTERM) for _ in range(2)]))
    assert stopped.value.exit_code == 143 and checkpoints(tmp_path) == {4: True, 5: True}


def test_a_second_ctrl_c_ends_at_once(start, as_undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(interrupt, "COPY_S", 0.0)

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("never reached")

    with pytest.raises(interrupt.Interrupted) as stopped, interrupt.caught():
        start(at(5, twice))
    assert stopped.value.exit_code == 130
    assert checkpoints(tmp_path) == {2: True, 4: True}
    assert as_undisturbed(start())


def test_a_second_ctrl_c_while_saving_leaves_the_checkpoint_before(name, start, as_undisturbed, tmp_path, monkeypatch):
    module, function = SAVING[name]
    monkeypatch.setattr(interrupt, "COPY_S", 0.0)
    with pytest.raises(interrupt.Interrupted), interrupt.caught(), monkeypatch.context() as patch:

        def once_more(*_, **__):
            signal.raise_signal(signal.SIGINT)

        def first():
            signal.raise_signal(signal.SIGINT)
            patch.setattr(module, function, once_more)

        start(at(5, first))
    assert checkpoints(tmp_path) == {2: True, 4: True, 5: False}
    assert as_undisturbed(start())


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_out_of_memory_names_what_to_change_and_is_gone_on_from(start, as_undisturbed, tmp_path):
    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        start(at(6, too_large))
    sentence = explain(caught.value, recipe(per_device_train_batch_size=8).train, tmp_path / "cut")
    assert "train.per_device_train_batch_size=4 train.gradient_accumulation_steps=2, which gives the same" in sentence
    assert checkpoints(tmp_path) == {2: True, 4: True}
    assert as_undisturbed(start())


# ---- the disk -------------------------------------------------------------------------------------------------------


def test_a_full_disk_leaves_what_was_whole_and_is_gone_on_from(name, start, as_undisturbed, tmp_path, monkeypatch):
    module, function = SAVING[name]

    def full(*given, **options):
        target = given[1]
        Path(target).write_bytes(b"half")
        raise FULL[name]

    with monkeypatch.context() as patch, pytest.raises(type(FULL[name])) as caught:
        start(at(6, lambda: patch.setattr(module, function, full)))
    sentence = explain(caught.value, recipe().train, tmp_path / "cut")
    assert sentence.startswith("the disk is full: ") and "launch again to go on" in sentence
    assert f"are free where {tmp_path / 'cut'} lies" in sentence
    assert checkpoints(tmp_path) == {2: True, 4: True, 6: False}
    assert as_undisturbed(start())


REAL = """
import subprocess, sys
from pathlib import Path
import torch
from rlkit.run import explain
from tests.rlkit.running.test_faults import ENGINES, recipe
place = Path(sys.argv[1])
for name, train in ENGINES.items():
    whole = train(place / "whole" / name, lambda step: None, size=50_000)
    out = place / "small" / name  # room for one checkpoint of 600 kB and a half
    out.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(out)], check=True)
    try:
        train(out, lambda step: None, size=50_000)
    except Exception as error:
        print(name, explain(error, recipe().train, out), flush=True)
    marks = sorted(path.parent.name for path in out.glob("checkpoints/*/complete"))
    subprocess.run(["mount", "-o", "remount,size=8m", str(out)], check=True)
    print(name, marks, bool(torch.equal(whole, train(out, lambda step: None, size=50_000))), flush=True)
    subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
    try:
        train(out, lambda step: None, size=50_000)
    except Exception as error:
        print(name, explain(error, recipe().train, out), flush=True)
"""


@pytest.mark.slow
def test_on_a_disk_that_is_really_full_and_one_that_cannot_be_written(tmp_path):
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("no file system of one's own can be mounted here")
    command = ["unshare", "-rm", sys.executable, "-c", REAL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    told = [line for line in done.stdout.splitlines() if line.startswith(tuple(ENGINES))]
    assert done.returncode == 0 and len(told) == 3 * len(ENGINES), done.stdout + done.stderr
    for number, name in enumerate(ENGINES):
        full, again, read_only = told[3 * number : 3 * number + 3]
        assert full.startswith(f"{name} the disk is full: 0.") and f"where {tmp_path}/small/{name}" in full
        assert again == f"{name} ['checkpoint-2'] True"
        assert read_only.startswith(f"{name} {tmp_path}/small/{name}/") and "the file system is read-only" in read_only


# ---- the clock ------------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_back_takes_no_new_checkpoint(start, as_undisturbed, tmp_path, monkeypatch):
    """transformers drops old checkpoints by their time: after the jump, the newest first."""
    real = time.time

    def back_an_hour():
        monkeypatch.setattr(time, "time", lambda: real() - 3600)
        for path in (tmp_path / "cut/checkpoints").rglob("*"):  # written an hour later than all that comes
            os.utime(path, (real() + 3600, real() + 3600))

    weights = start(at(5, back_an_hour))
    assert checkpoints(tmp_path) == {6: True, 8: True}
    times = [line["time"] for line in RunFolder(tmp_path / "cut").metrics()]
    assert min(times) < times[0] - 3000
    assert as_undisturbed(weights)


# ---- torn files -----------------------------------------------------------------------------------------------------


def stopped_at_five(start):
    with pytest.raises(interrupt.Interrupted), interrupt.caught():
        start(at(5, partial(signal.raise_signal, signal.SIGTERM)))


def test_half_a_checkpoint_without_its_mark_does_not_count(start, as_undisturbed, tmp_path):
    stopped_at_five(start)
    last = tmp_path / "cut/checkpoints/checkpoint-5"
    (last / "complete").unlink()
    tear(last)
    weights = start()
    assert not last.exists() and as_undisturbed(weights)


def test_a_marked_checkpoint_that_is_torn_is_set_aside_for_the_one_before(start, as_undisturbed, tmp_path, capsys):
    stopped_at_five(start)
    last = tmp_path / "cut/checkpoints/checkpoint-5"
    torn = tear(last)
    weights = start()
    said = capsys.readouterr().out
    assert f"checkpoint-5: {torn.name} has {torn.size // 2:,} bytes of {torn.size:,}, so it is not used" in said
    assert (last.with_name("damaged-checkpoint-5") / torn.name).is_file()
    assert as_undisturbed(weights)


def test_a_mark_without_sizes_counts(start, as_undisturbed, tmp_path):
    """As versions before this one wrote it."""
    stopped_at_five(start)
    (tmp_path / "cut/checkpoints/checkpoint-5/complete").write_text("")
    (tmp_path / "cut/checkpoints/checkpoint-4/complete").unlink()
    assert as_undisturbed(start(at(5, lambda: pytest.fail("started over"))))


def tear(checkpoint: Path) -> SimpleNamespace:
    """Cut the weights of a checkpoint in half; its name, and its size before."""
    path = next(iter(sorted(checkpoint.glob("*.safetensors"))))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return SimpleNamespace(name=path.name, size=len(content))
