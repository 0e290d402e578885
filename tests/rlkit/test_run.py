"""Launching: the three ways, needs, resume, refusal, errors, signals and spawned workers, with a tiny algorithm."""

import errno
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
import torch

from rlkit.errors import RlkitError
from rlkit.launch import command
from rlkit.launch import launch as launch_recipe
from rlkit.recipe import Train
from rlkit.recipe.file import load_chain
from rlkit.run import explain, main, panel, run, smaller
from rlkit.running import interrupt
from rlkit.running.folder import prepare

TORCHRUN = [
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
]
FLAGS = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
HEADER = 'rlkit: r"""'
FOOTER = '# """; import rlkit; rlkit.main(__name__)'
ALGORITHM = '''
"""Adds up random numbers; a checkpoint is the sum and the random state."""
import json, os, time
from pathlib import Path

import torch

def run(recipe, folder):
    done, total = 0, 0.0
    last = folder.last_checkpoint()
    if last is not None:
        state = json.loads((last / "state.json").read_text())
        done, total = state["step"], state["total"]
        torch.set_rng_state(torch.tensor(state["rng"], dtype=torch.uint8))
    folder.resume_at(done if last is not None else None)
    for step in range(done + 1, recipe.train.max_steps + 1):
        total += torch.rand(()).item()
        folder.log({"total": total}, step)
        if recipe.train.save_steps and step % recipe.train.save_steps == 0 and folder.main:
            path = folder.checkpoints / f"checkpoint-{step}"
            path.mkdir(parents=True)
            state = {"step": step, "total": total, "rng": torch.get_rng_state().tolist()}
            (path / "state.json").write_text(json.dumps(state))
            folder.checkpoint_complete(step)
        if os.environ.get("KILL_AT") == str(step):
            os.kill(os.getpid(), 9)
        if os.environ.get("SLEEP_AT") == str(step):
            Path("asleep").touch()
            time.sleep(60)
    folder.finish({"systems": {"all": {"total": {"value": total}}}})
'''


SMALLER = r"train.per_device_train_batch_size=3 train.gradient_accumulation_steps=4, which gives the same result, or"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda mode: None
    )  # global; other tests share the process
    Path("algo.py").write_text(ALGORITHM)
    recipe("mine.yaml", "seed: 5\ntrain: {max_steps: 6, save_steps: 2}")
    return tmp_path


def recipe(name, text="", algorithm="./algo.py"):
    Path(name).write_text(f"# A test.\n{HEADER}\nalgorithm: {algorithm}\n{text}\n{FOOTER}\n")


def launch(*arguments, timeout=120, **env):
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=os.environ | env)


def metrics(run):
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith("time")} for line in lines]


