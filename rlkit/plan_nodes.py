"""`rlkit plan --nodes`: what data jobs and training take on many machines, and what their deaths cost.

The interval between checkpoints that loses least is that of J. W. Young (A first order approximation to the optimum
checkpoint interval, CACM 17(9), 1974), sqrt(2 d M), as refined by J. T. Daly (A higher order estimate of the optimum
checkpoint interval for restart dumps, Future Generation Computer Systems 22(3), 2006). d is the time one checkpoint
takes, M the mean time until any of the machines dies.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
import tracemalloc
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from data_synth.errors import DataError
from data_synth.pool import in_processes
from rlkit.errors import PlanError
from rlkit.estimate import GIB
from rlkit.recipe import Recipe

DAY = 86_400
NODE_DAYS = 264.0
"""Days until a machine of 8 GPUs dies: 419 unexpected interruptions in 54 days on 16,384 GPUs (The Llama 3 Herd of
Models, https://huggingface.co/papers/2407.21783, section 3.3.4)."""
RESTART_S = 600.0  # until all processes run again: the machine replaced, models loaded
DISK_BYTES_PER_S = GIB  # a checkpoint is written at; shared storage gives more
SAMPLED = 200  # captions that are timed, in seconds
IDS_BYTES = 95  # of a caption in ids.sqlite, which is there while captions are taken in; measured on 200,000


@dataclass(frozen=True)
class Cluster:
    """Machines alike, and how long one lives."""

    nodes: int
    cores: int
    """Of one machine; a data job has a process on each."""
    node_days: float
    """Mean days until a machine dies."""

    @property
    def mean_time_between_deaths(self) -> float:
        """Seconds until any of the machines dies."""
        return self.node_days * DAY / self.nodes


def cluster_of(given: argparse.Namespace) -> Cluster | None:
    """The machines of the command line, None without --nodes. Raises PlanError for what no machines can be."""
    if given.nodes is None:
        return None
    cores = given.cores if given.cores is not None else os.cpu_count() or 1
    for name, value in (("--nodes", given.nodes), ("--cores", cores)):
        if value < 1:
            raise PlanError(f"{name} is {value}; expected at least 1.")
    if not 0 < given.node_days < math.inf:
        raise PlanError(f"--node-days is {given.node_days:g}; expected the mean days until a machine dies, above 0.")
    return Cluster(given.nodes, cores, given.node_days)


def rows_of(text: str | None) -> int | None:
    """--rows, which may be written 1e9. Raises PlanError for what is no whole number of at least 1."""
    if text is None:
        return None
    try:
        number = float(text.replace(",", "").replace("_", ""))
    except ValueError:
        number = math.nan
    if not (number >= 1 and number.is_integer()):
        raise PlanError(f"--rows is {text}; expected a whole number of at least 1, for example 1e9.")
    return int(number)


def with_rows(recipe: Recipe, rows: int | None) -> Recipe:
    """The recipe as if it had so many clips, or samples for bootstrap."""
    if rows is None:
        return recipe
    if recipe.algorithm == "bootstrap":
        return replace(recipe, bootstrap=replace(recipe.bootstrap, num_samples=rows))
    return replace(recipe, data=replace(recipe.data, num_clips=rows))


def best_interval(checkpoint_s: float, between_deaths_s: float) -> float:
    """Seconds of work between checkpoints that lose least, by Daly (2006)."""
    d, m = checkpoint_s, between_deaths_s
    if d >= 2 * m:
        return m
    x = math.sqrt(d / (2 * m))
    return math.sqrt(2 * d * m) * (1 + x / 3 + x * x / 9) - d


def lost_share(interval_s: float, checkpoint_s: float, between_deaths_s: float, restart_s: float = RESTART_S) -> float:
    """Share of the work's time that goes into checkpoints, into what each death undoes (half an interval on average),
    and into starting again: d / t + (t / 2 + R) / M, the first order in t / M."""
    return checkpoint_s / interval_s + (interval_s / 2 + restart_s) / between_deaths_s


def training_faults(recipe: Recipe, cluster: Cluster, checkpoint_bytes: float, seconds: float, steps: int):
    """What deaths cost a training that would take `seconds` without them. -> plain values, seconds and shares."""
    between, taken = cluster.mean_time_between_deaths, checkpoint_bytes / DISK_BYTES_PER_S
    step = seconds / max(steps, 1)
    best = best_interval(taken, between)
    best_steps = max(1, round(best / step))
    found: dict[str, Any] = {
        "node_days": cluster.node_days,
        "hours_between_deaths": round(between / 3600, 3),
        "deaths": round(seconds / between, 4),
        "checkpoint_s": round(taken, 3),
        "step_s": step,
        "best_save_steps": min(best_steps, steps),
        "best_lost_share": round(lost_share(max(best, step), taken, between), 5),
    }
    saved = recipe.train.save_steps * step
    return found | {"lost_share": round(lost_share(saved, taken, between), 5) if saved else None}


@dataclass(frozen=True)
class Measured:
    """What captions take here, seconds and bytes of one caption on one core."""

    captions: int
    take_in_s: float
    make_s: float
    finish_s: float
    scan_s: float
    """Of the report, which looks at every pair to draw those it audits."""
    shard_bytes: float
    """Of the parquet file that the caption becomes part of."""
    work_bytes: float
    """Of what stays beside the pairs, so that changed captions are brought up to date."""
    held_bytes: float
    """By which the memory for a shard grows with it."""
    process_bytes: float
    """Of memory of a process whose shards are small."""


def measure(recipe: Recipe) -> Measured:
    """Make pairs of the recipe's first captions in a process of its own, the best of two builds. Raises PlanError where
    there are none."""
    try:
        (found,) = in_processes(_measured, [recipe], 1)
    except DataError as error:
        raise PlanError(str(error)) from None
    return found


def _measured(recipe: Recipe) -> Measured:
    import psutil

    from data_synth.making import build, report
    from data_synth.sources import read_captions
    from rlkit.train.pairs import options_of

    source, clips, stay = recipe.data.captions, recipe.data.folder, ("rows", "made", "bands", "splits", "rejected")

    def built(out: Path, options: Any) -> Any:
        out.mkdir()
        first = partial(islice, read_captions(source, clips, media_folder=out), SAMPLED)
        return build(first, out, options, clock=time.process_time)  # what else runs here should not count

    options, runs = replace(options_of(recipe), rows_per_shard=SAMPLED), []
    with tempfile.TemporaryDirectory() as name:
        for number in range(2):
            out = Path(name) / str(number)
            found = built(out, options)
            if found.shards == 0:
                raise PlanError(f"{source or clips}: has no caption to measure with.")
            began = time.process_time()
            report.audited(out)
            runs.append(found.seconds | {"scan": time.process_time() - began})
        files = (path for part in stay for path in (out / ".work" / part).rglob("*"))
        work = sum(path.stat().st_size for path in files if path.is_file())
        pairs = sum(path.stat().st_size for path in out.rglob("pairs-*.parquet"))
        process = psutil.Process().memory_info().rss
        parts = replace(options, rows_per_shard=-(-3 * found.rows // 4))  # two shards of unlike sizes
        held = _held(Path(name) / "parts" / ".work", parts, built(Path(name) / "parts", parts))
    each = {stage: min(run[stage] for run in runs) / found.rows for stage in runs[0]}
    return Measured(
        captions=found.rows,
        **{f"{stage}_s": each[stage] for stage in ("take_in", "make", "finish", "scan")},
        shard_bytes=pairs / found.rows,
        work_bytes=work / found.rows,
        held_bytes=held,
        process_bytes=float(process),
    )


def _held(work: Path, options: Any, built: Any) -> float:
    """Bytes by which the memory for a shard grows with each of its captions."""
    from data_synth.making.build import finish_shard, make_shard

    first, peaks = min(options.rows_per_shard, built.rows), []
    for shard in range(built.shards):
        tracemalloc.start()
        make_shard(work, options, shard)
        finish_shard(work, options, shard)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    if len(peaks) < 2:
        return peaks[0] / first
    return max(0.0, (peaks[0] - peaks[1]) / max(1, 2 * first - built.rows))


def count_captions(recipe: Recipe) -> int:
    """Captions of the recipe's source; the lines of a JSONL file."""
    from data_synth.sources import read_captions

    source = recipe.data.captions
    if source is not None and Path(source).suffix == ".jsonl" and Path(source).is_file():
        with Path(source).open("rb") as file:
            return sum(1 for line in file if line.strip())
    return sum(1 for _ in read_captions(source, recipe.data.folder))


def pairs_plan(recipe: Recipe, rows: int, cluster: Cluster, took: Measured) -> dict[str, Any]:
    """Wall time, shards, disk and memory of `algorithm: pairs`, plain values.

    Captions are taken in, and pairs looked through for the audit, by one process; shards are made and finished by all,
    each whole, so that the last round may leave some without work. Fits and the audit itself are of at most 10,000
    candidates and pairs, whatever the rows, and come on top.
    """
    per_shard = recipe.pairs.rows_per_shard
    shards, workers = math.ceil(rows / per_shard), cluster.nodes * cluster.cores
    rounds = math.ceil(shards / workers)
    shard_s = min(rows, per_shard) * (took.make_s + took.finish_s)
    seconds = {
        "take_in": rows * took.take_in_s,
        "make": rounds * min(rows, per_shard) * took.make_s,
        "finish": rounds * min(rows, per_shard) * took.finish_s,
        "report": rows * took.scan_s,
    }
    wall, between = sum(seconds.values()), cluster.mean_time_between_deaths
    alone = seconds["take_in"] + seconds["report"]
    return {
        "rows": rows,
        "nodes": cluster.nodes,
        "cores": cluster.cores,
        "measured": asdict(took),
        "captions_per_core_s": round(1 / (took.make_s + took.finish_s), 1),
        "shards": shards,
        "shard_mib": round(per_shard * took.shard_bytes / 2**20, 2),
        "shard_s": round(shard_s, 2),
        "rounds": rounds,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "minutes": round(wall / 60, 2),
        "minutes_in_files": round((wall - alone + alone / cluster.nodes) / 60, 2),
        "core_hours": round((rows * (took.make_s + took.finish_s) + alone) / 3600, 2),
        "disk_gib": {
            "pairs": round(rows * took.shard_bytes / GIB, 3),
            "work": round(rows * took.work_bytes / GIB, 3),
            "ids, while taking in": round(rows * IDS_BYTES / GIB, 3),
        },
        "memory_gib": round((took.process_bytes + min(rows, per_shard) * took.held_bytes) / GIB, 3),
        "faults": {
            "node_days": cluster.node_days,
            "hours_between_deaths": round(between / 3600, 3),
            "deaths": round(wall / between, 4),
            "lost_share": round((shard_s / 2 + RESTART_S) / between, 5),
        },
    }


def pairs_lines(plan: dict[str, Any]) -> list[str]:
    """The plan of pairs for people."""
    took, seconds, disk, faults = plan["measured"], plan["seconds"], plan["disk_gib"], plan["faults"]
    lines = [
        f"  captions  {plan['rows']:,}, at {plan['captions_per_core_s']:,.1f} per second and core (measured here on "
        f"{took['captions']})",
        f"  shards    {plan['shards']:,} of {plan['shard_mib']:g} MiB, {plan['shard_s']:,.0f} s each, in "
        f"{plan['rounds']:,} round(s) on {plan['nodes']} x {plan['cores']} cores",
        f"  memory    {plan['memory_gib']:.2f} GiB per process, {plan['memory_gib'] * plan['cores']:.1f} per machine",
        "  disk      " + ", ".join(f"{size:g} GiB {name}" for name, size in disk.items()),
        "  time      " + ", ".join(f"{span(value)} {name.replace('_', ' ')}" for name, value in seconds.items())
        + f": {span(sum(seconds.values()))} in all (estimate), {plan['core_hours']:,.1f} core hours",
        "            fits and audit, of at most 10,000 each, come on top",
    ]  # fmt: skip
    if seconds["take_in"] + seconds["report"] > seconds["make"] + seconds["finish"] and plan["nodes"] > 1:
        lines.append(
            f"            one process takes in and looks through: with the captions in {plan['nodes']} files and a run "
            f"for each it is {span(60 * plan['minutes_in_files'])}; repeats across files then stay"
        )
    return [*lines, *fault_lines(faults, plan["nodes"])]


def fault_lines(faults: dict[str, Any], nodes: int) -> list[str]:
    """What deaths cost, for people."""
    lines = [
        f"  faults    one of {nodes} machines dies every {span(3600 * faults['hours_between_deaths'])} (each "
        f"lives {faults['node_days']:g} days): {faults['deaths']:.3g} in this run",
    ]
    if "best_save_steps" in faults:
        least = f"{faults['best_lost_share']:.2%}, with train.save_steps={faults['best_save_steps']} (Young, Daly)"
        if faults["lost_share"] is None:
            lines.append(f"            the recipe saves no checkpoint, so that each costs all there is; least, {least}")
        else:
            lines.append(
                f"            with checkpoints of {faults['checkpoint_s']:.3g} s as the recipe saves them, they cost "
                f"{faults['lost_share']:.2%} of the time; least, {least}"
            )
    else:
        lines.append(
            f"            finished shards stay: they cost {faults['lost_share']:.2%} of the time; on Ray less, "
            "since only the shards of that machine are made again"
        )
    return lines


def span(seconds: float) -> str:
    """A duration in the unit that fits: 42 s, 3.1 min, 2.5 h, 11 days."""
    for size, unit in ((2 * DAY, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / (DAY if unit == 'days' else size):.3g} {unit}"
    return f"{seconds:.3g} s"
