"""kill -9 at random moments of everything that runs for long; in the end it must be as if nothing had happened.

python -m tests.torture.torture [--kills 100] [--only nft "pairs, 2 ranks"] [--seed 0]     (or: make torture)

Each job runs once undisturbed. Then it is started again and again in another folder, and one of its processes, chosen
at random, is killed at a moment drawn over what is left of its time; after four kills it may end, and its weights,
rows, pictures, results and what it says of them are compared. A server is killed and started again while the job that
asks it goes on. Rows are lost or doubled where the ids or lines of a file differ.

<out>/results.json is written after each job; the same seed again goes on with the jobs that are not there or that were
found wrong, whose folders stay in <out>/work. Exit code 1 where anything differs.
"""

import argparse
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil

from rlkit.running.folder import write_text
from tests.torture import jobs

KILLS_BEFORE_AN_END = 4
LEAST_LEFT = 0.2  # of a job's time: a kill may come in its last part, however long it lived before
PATIENCE_S = 600
CLOCK = ("time", "step_time", "seconds", "date", "added")  # keys that begin so are of the clock, or of this start alone
PICTURES = (".png", ".jpg", ".mp4")


@dataclass
class Tally:
    """What happened to one job."""

    kills: int = 0
    resumes: int = 0
    """Kills after which it came to its end."""
    lost: int = 0
    doubled: int = 0
    weights: int = 0
    """Files of weights that differ."""
    other: list[str] = field(default_factory=list)
    """Files that differ in another way, and starts that failed."""

    def bad(self) -> bool:
        """Whether anything differs."""
        return bool(self.lost or self.doubled or self.weights or self.other)


@dataclass
class Server:
    """What the job asks, started again as often as it is killed."""

    command: list[str]
    folder: Path
    process: subprocess.Popen | None = None

    def start(self) -> None:
        """Another process at the same port."""
        with (self.folder / "server.txt").open("a") as log:
            self.process = subprocess.Popen(self.command, env=jobs.environment(), stdout=log, stderr=log)

    def killed(self) -> None:
        """kill -9, then a new start."""
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self) -> None:
        """For good."""
        self.process.terminate()
        self.process.wait(PATIENCE_S)


def main() -> int:
    """Torture every job; prints a line for each, a table at the end, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all, shared out among the jobs")
    parser.add_argument("--only", nargs="*", help="names of jobs")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments; a new one each time")
    parser.add_argument("--out", type=Path, default=Path("runs/torture"), help="folder of results.json and table.md")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen = [job for job in jobs.all_jobs() if not options.only or job.name in options.only]
    place = options.out.resolve() / "work"
    (place / "start").mkdir(parents=True, exist_ok=True)
    tallies = kept(options.out / "results.json", options.seed)
    left = [job for job in chosen if job.name not in tallies]
    print(f"seed {options.seed}: {len(left)} of {len(chosen)} jobs", flush=True)
    jobs.prepare(place / "start")
    for number, job in enumerate(left):
        missing = max(0, options.kills - sum(one.kills for one in tallies.values()))
        wanted = max(1, -(-missing // (len(left) - number)))
        rng = random.Random(f"{options.seed} {job.name}")
        tallies[job.name] = one = torture(ready(job, place), place / folder_name(job), wanted, rng)
        if not one.bad():
            shutil.rmtree(place / folder_name(job))
        write(options.out, tallies, options.seed, complete=number == len(left) - 1)
        print(row(job.name, one), one.other[:5], flush=True)
    print((options.out / "table.md").read_text())
    failed = {name: one.other for name, one in tallies.items() if one.bad()}
    print(json.dumps({"bench": "torture", "seed": options.seed, **total(tallies), "failed": failed}))
    return int(bool(failed))


def kept(path: Path, seed: int) -> dict[str, Tally]:
    """What an earlier torture with this seed found whole."""
    told = json.loads(path.read_text()) if path.is_file() else {}
    if told.get("seed") != seed:
        return {}
    tallies = {name: Tally(**one) for name, one in told["jobs"].items()}
    return {name: one for name, one in tallies.items() if not one.bad()}


def write(out: Path, tallies: Mapping[str, Tally], seed: int, *, complete: bool) -> None:
    """results.json and table.md, whole."""
    system = {name: {"value": value} for name, value in total(tallies).items()}
    told = {name: asdict(one) for name, one in tallies.items()}
    results = {"complete": complete, "systems": {"torture": system}, "jobs": told, "seed": seed}
    head = "| job | kills | resumes | lost rows | doubled rows | differing weights | other |\n" + 7 * "|---" + "|"
    table = [head, *(row(name, one) for name, one in tallies.items())]
    write_text(out / "table.md", "\n".join(table) + "\n")
    write_text(out / "results.json", json.dumps(results, indent=1) + "\n")


def total(tallies: Mapping[str, Tally]) -> dict[str, int]:
    """Over all jobs, by the names of results.json."""
    names = {"kills": "kills", "resumes": "resumes", "lost_rows": "lost", "doubled_rows": "doubled"}
    names["differing_weights"] = "weights"
    return {name: sum(asdict(one)[key] for one in tallies.values()) for name, key in names.items()}


def row(name: str, one: Tally) -> str:
    """A line of the table."""
    return f"| {name} | {one.kills} | {one.resumes} | {one.lost} | {one.doubled} | {one.weights} | {len(one.other)} |"


def folder_name(job: jobs.Job) -> str:
    """Of the job's folders."""
    return job.name.replace(", ", "_").replace(" ", "_")


