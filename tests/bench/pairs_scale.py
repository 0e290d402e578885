"""Cost and memory of making pairs from more and more captions: both should depend on the number as a straight line and
not at all.

python tests/bench/pairs_scale.py [--sizes 1000 10000 100000] [--workers 1] [--of pairs]
Each size is a fresh process on captions made from a template, all different. `--of pairs`: six operators, balanced,
audited, with card, as `algorithm: pairs` makes them; `--of negatives`: order swaps, balanced, as `rlkit negatives`
does. cpu_s is CPU time of the whole, peak_mib the highest resident memory of its process. Set beside it: the time of
writing the same captions down as JSON lines and reading them back (peer_s).
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THINGS = ("ball", "box", "cup", "rope", "shoe", "kite", "book", "lamp")
PLACES = ("beach", "kitchen", "garden", "street", "stage", "field", "yard")
COLOURS = ("red", "blue", "green", "white", "black", "yellow")
OPENINGS = ("Then", "After that,", "Next,", "Finally")
PEOPLE = ("man", "woman", "boy", "girl", "chef")

PAIRS = """
import json, resource, sys, time
from pathlib import Path
from data_synth.making import Operator, Options, build
from data_synth.making.report import write_report
from data_synth.sources import read_captions

source, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
if __name__ == "__main__":
    names = ["order_swap", "truncated", "verbose", "attribute_swap", "count_change", "direction_flip"]
    wall = time.perf_counter()
    done = build(lambda: read_captions(source), out, Options([Operator(n) for n in names]), workers=workers)
    made = time.process_time()
    write_report(out)
    peak = {line.split(":")[0]: int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({
        "cpu_s": time.process_time() + used.ru_utime + used.ru_stime, "wall_s": time.perf_counter() - wall,
        "report_cpu_s": time.process_time() - made, "peak_mib": peak["VmHWM"] / 1024,
        "pairs": done.pairs, "accounted": done.pairs + done.quarantined + done.without_negative == done.rows,
    }))
"""
NEGATIVES = """
import json, sys, time
from pathlib import Path
from data_synth.negatives import cli

wall = time.perf_counter()
done = cli.run(Path(sys.argv[1]), Path(sys.argv[2]) / "pairs.jsonl", ["order_swap"], parser="rules")
peak = {line.split(":")[0]: int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")}
print(json.dumps({
    "cpu_s": time.process_time(), "wall_s": time.perf_counter() - wall, "peak_mib": peak["VmHWM"] / 1024,
    "pairs": sum(done.written.values()), "quarantined": done.quarantined,
}))
"""


def caption(number: int) -> str:
    """Three to five sentences in an order drawn by the number, which every text holds, so that they all differ."""
    draw = random.Random(number)
    person, place, thing = draw.choice(PEOPLE), draw.choice(PLACES), draw.choice(THINGS)
    events = [
        f"picks up a {draw.choice(COLOURS)} {thing}",
        f"turns to the {draw.choice(('left', 'right'))} and waves",
        f"throws {draw.choice(('two', 'three', 'four', 'five'))} stones into the {draw.choice(PLACES)}",
        f"looks {draw.choice(('up', 'down'))} at the sky",
        f"runs away from a {draw.choice(COLOURS)} dog",
    ]
    draw.shuffle(events)
    sentences = [f"A {person} with badge {number} walks across the {place}."]
    sentences += [f"{opening} the {person} {event}." for opening, event in zip(OPENINGS, events, strict=False)]
    return " ".join(sentences[: draw.randrange(3, 6)])


def write_captions(path: Path, size: int) -> None:
    """A JSONL file of so many captions."""
    with path.open("w") as file:
        file.writelines(json.dumps({"id": str(k), "caption": caption(k)}) + "\n" for k in range(size))


def measure(folder: Path, size: int, workers: int, code: str) -> dict[str, float]:
    """One build in a process of its own."""
    source, out = folder / f"{size}.jsonl", folder / f"pairs-{size}"
    start = time.process_time()
    write_captions(source, size)
    with source.open() as file:
        sum(len(json.loads(line)["caption"]) for line in file)
    peer = time.process_time() - start
    out.mkdir()
    child = folder / "child.py"
    child.write_text(code)
    answer = subprocess.run([sys.executable, child, source, out, str(workers)], capture_output=True, text=True)
    if answer.returncode:
        sys.exit(answer.stderr)
    return {**json.loads(answer.stdout.splitlines()[-1]), "peer_s": peer}


def main() -> None:
    """Print a line per size, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--of", choices=("pairs", "negatives"), default="pairs")
    options = parser.parse_args()
    code = PAIRS if options.of == "pairs" else NEGATIVES
    cases = []
    with tempfile.TemporaryDirectory() as name:
        for size in options.sizes:
            found = measure(Path(name), size, options.workers, code)
            case = {"case": f"{options.of} captions={size}", **{key: round(value, 2) for key, value in found.items()}}
            case |= {"ours_s": case["cpu_s"], "captions_per_cpu_s": round(size / found["cpu_s"], 1)}
            cases.append(case)
            print(case, flush=True)
    last, before = cases[-1], cases[-2] if len(cases) > 1 else cases[-1]
    growth = {"peak_mib": round(last["peak_mib"] / before["peak_mib"], 3)}
    growth["cpu_per_caption"] = round(before["captions_per_cpu_s"] / last["captions_per_cpu_s"], 3)
    print(json.dumps({"bench": "pairs_scale", "cases": cases, "growth": growth}))


if __name__ == "__main__":
    main()
