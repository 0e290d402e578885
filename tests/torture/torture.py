"""kill -9 at random moments of everything that runs for long; in the end it must be as if nothing had happened.

python -m tests.torture.torture [--kills 100] [--only nft "pairs, 2 ranks"] [--seed 0]     (or: make torture)

Each job runs once undisturbed. Then it is started again and again in another folder, and one of its processes, chosen
at random, is killed at a moment drawn over the whole time; after three kills it may end, and its weights, rows and
results are compared. Rows are lost or doubled where the ids or lines of a file differ. Exit code 1 where anything does.
"""

import argparse
import json
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.torture import jobs

KILLS_BEFORE_AN_END = 3
PATIENCE_S = 900
CLOCK = ("time", "seconds", "date")  # keys that begin so are of the clock


@dataclass
class Tally:
    """What happened to one job."""

    kills: int = 0
    ends: int = 0
    lost: int = 0
    doubled: int = 0
    weights: int = 0
    other: list[str] = field(default_factory=list)
    """Files that differ in another way, and starts that failed."""

    def bad(self) -> bool:
        """Whether anything differs."""
        return bool(self.lost or self.doubled or self.weights or self.other)


def main() -> int:
    """Torture every job; prints a line for each, a table at the end, and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all, shared out among the jobs")
    parser.add_argument("--only", nargs="*", help="names of jobs")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the moments; a new one each time")
    options = parser.parse_args()
    chosen = [job for job in jobs.all_jobs() if not options.only or job.name in options.only]
    rng = random.Random(options.seed)
    print(f"seed {options.seed}: {len(chosen)} jobs")
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "start").mkdir()
        jobs.prepare(place / "start")
        for number, job in enumerate(chosen):
            wanted = -(-(options.kills - sum(one.kills for one in tallies.values())) // (len(chosen) - number))
            tallies[job.name] = one = torture(job, place, wanted, rng)
            told = f"lost {one.lost}, doubled {one.doubled}, weights {one.weights}, other {one.other}"
            print(f"{job.name:<24}{one.kills} kills, {one.ends} ends: {told}", flush=True)
    total = Counter()
    for one in tallies.values():
        total.update(
            {"kills": one.kills, "ends": one.ends, "lost": one.lost, "doubled": one.doubled, "weights": one.weights}
        )
    failed = {name: one.other for name, one in tallies.items() if one.bad()}
    print(json.dumps({"bench": "torture", "seed": options.seed, **total, "failed": failed}))
    return int(bool(failed))


def torture(job: jobs.Job, place: Path, wanted: int, rng: random.Random) -> Tally:
    """Kill `job` `wanted` times or a little more."""
    tally = Tally()
    whole = fresh(place, job, "whole")
    began = time.monotonic()
    if start(job, whole).wait(PATIENCE_S):
        tally.other.append(f"the undisturbed run failed: {last_words(whole)}")
        return tally
    seconds = time.monotonic() - began
    while tally.kills < wanted:
        cut = fresh(place, job, f"cut{tally.ends}")
        killed = 0
        while killed < min(KILLS_BEFORE_AN_END, wanted - tally.kills + killed) and disturb(job, cut, seconds, rng):
            killed += 1
            tally.kills += 1
        if start(job, cut).wait(PATIENCE_S):
            tally.other.append(f"after {killed} kills: {last_words(cut)}")
            return tally
        tally.ends += 1
        compare(whole / "out", cut / "out", tally)
        if not killed and tally.ends > 3 * wanted:
            tally.other.append("it ends before it can be killed")
            return tally
    return tally


def fresh(place: Path, job: jobs.Job, name: str) -> Path:
    """An empty folder with the recipe."""
    folder = place / job.name.replace(", ", "_").replace(" ", "_") / name
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(job.recipe.replace(jobs.START, str(place / "start")))
    return folder


def start(job: jobs.Job, folder: Path) -> subprocess.Popen:
    """The job's process, which writes what it says to log.txt."""
    with (folder / "log.txt").open("w") as log:
        return subprocess.Popen(
            job.command, cwd=folder, env=jobs.environment(), stdout=log, stderr=log, start_new_session=True
        )


def disturb(job: jobs.Job, folder: Path, seconds: float, rng: random.Random) -> bool:
    """Start the job and kill one of its processes, with all that it started; False where it ended before that."""
    process = start(job, folder)
    moment = rng.random() * seconds
    process_ended = wait_for_life(process, folder) or ended_within(process, moment)
    if process_ended:
        return False
    victims = [one for one in psutil.Process(process.pid).children() if job.ranks > 1] or [psutil.Process(process.pid)]
    rng.choice(victims).send_signal(signal.SIGKILL)
    if job.ranks > 1:
        try:  # the launcher must notice, and stop the others
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{job.name}: a rank was killed and the others went on waiting") from None
    else:
        process.wait()
    return True


def wait_for_life(process: subprocess.Popen, folder: Path) -> bool:
    """Until the job says something: what comes before is only imports. Whether it has ended."""
    end = time.monotonic() + PATIENCE_S
    while process.poll() is None and not (folder / "log.txt").stat().st_size:
        if time.monotonic() > end:
            raise SystemExit(f"{folder}: nothing was said in {PATIENCE_S} s")
        time.sleep(0.01)
    return process.poll() is not None


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


def compare(whole: Path, cut: Path, tally: Tally) -> None:
    """Count what differs between the two run folders."""
    for path in sorted(whole.rglob("*")):
        name = path.relative_to(whole)
        hidden = any(part.startswith(".") for part in name.parts)  # locks, and caches that are named by the time
        if hidden or not path.is_file() or "checkpoints" in name.parts:
            continue
        other = cut / name
        if not other.is_file():
            tally.other.append(f"{name} is missing")
        elif path.suffix == ".safetensors":
            tally.weights += path.read_bytes() != other.read_bytes()
        elif path.suffix in (".parquet", ".jsonl"):
            want, have = Counter(rows_of(path)), Counter(rows_of(other))
            tally.lost += (want - have).total()
            tally.doubled += (have - want).total()
        elif path.name == "results.json":
            want, have = (json.loads(one.read_text()) for one in (path, other))
            for key in ("systems", "differences", "counts", "alarms"):
                if without_clock(want.get(key)) != without_clock(have.get(key)):
                    tally.other.append(f"{name}: {key}")


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