def ready(job: jobs.Job, place: Path) -> jobs.Job:
    """The job with its start's folder and a free port written in."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])

    def filled(words: Sequence[str]) -> list[str]:
        return [word.replace(jobs.START, str(place / "start")).replace(jobs.PORT, port) for word in words]

    server = None if job.server is None else filled(job.server)
    return replace(job, recipe=filled([job.recipe])[0], command=filled(job.command), server=server)


def torture(job: jobs.Job, place: Path, wanted: int, rng: random.Random) -> Tally:
    """Kill `job` `wanted` times."""
    shutil.rmtree(place, ignore_errors=True)
    tally, whole = Tally(), fresh(place, job, "whole")
    server = None if job.server is None else Server(job.server, place)
    if server is not None:
        server.start()
    try:
        process = start(job, whole)
        wait_for_life(process, whole)
        began = time.monotonic()
        if process.wait(PATIENCE_S):
            tally.other.append(f"the undisturbed run failed: {last_words(whole)}")
            return tally
        seconds = time.monotonic() - began
        for number in range(3 * wanted):
            if tally.kills >= wanted or tally.bad():
                return tally
            cut = fresh(place, job, f"cut{number}")
            before, most = tally.kills, min(wanted, tally.kills + KILLS_BEFORE_AN_END)
            lived = 0.0
            while lived is not None and tally.kills < most:
                lived = disturb(job, cut, seconds, lived, rng, tally, most, server)
            if not tally.bad() and start(job, cut).wait(PATIENCE_S):
                tally.other.append(f"after {tally.kills - before} kills: {last_words(cut)}")
            if not tally.bad():
                tally.resumes += tally.kills - before
                compare(whole / "out", cut / "out", tally)
                if said(whole) != said(cut):
                    tally.other.append(f"said {said(cut)} instead of {said(whole)}")
        tally.other.append("it ends before it can be killed")
        return tally
    finally:
        if server is not None:
            server.stop()
        for one in psutil.Process().children(recursive=True):  # where it hangs, or this is stopped
            one.kill()


def fresh(place: Path, job: jobs.Job, name: str) -> Path:
    """An empty folder with the recipe."""
    folder = place / name
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(job.recipe)
    return folder


def start(job: jobs.Job, folder: Path) -> subprocess.Popen:
    """The job's process, which writes what it says to log.txt."""
    with (folder / "log.txt").open("w") as log:
        return subprocess.Popen(
            job.command, cwd=folder, env=jobs.environment(), stdout=log, stderr=log, start_new_session=True
        )