def files(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*")}


def test_a_killed_run_resumes_to_the_same_bytes(folder):
    run("mine.yaml", ["out=runs/whole"])
    killed = launch("mine.yaml", KILL_AT="5")
    assert killed.returncode == -signal.SIGKILL
    assert len(metrics("runs/mine")) == 5 and not Path("runs/mine/results.json").exists()
    resumed = launch("runs/mine/recipe.yaml")  # the run's own copy is the resume command
    assert "mine: resuming at step 4 of 6 in runs/mine" in resumed.stdout
    assert metrics("runs/mine") == metrics("runs/whole")
    assert Path("runs/mine/results.json").read_bytes() == Path("runs/whole/results.json").read_bytes()


def test_a_finished_run_says_so_and_touches_nothing(folder, capsys):
    run("mine.yaml")
    before = files("runs/mine")
    capsys.readouterr()
    run("mine.yaml")
    said = capsys.readouterr().out
    assert "mine: already finished in runs/mine" in said
    assert "rlkit report runs/mine" in said and "rlkit eval runs/mine" in said
    assert files("runs/mine") == before


def test_another_recipe_in_the_folder_is_refused_without_torch(folder):
    run("mine.yaml")
    before = files("runs/mine")
    code = "import sys\nfrom rlkit.run import main\ntry:\n    main('mine.yaml', ['seed=6'])\n"
    done = launch("-c", code + "except SystemExit as stop:\n    print('torch' in sys.modules, stop.code)\n")
    assert done.stdout == "False 2\n"
    assert "seed: 5 in the folder, 6 asked for" in done.stderr and "Traceback" not in done.stderr
    assert files("runs/mine") == before


def test_a_lost_process_without_checkpoint_starts_its_metrics_over(folder):
    run("mine.yaml", ["out=runs/whole"])
    lost, _ = prepare(load_chain("mine.yaml")[-1], main=True)
    lost.log({"total": 0.5}, step=1)
    run("mine.yaml")
    assert metrics("runs/mine") == metrics("runs/whole")


def test_needs_run_first_and_finished_ones_are_skipped(folder, capsys):
    recipe("base.yaml", "train: {max_steps: 1}")
    recipe("sft.yaml", "needs: [base.yaml]\ntrain: {max_steps: 2}")
    run("sft.yaml")
    said = capsys.readouterr().out
    assert said.index("base: starting") < said.index("sft: starting")
    recipe("dpo.yaml", "needs: [sft.yaml]\ntrain: {max_steps: 2}")
    run("dpo.yaml")
    said = capsys.readouterr().out
    assert "base: already finished" in said and "sft: already finished" in said and "dpo: starting" in said


def test_a_recipe_after_others_has_the_numbers_it_has_alone(folder):
    recipe("base.yaml", "train: {max_steps: 3}")
    recipe("sft.yaml", "needs: [base.yaml]\nseed: 5\ntrain: {max_steps: 6, save_steps: 2}")
    run("sft.yaml")
    run("mine.yaml")
    assert metrics("runs/sft") == metrics("runs/mine")


def test_an_error_in_a_need_names_it(folder, capsys):
    Path("fails.py").write_text(
        "from data_synth.errors import DataError\ndef run(recipe, folder):\n    raise DataError('clip 7 is empty.')\n"
    )
    recipe("base.yaml", algorithm="./fails.py")
    recipe("sft.yaml", "needs: [base.yaml]")
    with pytest.raises(SystemExit) as caught:
        main("sft.yaml", [])
    assert caught.value.code == 1
    assert capsys.readouterr().err == "sft stopped\nin base, which sft needs: clip 7 is empty.\n"
    assert not Path("runs/sft").exists()


def test_an_algorithm_that_forgets_to_finish_is_an_error(folder):
    Path("forgets.py").write_text("def run(recipe, folder): ...\n")
    recipe("mine.yaml", algorithm="./forgets.py")
    with pytest.raises(RlkitError, match=r"folder.finish"):
        run("mine.yaml")


def test_a_bug_stays_itself(folder):
    Path("bug.py").write_text("def run(recipe, folder):\n    return {}['missing']\n")
    recipe("mine.yaml", algorithm="./bug.py")
    with pytest.raises(KeyError, match="missing"):
        run("mine.yaml")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/tmp/x.json"),
            r"is full: [\d.,]+ \wiB .* \(writing x.json\)",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "free where runs/mine lies. What was written whole stays whole"),
        (OSError("1000000 requested and 131056 written"), "the disk is full"),
        (sqlite3.OperationalError("database or disk is full"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs"), "no permission to use /runs"),
        (OSError(errno.EROFS, "Read-only file system", "runs/x/.lock"), "runs/x/.lock: the file system is read-only"),
        (BrokenProcessPool("A process in the process pool was terminated abruptly"), "a worker process was killed"),
        (torch.OutOfMemoryError("CUDA out of memory"), SMALLER),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"), SMALLER),
        (MemoryError(), SMALLER),
    ],
)
def test_errors_of_the_machine_become_a_sentence(error, sentence, folder):
    Path("runs/mine").mkdir(parents=True)
    train = Train(per_device_train_batch_size=6, gradient_accumulation_steps=2)
    assert re.search(sentence, explain(error, train, Path("runs/mine")))


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), RuntimeError("shapes differ"), KeyError()])
def test_other_errors_keep_their_traceback(error):
    assert explain(error, Train(), Path("runs/mine")) is None


def test_a_run_folder_below_a_file_is_refused(folder):
    Path("file").touch()
    with pytest.raises(RlkitError, match=r"file/mine: cannot be made: .*Give another with out="):
        run("mine.yaml", ["out=file/mine"])


def test_out_of_memory_with_one_row_and_recomputed_activations():
    assert "Launch again with train.gradient_checkpointing=true. `rlkit plan`" in smaller(
        Train(per_device_train_batch_size=1)
    )
    last = smaller(Train(per_device_train_batch_size=1, gradient_checkpointing=True))
    assert "bfloat16" in last and "Launch again" not in last
    odd = smaller(Train(per_device_train_batch_size=9))
    assert "size=3 train.gradient_accumulation_steps=3," in odd  # the global batch must stay 9


