"""Start-up time and memory of reading pairs, 1,000 rows against 20,000: they should not depend on the number.

python tests/bench/rows_memory.py
Each measurement is a fresh process that imports, opens the pairs, takes the first row (first_row_cpu_s, of which
open_cpu_s is after the imports) and then 500 rows at random. Times are CPU seconds, which other load does not stretch.
peak_mib is resident memory at its highest until the first row; held_mib is the process's own memory (RssAnon) at the
end, without pages of the memory map, which the system may drop.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from data_synth.records import make_record, write_records

SIZES = (1_000, 20_000)
REPETITIONS = 9

CHILD = """
import time
start = time.process_time()
import json, random, sys
from pathlib import Path
from data_synth.records import read_records

opening = time.process_time()
rows = read_records(sys.argv[1])
first = rows[0]
end = time.process_time()

def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

peak = kib("VmHWM")
draw = random.Random(0)
for _ in range(500):
    rows[draw.randrange(len(rows))]
held = kib("RssAnon")
print(json.dumps({"first_row_cpu_s": end - start, "open_cpu_s": end - opening, "peak_mib": peak, "held_mib": held}))
"""


def row(i: int) -> dict:
    sentence = "A person in a red coat walks to the left and picks up box number {}. "
    chosen = "".join(sentence.format(i * 7 + k) for k in range(6))
    rejected = [(f"kind_{k}", chosen.replace(f"number {i * 7 + k}", "number 0")) for k in range(4)]
    return make_record("Describe the clip.", chosen, rejected, videos=[f"clips/{i}.mp4"], source_id=str(i), seed=i)


def measure(folder: Path) -> dict[str, float]:
    answer = subprocess.run([sys.executable, "-c", CHILD, str(folder)], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[int, list[dict[str, float]]] = {size: [] for size in SIZES}
        for size in SIZES:
            write_records(map(row, range(size)), Path(folder, str(size)))
        for _ in range(REPETITIONS):
            for size in SIZES:  # in turn, so that a busy machine slows both
                runs[size].append(measure(Path(folder, str(size))))
    cases = []
    for size in SIZES:
        middle = {name: statistics.median(run[name] for run in runs[size]) for name in runs[size][0]}
        cases.append({"case": f"rows={size}", **{name: round(value, 4) for name, value in middle.items()}})
    small, large = cases
    growth = {name: round(large[name] / small[name], 3) for name in small if name != "case"}
    print(f"{SIZES[1]} rows over {SIZES[0]} rows: {growth}")
    print(json.dumps({"bench": "rows_memory", "cases": cases, "growth": growth}))


if __name__ == "__main__":
    main()