def disturb(
    job: jobs.Job,
    folder: Path,
    seconds: float,
    lived: float,
    rng: random.Random,
    tally: Tally,
    most: int,
    server: Server | None,
) -> float | None:
    """Start the job and kill one of its processes; its server before that. Returns the seconds it has lived by now in
    all its starts, None where it ended before it could be killed."""
    process = start(job, folder)
    wait_for_life(process, folder)
    began = time.monotonic()
    while True:
        left = max(seconds - lived - (time.monotonic() - began), LEAST_LEFT * seconds)
        if ended_within(process, PATIENCE_S if tally.kills == most else rng.random() * left):
            if process.returncode:
                tally.other.append(f"it ended by itself after {tally.kills} kills: {last_words(folder)}")
            return None
        if tally.kills == most:
            tally.other.append("it does not end")
            return None
        if server is not None and (tally.kills == 0 or rng.random() < 0.5):
            tally.kills += 1
            server.killed()
            continue  # the job goes on without a new start
        below = psutil.Process(process.pid).children()
        victims = below if job.ranks > 1 else [*below, psutil.Process(process.pid)]
        if not victims:  # all ranks have just ended, and the launcher is about to
            continue
        tally.kills += 1
        rng.choice(victims).kill()
        if not ended_within(process, PATIENCE_S):  # the others must notice, or do without
            tally.other.append("one process was killed and the others went on waiting")
        return lived + time.monotonic() - began


def wait_for_life(process: subprocess.Popen, folder: Path) -> None:
    """Until the job says more than where it starts, or, where it says nothing, writes something: what comes before is
    only imports."""
    end = time.monotonic() + PATIENCE_S
    log, recipe = folder / "log.txt", (folder / "recipe.yaml").stat().st_size > 0
    while process.poll() is None and log.read_bytes().count(b"\n") < 2 and (recipe or not (folder / "out").exists()):
        if time.monotonic() > end:
            raise SystemExit(f"{folder}: nothing was said in {PATIENCE_S} s")
        time.sleep(0.02)


def ended_within(process: subprocess.Popen, seconds: float) -> bool:
    """Whether it ends by itself in this time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def last_words(folder: Path) -> str:
    """The end of the log."""
    return " | ".join((folder / "log.txt").read_text(errors="replace").strip().splitlines()[-3:])


def said(folder: Path) -> object:
    """The JSON object that the log ends with, without what is of the clock; None where it ends otherwise."""
    lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
    return without_clock(json.loads(lines[-1])) if lines and lines[-1].startswith("{") else None


def compare(whole: Path, cut: Path, tally: Tally) -> None:
    """Count what differs between the two run folders."""
    for name in sorted(files_of(whole) | files_of(cut)):
        path, other = whole / name, cut / name
        if path.suffix in (".parquet", ".jsonl"):
            want, have = (Counter(rows_of(one)) if one.is_file() else Counter() for one in (path, other))
            tally.lost += (want - have).total()
            tally.doubled += (have - want).total()
        if not path.is_file() or not other.is_file():
            tally.other.append(f"{name} is {'missing' if path.is_file() else 'one too many'}")
        elif path.suffix == ".safetensors":
            tally.weights += path.read_bytes() != other.read_bytes()
        elif path.suffix in PICTURES and path.read_bytes() != other.read_bytes():
            tally.other.append(f"{name} looks different")
        elif path.name == "results.json":
            want, have = (json.loads(one.read_text()) for one in (path, other))
            for key in ("systems", "differences", "counts", "alarms"):
                if without_clock(want.get(key)) != without_clock(have.get(key)):
                    tally.other.append(f"{name}: {key}")


def files_of(folder: Path) -> set[Path]:
    """What lies in a run folder; not checkpoints, locks, logs, nor caches that are named by the time."""
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    aside = {name for name in names if "checkpoints" in name.parts or name.suffix == ".log"}
    return {name for name in names - aside if not any(part.startswith(".") for part in name.parts)}


def rows_of(path: Path) -> list[str]:
    """Every row as text, without what the clock says."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [repr(without_clock(row)) for row in rows]


def without_clock(value: object) -> object:
    """`value` without the keys that the clock decides, however deep they lie."""
    if isinstance(value, dict):
        return {key: without_clock(one) for key, one in value.items() if not str(key).startswith(CLOCK)}
    if isinstance(value, list):
        return [without_clock(one) for one in value]
    return value


if __name__ == "__main__":
    raise SystemExit(main())
