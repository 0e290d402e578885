"""Pairs from captions in five stages, each a set of files in `<out>/.work`, none done twice.

    take in     rank 0        rows/NNNNN.zst, plan.json      read, checked, laid down in shards
    make        every rank    made/NNNNN.zst                 candidates of each row
    fit         every rank    fits/<operator>.npz            what blind probes see, on a sample
    split       rank 0        fitted.json, splits/           near-duplicates stay together
    finish      every rank    <out>/pairs-NNNNN.parquet      candidates that stay, as records
then rank 0 writes rejected_rows.jsonl, audit.json and the card. A shard is a function of its rows, the fits and the
options, so the number of ranks and workers changes nothing, and a killed job goes on with the shards that lack.
"""

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_synth import ray_tasks
from data_synth.making import balancing, finish, intake, mirror, old, report, split
from data_synth.making.files import lines_of, wait_for, whole_json, whole_lines
from data_synth.making.make import make, read_ahead
from data_synth.making.options import Options
from data_synth.pool import end_with_parent
from data_synth.records import REJECTED_NAME, SHARD_NAME, Rejected, write_shard
from data_synth.sources import CaptionRow
from data_synth.whole import whole

Progress = Callable[[str, int, int], None]
"""Called with the stage, and how many of how many of its parts are done."""
Work = Callable[[Path, Options, int], None]
"""A stage's function of the work folder, the options, and the number of a shard or operator."""


@dataclass
class Built:
    """What build did; rows = pairs + quarantined + without_negative."""

    rows: int = 0
    pairs: int = 0
    quarantined: int = 0
    without_negative: int = 0
    made: int = 0
    """Rows whose candidates were made, not taken over from an earlier build."""
    shards: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    balanced_out: dict[str, int] = field(default_factory=dict)
    masked: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    """Quarantined rows by the field that was wrong."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> time on rank 0, waiting for the others included."""


def build(
    rows: Callable[[], Iterable[CaptionRow | Rejected]],
    out: Path,
    options: Options,
    *,
    source: str = "",
    rank: int = 0,
    world: int = 1,
    workers: int = 1,
    engine: str = "local",
    progress: Progress = lambda stage, done, total: None,
    clock: Callable[[], float] = time.monotonic,
) -> Built | None:
    """Make or bring up to date the pairs of `out`; returns what was done on rank 0, None on the others.

    rows: called once, on rank 0, for all captions. source: a fingerprint of where they come from; with the same source
    and options, finished stages are taken over. world ranks share the folder; each uses `workers` processes, or Ray.
    clock: seconds of the stages are by it.
    """
    work, stages = out / ".work", _Stages(clock)
    wanted = {"source": source, "options": options.fingerprint(), "making": json.loads(json.dumps(options.making()))}
    if rank == 0:
        plan = _plan(rows, out, work, options, wanted)
    else:
        wait_for(work / "plan.json", lambda path: _same(json.loads(path.read_text()), wanted))
        plan = json.loads((work / "plan.json").read_text())
    stages.passed("take_in")
    run = _ray if engine == "ray" else _pool
    share = partial(run, work=work, options=options, workers=workers, progress=progress)
    shards, fits = range(plan["shards"]), [k for k, _ in _fitted_operators(options)]
    share(make_shard, _left(shards, rank, world, partial(_made, work)), stage="make")
    _wait_for_all(_made(work, k) for k in shards)
    stages.passed("make")
    share(fit_operator, _left(fits, rank, world, partial(_fits, work)), stage="fit")
    if rank == 0:
        _wait_for_all(_fits(work, k) for k in fits)
        _split(work, plan["shards"], options)
    wait_for(work / "fitted.json")
    stages.passed("fit")
    share(finish_shard, _left(shards, rank, world, partial(_done, work)), stage="finish")
    if rank != 0:
        return None
    _wait_for_all(_done(work, k) for k in shards)
    built = _close(out, work, plan)
    stages.passed("finish")
    built.seconds = stages.seconds
    return built


