"""How many generated pictures a training set may hold: a cap per band of quality, the same for any number of workers.

    mix(["a.jsonl", "b.jsonl"], "mixed", caps={"generated": 0.2, "unknown": 0.5}, workers=4)

writes kept.jsonl, set_aside.jsonl (each row with its reason), rejected_rows.jsonl and report.json: every row of the
input is in one of the three. A row: `file_name` (beside its file of rows) or `id`; `quality` in [0, 1] and `bucket`,
which name its band; `verdict` generated, camera or unknown, read from the picture (reward_models.provenance) where it
is missing.

The rule, per band: of generated and camera pictures together at most caps["generated"] are generated, of unknown and
camera pictures at most caps["unknown"] are unknown. Unknown ones make no room for generated ones, as they may be that
too. Which stay is decided by the hash of the content, lowest first: not by the order of rows, files or workers. Kept
rows are put in an order in which the caps hold for every beginning of kept.jsonl, so that a run that stops early keeps
them too.
"""

import hashlib
import json
import shutil
from bisect import bisect_right
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

from data_synth.errors import DataError
from data_synth.jsonl import read_lines
from data_synth.making.files import whole_json
from data_synth.pool import end_with_parent
from data_synth.records import REJECTED_NAME, Rejected
from data_synth.whole import whole
from reward_models import provenance

VERDICTS = ("camera", "generated", "unknown")
CAPS = {"generated": 0.2, "unknown": 0.5}
EDGES = (0.25, 0.5, 0.75)
UNRATED = "unrated"


@dataclass
class Tally:
    """What a part of the rows holds; tallies of parts add up to the tally of the whole in any order."""

    counts: Counter = field(default_factory=Counter)
    """(band, verdict) -> rows"""
    hashes: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    """(band, verdict) -> first 64 bits of the content hashes, of verdicts that have a cap"""
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row by its `band`, `verdict` and `content`."""
        key = row["band"], row["verdict"]
        self.counts[key] += 1
        if row["verdict"] != "camera":
            self.hashes[key].append(_number(row["content"]))

    def update(self, other: "Tally") -> None:
        """Add the tally of another part."""
        self.counts.update(other.counts)
        self.rejected.extend(other.rejected)
        for key, hashes in other.hashes.items():
            self.hashes[key].extend(hashes)


@dataclass(frozen=True)
class Plan:
    """Which rows stay: those whose content hash lies below the threshold of their band and verdict."""

    caps: Mapping[str, float]
    counts: Mapping[tuple[str, str], int]
    quotas: Mapping[tuple[str, str], int]
    thresholds: Mapping[tuple[str, str], int]

    def reason(self, row: Mapping[str, Any]) -> str | None:
        """Why the row is set aside; None where it stays."""
        band, verdict = key = row["band"], row["verdict"]
        if verdict == "camera" or _number(row["content"]) < self.thresholds[key]:
            return None
        cap, camera = f"the cap of {self.caps[verdict]:.0%}", self.counts.get((band, "camera"), 0)
        if not self.quotas[key]:
            return f"{band}: none of {self.counts[key]} {verdict} fits under {cap} beside {camera} from a camera"
        return (
            f"{band}: {self.quotas[key]} of {self.counts[key]} {verdict} fit under {cap} beside {camera} from a camera"
        )


def room(camera: int, cap: float) -> int:
    """The most capped items beside so many from a camera: n / (n + camera) <= cap."""
    share = Fraction(cap).limit_denominator(1_000_000)
    return int(camera * share / (1 - share))


def plan(tally: Tally, caps: Mapping[str, float] = CAPS) -> Plan:
    """The thresholds for a tally of all rows. Raises DataError for caps of other names or outside [0, 1)."""
    if set(caps) != set(CAPS) or not all(0 <= cap < 1 for cap in caps.values()):
        raise DataError(f"caps: found {dict(caps)}, expected {' and '.join(CAPS)}, each from 0 to below 1.")
    quotas, thresholds = {}, {}
    for (band, verdict), hashes in tally.hashes.items():
        lowest, most = sorted(hashes), room(tally.counts[band, "camera"], caps[verdict])
        threshold = 2**64 if len(lowest) <= most else lowest[most]  # equal content falls on one side of it
        thresholds[band, verdict] = threshold
        quotas[band, verdict] = bisect_right(lowest, threshold - 1)
    return Plan(caps, tally.counts, quotas, thresholds)


def in_order(rows: Iterable[dict[str, Any]], chosen: Plan) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Each row once with the reason why it is set aside (None: kept), so ordered that every beginning of the kept ones
    keeps the caps: what does not fit yet waits for pictures from a camera, which the plan says will come."""
    out: Counter = Counter()
    waiting: dict[tuple[str, str], deque] = defaultdict(deque)
    for row in rows:
        reason, band = chosen.reason(row), row["band"]
        if reason is not None:
            yield row, reason
            continue
        if row["verdict"] == "camera":
            out[band, "camera"] += 1
            yield row, None
        else:
            waiting[band, row["verdict"]].append(row)
        for verdict in CAPS:
            queue, most = waiting[band, verdict], room(out[band, "camera"], chosen.caps[verdict])
            while queue and out[band, verdict] < most:
                out[band, verdict] += 1
                yield queue.popleft(), None
    left = sum(map(len, waiting.values()))
    if left:
        raise DataError(f"{left} rows still wait: the rows are not those that the plan was made for.")


