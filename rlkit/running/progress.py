"""What a run shows while it works: one live panel in a terminal, plain lines elsewhere, and the last screen.

Only rank 0 shows anything. This file imports no torch, so that the command line can use it.
"""

import itertools
import json
import logging
import os
import re
import sys
import time
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import psutil
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlkit.evaluate.names import is_detail, system_title
from rlkit.report.compare_table import before_after, headline_systems, retained
from rlkit.report.pictures import guard_sentence
from rlkit.running import ranks

# Shown in the panel where a run logs them, first name that exists; the words are TRL's.
PANEL_METRICS = {
    "loss": ("loss", "train/loss"),
    "rewards/margins": ("rewards/margins", "train/rewards/margins"),
    "order accuracy": ("order_exact", "eval_order_exact", "guards/order_exact", "order_accuracy"),
}
SPARKS = "▁▂▃▄▅▆▇█"
# Lines about advance in a stage without logging steps come at most this often, in seconds.
PLAIN_EVERY = 10.0

# Warnings of other libraries about what is meant here, or that no user can act on.
CHATTER = (
    "`use_cache=True` is incompatible with gradient checkpointing",
    "`is_gradient_checkpointing` is deprecated",  # PEFT 0.21 asks by the old name
    "The tokenizer has new PAD/BOS/EOS tokens",
    "Setting `pad_token_id` to `eos_token_id`",
    "The following generation flags are not valid and may be ignored",
    "Could not estimate the number of tokens of the input",
    "torch.utils.checkpoint: the use_reentrant parameter",
    "'pin_memory' argument is set as true but no accelerator is found",
    "Using the `WANDB_DISABLED` environment variable",
    "No device id is provided via `init_process_group`",
    "Torch was not compiled with flash attention",
    "The use_fast parameter is deprecated",
    "Unused or unrecognized kwargs: return_mm_token_type_ids",
    "Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it.",
)