class _Stages:
    """Seconds that each stage took."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.last, self.seconds = clock, clock(), {}

    def passed(self, stage: str) -> None:
        now = self.clock()
        self.seconds[stage], self.last = round(now - self.last, 3), now


def _left(numbers: Sequence[int], rank: int, world: int, path: Callable[[int], Path]) -> list[int]:
    """Every world-th of the numbers, of this rank, whose file is not there."""
    return [k for k in numbers[rank::world] if not path(k).is_file()]


def _wait_for_all(paths: Iterable[Path]) -> None:
    for path in paths:
        wait_for(path)


def make_shard(work: Path, options: Options, shard: int) -> None:
    """Candidates of the rows of a shard; those of unchanged rows of an earlier build are taken over."""
    rows = intake.read_rows(work, shard)
    with old.opened(work) as known:
        made = [old.found(known, row) for row in rows]
    read_ahead([row for row, one in zip(rows, made, strict=True) if one is None], options)
    made = [one or {**make(row, options), "new": True} for row, one in zip(rows, made, strict=True)]
    if options.splits:
        texts, clips = (one["caption"] for one in made), [row.clip for row in rows]
        for name, values in zip(("", "low-"), split.sketches(texts, clips, options.near_duplicate), strict=True):
            with whole(work / "bands" / f"{name}{shard:05d}.npy") as file:
                np.save(file, values)
    counts = {"new": sum(bool(one.pop("new", False)) for one in made)}
    whole_json(work / "counts" / f"made-{shard:05d}.json", counts)
    whole_lines(_made(work, shard), made)


def fit_operator(work: Path, options: Options, number: int) -> None:
    """What blind probes see of the candidates of an operator, by its place among the options' operators."""
    name = options.operators[number].name
    shards = json.loads((work / "plan.json").read_text())["shards"]
    made = (row for shard in range(shards) for row in lines_of(_made(work, shard)))
    balancing.save(_fits(work, number), balancing.fit(balancing.sample(made, name), name))


def finish_shard(work: Path, options: Options, shard: int) -> None:
    """The records of a shard as parquet, one file per split, and its rejected rows."""
    rows, made = intake.read_rows(work, shard), list(lines_of(_made(work, shard)))
    fitted = {one.name: balancing.load(_fits(work, k)) for k, one in _fitted_operators(options)}
    if mirror.wanted(options):
        made = mirror.added(made, options)
    selected, dropped = balancing.selected(made, fitted, options)
    counts, good, bad = finish.ShardCounts(balanced_out=dropped), [], []
    for one in finish.records(rows, made, selected, options, counts):
        (bad if isinstance(one, Rejected) else good).append(one)
    with whole(work / "rejected" / f"{shard:05d}.jsonl") as file:
        file.writelines(one.line().encode() for one in bad)
    for name, part in _by_split(work, shard, rows, good, options).items():
        write_shard(work.parent / name / SHARD_NAME.format(shard), part)
    whole_json(_done(work, shard), vars(counts) | {"card": report.count(good)})


def _by_split(work: Path, shard: int, rows, records: list[dict[str, Any]], options: Options) -> dict[str, list]:
    if not options.splits:
        return {"": records}
    names = list(options.splits)
    place = np.load(work / "splits" / f"{shard:05d}.npy")
    split_by_id = {row.id: names[k] for row, k in zip(rows, place, strict=True)}
    return {name: [one for one in records if split_by_id[one["source_id"]] == name] for name in names}