def mix(
    shards: Sequence[str | Path],
    out: str | Path,
    *,
    caps: Mapping[str, float] = CAPS,
    edges: Sequence[float] = EDGES,
    workers: int = 1,
) -> dict[str, Any]:
    """Mix the rows of JSON-lines files into the folder `out`; returns the report. See the top of this file.

    Raises DataError where `out` holds a mixture already, and for what is wrong with the arguments.
    """
    out, shards = Path(out), [Path(shard) for shard in shards]
    if (out / "report.json").exists():
        raise DataError(f"{out}: holds a mixture already; remove it or choose another folder.")
    if list(edges) != sorted(set(edges)):
        raise DataError(f"edges: found {list(edges)}, expected rising numbers.")
    plan(Tally(), caps)  # so that wrong caps are found before pictures are read
    work = out / ".work"
    jobs = [(shard, work / f"{number:05d}.jsonl", tuple(edges)) for number, shard in enumerate(shards)]
    tally = Tally()
    if workers > 1:
        with ProcessPoolExecutor(workers, _context(), end_with_parent) as pool:
            for one in pool.map(_prepare, jobs):
                tally.update(one)
    else:
        for one in map(_prepare, jobs):
            tally.update(one)
    chosen, kept, aside = plan(tally, caps), Counter(), Counter()
    with whole(out / "kept.jsonl", "w") as kept_file, whole(out / "set_aside.jsonl", "w") as aside_file:
        for row, reason in in_order(_prepared(job[1] for job in jobs), chosen):
            counter, file = (kept, kept_file) if reason is None else (aside, aside_file)
            counter[row["band"], row["verdict"]] += 1
            file.write(json.dumps(row if reason is None else row | {"reason": reason}, sort_keys=True) + "\n")
    with whole(out / REJECTED_NAME, "w") as file:
        file.writelines(one.line() for one in tally.rejected)
    report = _report(kept, aside, tally, caps)
    whole_json(out / "report.json", report)
    shutil.rmtree(work)
    return report


def _context():
    """Processes that start from one that has imported this file, where the system can fork; importing takes seconds."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _report(kept: Counter, aside: Counter, tally: Tally, caps: Mapping[str, float]) -> dict[str, Any]:
    """Per band what was kept and set aside; `generated_at_most` counts the unknown ones as generated."""
    bands = {}
    for band in sorted({band for band, _ in tally.counts}):
        camera, generated, unknown = (kept[band, verdict] for verdict in VERDICTS)
        total = camera + generated + unknown
        bands[band] = {
            "kept": {verdict: kept[band, verdict] for verdict in VERDICTS},
            "set_aside": {verdict: aside[band, verdict] for verdict in VERDICTS},
            "generated": generated / total if total else None,
            "generated_at_most": (generated + unknown) / total if total else None,
        }
    rows = {"kept": kept.total(), "set_aside": aside.total(), "rejected": len(tally.rejected)}
    return {"rows": rows, "caps": dict(caps), "bands": bands}


def _prepare(job: tuple[Path, Path, tuple[float, ...]]) -> Tally:
    """Write one file's rows with their verdict, band and content hash; returns their tally."""
    shard, target, edges = job
    tally = Tally()
    with whole(target, "w") as file:
        for where, found in read_lines(shard):
            row = found if isinstance(found, Rejected) else _judged(shard.parent, where, found, edges)
            if isinstance(row, Rejected):
                tally.rejected.append(row)
                continue
            tally.add(row)
            file.write(json.dumps(row) + "\n")
    return tally


def _judged(folder: Path, where: str, found: dict[str, Any], edges: Sequence[float]) -> dict[str, Any] | Rejected:
    quality, bucket, verdict = (found.get(key) for key in ("quality", "bucket", "verdict"))
    reasons, data = [], None
    if quality is not None and (
        not isinstance(quality, int | float) or isinstance(quality, bool) or not 0 <= quality <= 1
    ):
        reasons.append(f"quality: found {quality!r}, expected a number in [0, 1].")
    if bucket is not None and not isinstance(bucket, str):
        reasons.append(f"bucket: found {bucket!r}, expected text.")
    if verdict is not None and verdict not in VERDICTS:
        reasons.append(f"verdict: found {verdict!r}, expected one of {', '.join(VERDICTS)}.")
    try:
        if isinstance(found.get("file_name"), str):
            data = (folder / found["file_name"]).read_bytes()
            verdict = verdict or provenance.read(data).verdict
        elif not isinstance(found.get("id"), str) or verdict is None:
            reasons.append("file_name: found none, expected the path of a picture, or an `id` with its `verdict`.")
    except (OSError, ValueError) as error:
        reasons.append(f"file_name: {error}")
    if reasons:
        return Rejected(where, reasons, found)
    content = hashlib.sha256(data if data is not None else found["id"].encode()).hexdigest()
    return {**found, "verdict": verdict, "band": _band(quality, bucket, edges), "content": content}


def _band(quality: float | None, bucket: str | None, edges: Sequence[float]) -> str:
    """portrait/0.25-0.5; the last band holds 1."""
    limits = [0, *edges, 1]
    place = bisect_right(edges, quality) if quality is not None else None
    name = UNRATED if place is None else f"{limits[place]:g}-{limits[place + 1]:g}"
    return name if bucket is None else f"{bucket}/{name}"


def _prepared(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def _number(content: str) -> int:
    return int(content[:16], 16)
