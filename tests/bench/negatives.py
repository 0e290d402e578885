"""Bench of the order swaps: `python tests/bench/negatives.py <captions.jsonl>` with `sentences` and, to judge,
`timestamps`.

Prints yield, blind accuracy and overlap of the naive generator (every neighbouring pair swapped as it stands) and of
ours, and
the throughput. Timestamps are read here alone, after the pairs are made.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from data_synth import audit
from data_synth.events import en_spacy
from data_synth.negatives import cli, order_swap
from data_synth.pair_files import Pair

MADE = [
    [
        "A man walks into a {0} kitchen.",
        "He washes the {1}, a carrot and an onion.",
        "Then he cuts the {1} on a board.",
        "After that, he puts everything into a pan.",
        "Finally he eats at the table and smiles.",
    ],
    [
        "A {0} dog runs across the yard.",
        "It picks up a {1} and shakes its head.",
        "A boy throws a stick, and the dog follows.",
        "The dog brings the stick back to the boy.",
        "They walk home together.",
    ],
]
WORDS = ["red", "blue", "large", "small", "bright", "old", "new", "clean"]
THINGS = ["potato", "ball", "rope", "tomato", "shoe", "pepper"]


def main() -> None:
    """Measure on the given file, or on made-up captions without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", nargs="?", help="JSONL with id or video, sentences, and timestamps to judge by")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--parsers", default="rules,spacy", help="what reads the captions, each one case")
    options = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = Path(options.captions) if options.captions else _made(folder / "captions.jsonl", 2000)
        for asked in options.parsers.split(","):
            used = cli.parser_used(asked, "en")
            if asked not in ("rules", used):
                print(f"{asked} is not installed, so it is not measured")
                continue
            cases.append(_case(source, folder, used, options.repetitions))
            print("\n".join(f"{key:<28}{value}" for key, value in cases[-1].items()))
    print(json.dumps({"bench": "negatives", "cases": cases}))


def _case(source: Path, folder: Path, parser: str, repetitions: int) -> dict:
    """Figures of one parser; ours and the naive generator timed in turn."""
    rows = {_source(row): row for row in map(json.loads, source.read_text(encoding="utf-8").splitlines())}
    if parser == "spacy":
        en_spacy.model()  # loading it takes seconds and is no reading
    ours_s, peer_s, cpu_s = [], [], []
    for _ in range(repetitions):
        en_spacy.forget()
        start, cpu = time.perf_counter(), time.process_time()
        counts = cli.run(source, folder / "pairs.jsonl", ["order_swap"], parser=parser)
        ours_s.append(time.perf_counter() - start)
        cpu_s.append(time.process_time() - cpu)
        start = time.perf_counter()
        naive = [pair for key, row in rows.items() for pair in _naive(key, row["sentences"])]
        peer_s.append(time.perf_counter() - start)
    ours = [json.loads(x) for x in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    proven = sum(order_swap.proves(p["chosen"], p["rejected"], p["edit"]) for p in ours)
    return {
        "case": source.stem,
        "parser": parser,
        **_judge(rows, ours, naive),
        "round_trip": round(proven / max(len(ours), 1), 4),
        "captions_per_s": round(counts.rows / statistics.median(ours_s), 1),
        "captions_per_cpu_s": round(counts.rows / statistics.median(cpu_s), 1),
        "ours_s": round(statistics.median(ours_s), 4),
        "peer_s": round(statistics.median(peer_s), 4),
        "ratio": round(statistics.median(ours_s) / max(statistics.median(peer_s), 1e-9), 3),
    }


def _source(row: dict) -> str:
    return str(next(row[name] for name in ("id", "source_id", "video", "image") if name in row))


def _naive(key: str, sentences: list[str]) -> list[tuple[str, str, str, int]]:
    """Every neighbouring pair swapped as it stands: (source, chosen, rejected, position)."""
    chosen, found = " ".join(s.strip() for s in sentences), []
    for k in range(len(sentences) - 1):
        turned = [*sentences[:k], sentences[k + 1], sentences[k], *sentences[k + 2 :]]
        found.append((key, chosen, " ".join(s.strip() for s in turned), k))
    return found


def _judge(rows: dict, ours: list[dict], naive: list[tuple]) -> dict:
    """Yield, blind accuracy, and the share of pairs whose true intervals overlap by more than a half and a tenth."""
    made = [Pair(p["source_id"], p["chosen"], p["rejected"], "order_swap") for p in ours]
    plain = [Pair(key, chosen, rejected, "naive") for key, chosen, rejected, _ in naive]
    case: dict = {"pairs": len(made), "neighbours": len(plain), "yield": round(len(made) / max(len(plain), 1), 4)}
    for name, pairs in (("ours", made), ("naive", plain)):
        report = audit.audit(pairs)["overall"]
        case[f"blind_{name}"], case[f"blind_{name}_interval"] = report["blind"], report["intervals"]["blind"]
        case |= {f"{probe}_{name}": report[probe] for probe in ("length", "surface", "ngram", "position")}
    places = {
        "ours": [(p["source_id"], p["edit"]["sentences"][0]) for p in ours],
        "naive": [(p[0], p[3]) for p in naive],
    }
    for name, where in places.items():
        overlap = np.array([_overlap(rows[key]["timestamps"], k) for key, k in where if "timestamps" in rows[key]])
        if len(overlap):
            case[f"overlap_half_{name}"] = round(float((overlap > 0.5).mean()), 4)
            case[f"overlap_tenth_{name}"] = round(float((overlap > 0.1).mean()), 4)
    return case


def _overlap(timestamps: list[list[float]], k: int) -> float:
    """Overlap of two neighbouring intervals as a part of the shorter one."""
    (a, b), (c, d) = timestamps[k], timestamps[k + 1]
    return max(0.0, min(b, d) - max(a, c)) / max(min(b - a, d - c), 1e-6)


def _made(path: Path, count: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for k in range(count):
            filled = [s.format(WORDS[k % 8], THINGS[k % 6]) for s in MADE[k % 2]]
            file.write(json.dumps({"id": f"made {k}", "sentences": filled}) + "\n")
    return path


if __name__ == "__main__":
    main()
