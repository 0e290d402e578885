"""Agreement and careless people on real ratings: python tests/bench/votes.py <tifa160_likert.csv>

A CSV with columns item_id, t2i_model, worker_id, answer (1 to 5), as released with DSG (arXiv 2310.18235). Prints
Krippendorff's alpha, then plants careless people: a share of the workers gets answers drawn at random from all answers,
and the reliability that Dawid-Skene gives each worker must tell them from the others (AUC). Without a file: made-up
ratings.
"""

import argparse
import csv
import json
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from data_synth import votes


def main() -> None:
    """Measure and print one JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ratings", nargs="?")
    parser.add_argument("--careless", type=float, default=0.15)
    parser.add_argument("--fewest", type=int, default=10, help="answers a worker must have given to be judged")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    ratings = read(options.ratings) if options.ratings else made_up()
    items, workers = sorted({r[0] for r in ratings}), sorted({r[1] for r in ratings})
    table = np.full((len(workers), len(items)), np.nan)
    row, column = {w: i for i, w in enumerate(workers)}, {item: i for i, item in enumerate(items)}
    for item, worker, answer in ratings:
        table[row[worker], column[item]] = answer
    start = time.perf_counter()
    found = {level: round(votes.alpha(table, level), 4) for level in ("nominal", "ordinal", "interval")}
    print(f"{len(ratings)} ratings of {len(items)} items by {len(workers)} people; alpha {found}")
    areas = [planted(ratings, workers, options.careless, options.fewest, seed) for seed in range(options.seeds)]
    print("AUC of finding the careless:", [round(area, 3) for area in areas])
    case = {"case": (options.ratings and "file") or "made up", "ours_s": round(time.perf_counter() - start, 2)}
    case |= {f"alpha_{level}": value for level, value in found.items()}
    case |= {"auc_mean": round(float(np.mean(areas)), 4), "auc_lowest": round(min(areas), 4)}
    print(json.dumps({"bench": "votes", "cases": [case]}))


def read(path: str) -> list[tuple[str, str, int]]:
    """(item, worker, answer) of a CSV; an item is one picture of one model."""
    with open(path, encoding="utf-8", newline="") as file:  # noqa: PTH123
        rows = list(csv.DictReader(file))
    return [(f"{r['t2i_model']} {r['item_id']}", r["worker_id"], int(r["answer"])) for r in rows]


def made_up(items: int = 300, workers: int = 40, each: int = 5) -> list[tuple[str, str, int]]:
    """Ratings within one step of the truth."""
    draw = np.random.default_rng(0)
    truth = draw.integers(1, 6, items)
    return [
        (str(k), str(w), int(np.clip(truth[k] + draw.integers(-1, 2), 1, 5)))
        for k in range(items)
        for w in draw.permutation(workers)[:each]
    ]


def planted(ratings, workers: list[str], share: float, fewest: int, seed: int) -> float:
    """AUC of the reliability against who was made careless, among people with at least `fewest` answers."""
    draw = np.random.default_rng(seed)
    answers = np.array([answer for _, _, answer in ratings])
    counts = {w: sum(r[1] == w for r in ratings) for w in workers}
    judged = [w for w in workers if counts[w] >= fewest]
    bad = {judged[k] for k in draw.permutation(len(judged))[: max(1, round(share * len(judged)))]}
    cast = [(i, w, str(draw.choice(answers) if w in bad else answer)) for i, w, answer in ratings]
    _, reliability = votes.dawid_skene(cast)
    return float(roc_auc_score([w in bad for w in judged], [-reliability[w] for w in judged]))


if __name__ == "__main__":
    main()