def _plan(rows, out: Path, work: Path, options: Options, wanted: dict[str, Any]) -> dict[str, Any]:
    """The plan of this build: the one on disk where it is of the same source and options, else a new one."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "plan.json"
    plan = json.loads(path.read_text()) if path.is_file() else None
    if plan is not None and _same(plan, wanted):
        return plan
    if plan is not None and plan["making"] == wanted["making"]:
        old.keep(work)
    elif plan is not None:
        shutil.rmtree(work / "old", ignore_errors=True)
    path.unlink(missing_ok=True)
    for name in ("rows", "made", "bands", "splits", "fits", "rejected", "counts"):
        shutil.rmtree(work / name, ignore_errors=True)
    (work / "fitted.json").unlink(missing_ok=True)
    counts = intake.take_in(rows(), work, rows_per_shard=options.rows_per_shard, removed=old.removed(out))
    old.index(work)
    plan = {**counts, **wanted}
    whole_json(path, plan)
    return plan


def _same(plan: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(plan.get(name) == value for name, value in wanted.items())


def _fitted_operators(options: Options):
    return [(k, one) for k, one in enumerate(options.operators) if balancing.needs_fit(one.name, options)]


def _split(work: Path, shards: int, options: Options) -> None:
    """The splits of all rows, which shards cannot tell alone; done once."""
    if (work / "fitted.json").is_file():
        return
    splits = {}
    if options.splits:
        splits = split.assign(work, shards, options.splits, options.near_duplicate, options.seed)
    whole_json(work / "fitted.json", {"splits": splits})


def _close(out: Path, work: Path, plan: dict[str, Any]) -> Built:
    """Put the parts together: rejected rows, counts; what the next build does not need goes."""
    shards = plan["shards"]
    built = Built(rows=plan["rows"], quarantined=plan["quarantined"], shards=shards, reasons=dict(plan["reasons"]))
    built.splits = json.loads((work / "fitted.json").read_text())["splits"]
    for k in range(shards):
        counts = json.loads(_done(work, k).read_text())
        built.pairs += counts["pairs"]
        built.without_negative += counts["without_negative"]
        built.quarantined += counts["quarantined"]
        built.made += json.loads((work / "counts" / f"made-{k:05d}.json").read_text())["new"]
        for name in ("refused", "balanced_out", "masked", "reasons"):
            total = getattr(built, name)
            for key, number in counts[name].items():
                total[key] = total.get(key, 0) + number
    with whole(out / REJECTED_NAME) as file:
        for part in [
            work / "rejected" / "intake.jsonl",
            *(work / "rejected" / f"{k:05d}.jsonl" for k in range(shards)),
        ]:
            with part.open("rb") as lines:
                shutil.copyfileobj(lines, file)
    if built.quarantined + built.without_negative == 0:
        (out / REJECTED_NAME).unlink()
    if not shards:
        write_shard(out / SHARD_NAME.format(0), [])
    _drop_stale(out, shards)
    shutil.rmtree(work / "old", ignore_errors=True)
    return built


def _drop_stale(out: Path, shards: int) -> None:
    """Shards of an earlier, larger build."""
    for path in [*out.glob("pairs-*.parquet"), *out.glob("[!.]*/pairs-*.parquet")]:
        if int(path.stem.partition("-")[2]) >= max(shards, 1):
            path.unlink()


def _pool(
    function: Work, numbers: list[int], *, work: Path, options: Options, workers: int, progress: Progress, stage: str
) -> None:
    """Run a function for numbers, in this process or in `workers` fresh ones (never forked: threads may run)."""
    if workers <= 1 or len(numbers) <= 1:
        for done, number in enumerate(numbers):
            progress(stage, done, len(numbers))
            function(work, options, number)
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(numbers)), spawn, end_with_parent) as pool:
            futures = [pool.submit(function, work, options, number) for number in numbers]
            try:
                for done, future in enumerate(as_completed(futures)):
                    progress(stage, done, len(numbers))
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    progress(stage, len(numbers), len(numbers))


def _ray(
    function: Work, numbers: list[int], *, work: Path, options: Options, workers: int, progress: Progress, stage: str
) -> None:
    """The same as tasks on Ray, whose cluster says how many at a time."""
    for done, _ in enumerate(ray_tasks.results(partial(function, work, options), numbers)):
        progress(stage, done, len(numbers))
    progress(stage, len(numbers), len(numbers))


def _made(work: Path, shard: int) -> Path:
    return work / "made" / f"{shard:05d}.zst"


def _done(work: Path, shard: int) -> Path:
    return work / "counts" / f"done-{shard:05d}.json"


def _fits(work: Path, number: int) -> Path:
    return work / "fits" / f"{number:02d}.npz"
