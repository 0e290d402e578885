"""Runs a recipe: first those it needs, then itself; starts, resumes or says that it is finished. Names become things
here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rlkit import plugins
from rlkit.errors import RlkitError
from rlkit.last_line import repeat_after_launcher
from rlkit.recipe import ALGORITHM, Train
from rlkit.recipe.file import Step, load_chain
from rlkit.running import interrupt, machine, ranks, standstill
from rlkit.running.folder import RunFolder, lock, prepare


def main(path: str, overrides: Sequence[str]) -> None:
    """Entry of `accelerate launch recipe.yaml`; an error of use ends in a panel, not in a traceback."""
    title = Path(path).stem
    try:
        _recorded(lambda: run(path, overrides))
    except RlkitError as error:
        panel(title, str(error))
        repeat_after_launcher(error)
        sys.exit(error.exit_code)


def run(path: str | Path, overrides: Sequence[str] = ()) -> list[RunFolder]:
    """Run the recipe and, before it, those it needs; the run folders in that order.

    Raises RlkitError for everything a user can put right, with the name of the needed recipe where it was one of those.
    """
    chain = load_chain(path, overrides)
    folders = []
    with interrupt.caught():
        for step in chain:
            try:
                folders.append(_run_step(step, last=step is chain[-1]))
            except interrupt.Interrupted as stop:
                say(f"\n{step.name}: stopped by {stop}. To go on: {resume_command(path, overrides)}")
                sys.exit(stop.exit_code)
            except Exception as error:
                named = _named(error, step, chain[-1])
                if named is error:
                    raise
                raise named from error
    return folders


def _named(error: Exception, step: Step, last: Step) -> Exception:
    """The error as users see it: one sentence, with the needed recipe's name where it was one; a bug stays itself."""
    sentence = explain(error, step.recipe.train, step.out)
    if sentence is None or (step is last and isinstance(error, RlkitError)):
        return error
    where = "" if step is last else f"in {step.name}, which {last.name} needs: "
    named = RlkitError(f"{where}{sentence}")
    named.exit_code = error.exit_code if isinstance(error, RlkitError) else 1
    return named


def _run_step(step: Step, last: bool) -> RunFolder:
    """Start, resume or skip one recipe."""
    state = decide(step)
    folder = RunFolder(step.out, ranks.is_main())
    announce(step, folder, state, last)
    if state == "finished":
        return folder
    held = lock(step.out) if folder.main else None
    settle(step)
    with standstill.watched(step.out, step.recipe.train.ddp_timeout):
        plugins.load(ALGORITHM, step.recipe.algorithm)(step.recipe, folder)
        _free()
    if held is not None:
        held.close()
    if not folder.finished:
        algorithm = step.recipe.algorithm
        raise RlkitError(f"{algorithm}: returned without results; an algorithm ends with folder.finish({{...}})")
    return folder


def decide(step: Step) -> str:
    """start, resume or finished, as the main process finds it; every process gets the same answer, or the same error.

    A single process does without torch here, so that a finished or refused run answers at once.
    """
    decision: str | RlkitError | None = None
    if ranks.is_main():
        try:
            decision = prepare(step, main=True)[1]
        except RlkitError as error:
            decision = error
    decision = ranks.gathered(decision)[0]
    if isinstance(decision, RlkitError):
        raise decision
    return str(decision)


def settle(step: Step) -> None:
    """Seeds and kernels of one recipe: on a CPU always deterministic, on a GPU where train.full_determinism asks for
    it."""
    import torch
    from accelerate.utils import set_seed  # sets what transformers.set_seed sets, at half its import time

    set_seed(step.recipe.seed)
    on_gpu = torch.cuda.is_available()
    if on_gpu and step.recipe.train.full_determinism:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not reproducible without it
    torch.use_deterministic_algorithms(not on_gpu or step.recipe.train.full_determinism)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time and changes no result


def _free() -> None:
    """Wait for the other processes; let go of model and precision, so that the next recipe starts as if alone."""
    import gc

    import torch
    from accelerate.state import AcceleratorState, GradientState

    ranks.wait()
    AcceleratorState._reset_state()
    GradientState._reset_state()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def announce(step: Step, folder: RunFolder, state: str, last: bool) -> None:
    """One line from the main process about what was found; for a finished last recipe also what to do next."""
    where = plugins.shown_path(step.out)
    if state == "start":
        say(f"{step.name}: starting in {where}")
    elif state == "resume":
        checkpoint = folder.last_checkpoint()
        steps = f" of {step.recipe.train.max_steps}" if step.recipe.train.max_steps > 0 else ""
        at = f"step {checkpoint.name.rpartition('-')[2]}{steps}" if checkpoint else "the start (no checkpoint yet)"
        say(f"{step.name}: resuming at {at} in {where}")
    else:
        say(f"{step.name}: already finished in {where}")
    if state == "finished" and last:
        report = step.out / "report.html"
        say(
            "  look at it:    "
            + (f"open {plugins.shown_path(report)}" if report.is_file() else f"rlkit report {where}")
        )
        say(f"  measure again: rlkit eval {where} --again")
        say(f"  run it anew:   rm -r {where}, or launch with out=runs/another_name")


def resume_command(path: str | Path, overrides: Sequence[str]) -> str:
    """The same command again."""
    return " ".join(["accelerate launch", plugins.shown_path(Path(path)), *overrides])


def explain(error: BaseException, train: Train, folder: Path) -> str | None:
    """One sentence for an error that a user can put right; None for one that is ours, which keeps its traceback.
    `folder` is the run's."""
    from data_synth.errors import DataError

    if isinstance(error, RlkitError | DataError):
        return str(error)
    if machine.out_of_memory(error):
        return f"the device ran out of memory. {smaller(train)}"
    return machine.sentence(error, folder)


def smaller(train: Train) -> str:
    """What to change so that training takes less memory and gives the same result, as overrides to copy."""
    rows = train.per_device_train_batch_size
    fewer = max((size for size in range(1, rows) if rows % size == 0), default=0)
    more = "" if train.gradient_checkpointing else " train.gradient_checkpointing=true"
    if fewer:
        steps = train.gradient_accumulation_steps * (rows // fewer)
        return (
            f"Launch again with train.per_device_train_batch_size={fewer} train.gradient_accumulation_steps={steps}, "
            f"which gives the same result{f', or with{more}' if more else ''}."
        )
    shown = "`rlkit plan` shows what takes the memory; model.dtype=bfloat16 and model.lora.r=16 take less"
    return f"Launch again with{more}. {shown}." if more else f"{shown}."


def _recorded(function: Callable[[], object]) -> None:
    """Call it so that, under torchrun, the launcher's last line repeats the error."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        function()
        return
    from torch.distributed.elastic.multiprocessing.errors import record

    record(function)()


def say(text: str) -> None:
    """A line for people, from the main process."""
    if ranks.is_main():
        print(text, flush=True)


def panel(title: str, text: str) -> None:
    """The one red box of an error, from the main process, on standard error."""
    if not ranks.is_main():
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = Console(stderr=True)
    if console.is_terminal:
        console.print(Panel(Text(text), title=f"{title} stopped", border_style="red", title_align="left"))
    else:  # a box would break file:line apart in logs
        print(f"{title} stopped\n{text}", file=sys.stderr, flush=True)