def test_the_panel_comes_from_rank_0_only(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    panel("mine", "wrong")
    assert capsys.readouterr().err == ""


def test_sigterm_says_how_to_go_on(folder):
    command = [sys.executable, "mine.yaml", "train.save_steps=1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"SLEEP_AT": "3"}
    )
    while not Path("asleep").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "mine: stopped by SIGTERM. To go on: accelerate launch mine.yaml train.save_steps=1" in out
    assert "Traceback" not in err


def test_inside_held_a_signal_waits_for_the_end_of_the_step():
    seen = []
    with pytest.raises(interrupt.Interrupted) as caught, interrupt.caught():
        with interrupt.held():
            signal.raise_signal(signal.SIGINT)
            seen.append(interrupt.requested())
        seen.append("never reached")
    assert seen == [True]
    assert caught.value.exit_code == 130


def test_spawned_workers_do_not_start_another_run(folder):
    Path("spawns.py").write_text(
        "import multiprocessing\n"
        "def run(recipe, folder):\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        folder.finish({'worker': pool.apply(abs, (-3,))})\n"
    )
    recipe("mine.yaml", algorithm="./spawns.py")
    done = launch("mine.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("starting in") == 1
    assert json.loads(Path("runs/mine/results.json").read_text())["worker"] == 3


def test_python_reads_a_recipe_without_warnings(folder):
    # Backslashes included: to Python it is one raw string.
    recipe("mine.yaml", "out: 'back\\slash \\d \\U'")
    done = launch("-W", "error", "-c", "compile(open('mine.yaml').read(), 'mine.yaml', 'exec')")
    assert done.returncode == 0, done.stderr


def test_accelerate_launch_of_a_recipe(folder):
    done = launch("-m", "accelerate.commands.launch", *FLAGS, "mine.yaml", "train.max_steps=1")
    assert done.returncode == 0, done.stderr
    assert len(metrics("runs/mine")) == 1


def test_accelerate_launch_ends_with_our_error(folder):
    # accelerate prints ten lines of CalledProcessError beneath the panel; the tail that people paste must be ours.
    done = launch("-m", "accelerate.commands.launch", *FLAGS, "mine.yaml", "train.max_stps=3")
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    error = "override train.max_stps=3: unknown key 'train.max_stps'. Did you mean 'max_steps'?"
    assert error in lines
    assert lines[-1] == f"RecipeError: {error}"


def test_a_forked_worker_ends_on_sigterm_without_a_word(folder):
    code = (
        "import os, signal, time\nfrom rlkit.running import interrupt\n"
        "with interrupt.caught():\n    worker = os.fork()\n"
        "    if worker == 0:\n        time.sleep(30)\n"
        "    time.sleep(0.5)\n    os.kill(worker, signal.SIGTERM)\n    print(os.waitpid(worker, 0)[1])\n"
    )
    done = launch("-c", code)
    assert (done.stdout, done.stderr) == (f"{signal.SIGTERM.value}\n", "")


def test_rlkit_run_of_plain_yaml(folder, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(folder))
    Path("plain.yaml").write_text("algorithm: ./algo.py\n")
    assert command(Path("plain.yaml"), ["train.max_steps=2"], None, None)[1:3] == ["-m", "accelerate.commands.launch"]
    assert launch_recipe(Path("plain.yaml"), ["train.max_steps=2"], "single", None) == 0
    assert len(metrics("runs/plain")) == 2


WAITS = """
import os, time
from pathlib import Path
from rlkit.running import interrupt, ranks
def run(recipe, folder):
    with interrupt.held():
        Path(f"pid{ranks.number()}").write_text(str(os.getpid()))
        while not interrupt.requested():
            time.sleep(0.02)
        time.sleep(1)  # the step ends, a checkpoint is written
        Path("saved").touch()
"""


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_rlkit_run_hands_signals_on_and_waits_until_all_is_saved(folder, number, processes):
    Path("waits.py").write_text(WAITS)
    recipe("waits.yaml", algorithm="./waits.py")
    code = f"from rlkit.cli import main; main(['run', 'waits.yaml', '--processes', '{processes}'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pids = [Path(f"pid{rank}") for rank in range(processes)]
    while not all(pid.exists() and pid.read_text() for pid in pids):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, out + err
    assert Path("saved").exists() and not any(psutil.pid_exists(int(pid.read_text())) for pid in pids)
    assert f"waits: stopped by {number.name}. To go on: " in out


def test_torchrun_with_two_processes_writes_once(folder):
    done = launch(*TORCHRUN, "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("starting in") == 1
    assert [line["step"] for line in metrics("runs/mine")] == [1, 2, 3, 4, 5, 6]


def test_the_launchers_last_lines_repeat_the_error(folder):
    done = launch(*TORCHRUN, "mine.yaml", "train.max_stps=3")
    assert done.returncode != 0
    tail = "\n".join(done.stderr.strip().splitlines()[-12:])
    assert "RecipeError: override train.max_stps=3: unknown key 'train.max_stps'. Did you mean 'max_steps'?" in tail