class Progress:
    """Stages of a run and the numbers of the one that trains.

    `with Progress("dpo_caption", stages=5) as progress: progress.stage("rendering 4,000 clips", total=4_000)`, then
    `advance()` per item, or `step(k)` and `metrics({...}, k)` per training step, and `note(...)` for a lasting line.
    """

    def __init__(self, title: str, *, stages: int = 0, console: Console | None = None, rank: int | None = None) -> None:
        self.title, self.stages, self.number, self.text = title, stages, 0, ""
        self.console = console or Console(stderr=False, highlight=False, soft_wrap=True)
        self.shown = (ranks.number() if rank is None else rank) == 0
        self.live: Live | None = None
        self._start_stage("", None, 0)

    def __enter__(self) -> "Progress":
        if self.shown and self.console.is_terminal:
            self.live = Live(get_renderable=self._panel, console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finish_stage()
        if self.live is not None:
            self.live.stop()
            self.live = None

    def stage(self, text: str, total: int | None = None, *, samples_per_step: int = 1) -> None:
        """Announce the next stage; `total` items or steps, `samples_per_step` turns steps/s into samples/s."""
        self._finish_stage()
        self.number += 1
        self._start_stage(text, total, samples_per_step)
        if self.shown and self.live is None:
            self.console.print(self._heading(), markup=False)

    def advance(self, items: int = 1) -> None:
        """Count `items` more of this stage as done."""
        self._moved(self.done + items)
        now = time.monotonic()
        if self.shown and self.live is None and now - self.last_line >= PLAIN_EVERY and self.done != self.total:
            self._line()

    def step(self, step: int) -> None:
        """Training has finished `step` steps."""
        self._moved(step)

    def metrics(self, metrics: Mapping[str, object], step: int) -> None:
        """Numbers of a logging step, under TRL's names; prints one line where there is no terminal."""
        self._moved(step)
        changed = False
        for label, names in PANEL_METRICS.items():
            for name in names:
                if isinstance(metrics.get(name), int | float):
                    self.series.setdefault(label, deque(maxlen=240)).append(float(metrics[name]))
                    changed = True
                    break
        if changed and self.shown and self.live is None:
            self._line()

    def note(self, text: str) -> None:
        """A line that stays: an alarm, a resume, a count of quarantined rows."""
        if self.shown:
            self.console.print(text, markup=False)

    def rate(self) -> float | None:
        """Samples per second over the last minute of this stage, None before the second step."""
        (start, first), (end, last) = self.times[0], self.times[-1]
        return (last - first) * self.samples_per_step / (end - start) if end > start and last > first else None

    def eta(self) -> float | None:
        """Seconds left in this stage at the present rate."""
        rate = self.rate()
        if rate is None or self.total is None:
            return None
        return max(0, self.total - self.done) * self.samples_per_step / rate

    def _start_stage(self, text: str, total: int | None, samples_per_step: int) -> None:
        self.text, self.total, self.samples_per_step = text, total, samples_per_step
        self.done = 0
        self.series: dict[str, deque[float]] = {}
        self.begun = self.last_line = time.monotonic()
        self.times: deque[tuple[float, int]] = deque([(self.begun, 0)])

    def _finish_stage(self) -> None:
        if self.number and self.shown:
            seconds = time.monotonic() - self.begun
            if self.live is not None:
                self.console.print(Text.assemble(("✓ ", "green"), self._heading(), (f"  {clock(seconds)}", "dim")))
            elif self.total:
                self.console.print(f"{self._heading()}: done in {clock(seconds)}", markup=False)

    def _moved(self, done: int) -> None:
        if done == self.done:
            return
        # The first step of training compiles and warms up, and a resumed one starts at k: neither tells the rate.
        if self.done == 0:
            self.times.clear()
        self.done = done
        self.times.append((time.monotonic(), done))
        while len(self.times) > 2 and self.times[-1][0] - self.times[0][0] > 60:
            self.times.popleft()

    def _heading(self) -> str:
        place = f"{self.number}/{self.stages} " if self.stages else ""
        return f"{place}{self.text}"

    def _line(self) -> None:
        self.last_line = time.monotonic()
        parts = [f"{self.done:,}" + (f"/{self.total:,}" if self.total else "")]
        parts += [f"{label} {values[-1]:.4g}" for label, values in self.series.items()]
        parts += self._speed()
        self.console.print("  " + "  ".join(parts), markup=False)

    def _speed(self) -> list[str]:
        rate, eta = self.rate(), self.eta()
        parts = [] if rate is None else [f"{rate:,.1f} samples/s" if rate < 100 else f"{rate:,.0f} samples/s"]
        return [*parts, *([] if eta is None else [f"ETA {clock(eta)}"]), memory()]

    def _panel(self) -> Panel:
        bar = ProgressBar(
            total=self.total, completed=self.done, width=None, complete_style="cyan", finished_style="green"
        )
        count = f"{self.done:,}" + (f" of {self.total:,}" if self.total else "")
        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right")
        head.add_row(Text(self._heading(), style="bold"), Text("   ".join([count, *self._speed()]), style="dim"))
        parts: list[object] = [head, bar] if self.total else [head]
        if self.series:
            numbers = Table.grid(padding=(0, 2))
            for label, values in self.series.items():
                numbers.add_row(
                    Text(label, style="dim"), f"{values[-1]:.4g}", Text(sparkline(values, 40), style="cyan")
                )
            parts.append(numbers)
        return Panel(Group(*parts), title=Text(self.title), title_align="left", box=box.ROUNDED, border_style="dim")


def sparkline(values: "deque[float] | list[float]", width: int) -> str:
    """The last values as a line of blocks, at most `width` of them; equal values give a flat low line."""
    values = list(values)
    if len(values) > width:
        # Means of equal parts, so that a long run keeps its shape rather than its last minute.
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    values = [value for value in values if value == value and abs(value) != float("inf")]
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(SPARKS[min(7, int(8 * (value - low) / span))] for value in values)


def clock(seconds: float) -> str:
    """A duration: 42 s, 3:05 min, 2:07:30 h."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


def memory() -> str:
    """Memory in use: on the accelerator where this process has one in use, else resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB GPU"
    return f"{psutil.Process().memory_info().rss / 2**30:.1f} GiB"


def quiet() -> None:
    """Turn off other libraries' progress bars and the warnings in `CHATTER`; everything else they say is kept."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    import datasets
    import huggingface_hub.utils
    import transformers

    datasets.disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    for text in CHATTER:
        warnings.filterwarnings("ignore", message=f"(?s).*{re.escape(text)}")
    for name in ("transformers", "trl", "accelerate", "datasets", "peft"):
        for handler in logging.getLogger(name).handlers:
            if _not_chatter not in handler.filters:
                handler.addFilter(_not_chatter)
    # DeepSpeed makes its handler when it is imported, later; a filter on its one logger is there before.
    for filtered in (logging.lastResort, logging.getLogger("DeepSpeed")):
        if _not_chatter not in filtered.filters:
            filtered.addFilter(_not_chatter)


def _not_chatter(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(text in message for text in CHATTER)


def last_screen(results: Mapping[str, object], folder: Path, *, console: Console | None = None) -> None:
    """Print what changed, before and after, and the next commands; rank 0 only."""
    if not ranks.is_main():
        return
    console = console or Console(highlight=False)
    systems = results.get("systems") or {}
    before, after = headline_systems(results)
    if before is not None and after is not None:
        table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        table.add_column(str(results.get("measured_on", "held-out clips")))
        for title in (system_title(before), system_title(after), "change"):
            table.add_column(title, justify="right")
        table.add_column("95 % interval of the change", justify="right", style="dim")
        for line in before_after(systems, before, after, results.get("differences")):
            if is_detail(line["metric"]):
                continue
            colour = {"better": "bold green", "worse": "bold yellow"}.get(line["verdict"], "")
            mark = {"better": " ✓", "worse": " ✗"}.get(line["verdict"], "  ")
            change = Text(line["change"] + mark, style=colour)
            table.add_row(line["title"], line["before"], line["after"], change, line["change_interval"])
        console.print(table)
    for system, lines in retained(results):
        line = lines[0]  # skill probe, or reward
        change = f"{line['before']} to {line['after']}, {line['change']} ({line['change_interval']})"
        console.print(Text.assemble(("kept   ", "dim"), f"{system}: {line['title']} {change}"), soft_wrap=True)
    if told := guard_sentence(results):
        console.print(Text.assemble(("guard  ", "dim"), told), soft_wrap=True)
    for text, command in next_commands(folder):
        console.print(Text.assemble((f"{text:<31}", "dim"), (command, "bold")), soft_wrap=True)


def next_commands(folder: Path) -> list[tuple[str, str]]:
    """What people do next, with the command for each; only the report where no model was written, as by compare."""
    folder = Path(folder)
    final = folder / "final"
    look = ("look at it", f"rlkit report {folder} --open")
    if not final.is_dir():
        return [look]
    use = ("run it on your own clips", "accelerate launch recipes/dpo_caption_folder.yaml data.folder=clips/")
    if (final / "model_index.json").is_file():
        use = ("load it in diffusers", f'DiffusionPipeline.from_pretrained("{final}")')
    elif (final / "pytorch_lora_weights.safetensors").is_file():
        use = ("load it in diffusers", f'pipe.load_lora_weights("{final}")')
    elif (folder / "samples" / "rewrites.jsonl").is_file():
        use = ("read what it writes", f"less {folder}/samples/rewrites.jsonl")
    told = final / "reward.json"
    if told.is_file():
        kind = "text" if json.loads(told.read_text(encoding="utf-8"))["reward"] == "consistency" else "image"
        use = ("see whether it can be trusted", f"rlkit reward check {final} --kind {kind}")
    return [look, use, ("share it", f"hf upload YOUR_NAME/{folder.name} {final} --private")]
