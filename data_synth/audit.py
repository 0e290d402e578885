"""Blind audit: can a shortcut tell chosen from rejected without looking? Accuracies per operator, 0.5 = no leak."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import scipy.sparse

from data_synth import balance, lm_probe, probes
from data_synth.errors import DataError
from data_synth.pair_files import Pair, read_pairs
from data_synth.whole import whole

THRESHOLD = 0.60
"""A leak is an accuracy above this whose interval lies above 0.5."""
FOLDS, BOOTSTRAPS = 5, 1000
SAMPLE = 400
"""Pairs per operator that a language model reads: its interval is then about 5 points to either side."""
FEWEST_SOURCES = 20
"""Below this many sources an operator is listed, but not judged."""


@dataclass(frozen=True)
class Accuracy:
    """Share of pairs told right (a tie counts half), with a 95 % bootstrap interval over sources."""

    value: float
    low: float
    high: float


def accuracy(hits: np.ndarray, groups: Sequence[str], seed: int = 0) -> Accuracy:
    """Mean of `hits` (Float[n] of 0, 0.5, 1) and its interval, sources drawn with replacement."""
    _, index = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    total, number = np.bincount(index, weights=hits), np.bincount(index)
    draw = np.random.default_rng(seed)
    means = np.empty(BOOTSTRAPS)
    for k in range(BOOTSTRAPS):
        chosen = np.bincount(draw.integers(0, len(number), len(number)), minlength=len(number))
        means[k] = (chosen @ total) / (chosen @ number)
    low, high = np.quantile(means, [0.025, 0.975])
    return Accuracy(float(hits.mean()), float(low), float(high))


def audit(pairs: Sequence[Pair], *, seed: int = 0, score: lm_probe.Scorer | None = None, sample: int = SAMPLE) -> dict:
    """Accuracy of every probe, per operator and over all: `{"n", "operators": {name: {...}}, "overall": {...}}`.

    Each entry holds `n`, the accuracies `length`, `surface`, `ngram`, `position` and `blind` (all probes together), the
    `intervals` of each, and two figures on length: the share of pairs with the longer text chosen and the
    Kolmogorov-Smirnov distance of the length ratio to its mirror image. Folds are grouped by source.
    `score`: a language model (`lm_probe.scorer`) that adds the accuracy `lm` on at most `sample` pairs per operator.
    """
    matrices = {
        name: probes.difference(probe, [p.chosen for p in pairs], [p.rejected for p in pairs])
        for name, probe in probes.PROBES.items()
    }
    matrices["blind"] = scipy.sparse.hstack(list(matrices.values())).tocsr()
    operators = sorted({p.kind for p in pairs})
    rows = {op: np.flatnonzero([p.kind == op for p in pairs]) for op in operators}
    everything = np.arange(len(pairs))
    entries = {op: _entry(pairs, matrices, index, seed) for op, index in rows.items()}
    if score is not None:
        for op, entry in entries.items():
            _add_language_model(entry, [pairs[i] for i in rows[op]], score, sample, seed)
    overall = entries[operators[0]] if len(operators) == 1 else _entry(pairs, matrices, everything, seed)
    return {"n": len(pairs), "operators": entries, "overall": overall}


def _entry(pairs: Sequence[Pair], matrices: dict, index: np.ndarray, seed: int) -> dict:
    """The figures of one operator."""
    chosen = [pairs[i] for i in index]
    groups = [p.source_id for p in chosen]
    lengths = np.array([[len(p.chosen), len(p.rejected)] for p in chosen], dtype=float)
    entry: dict = {"n": len(index), "sources": len(set(groups))}
    fold = probes.folds(groups, min(FOLDS, max(2, entry["sources"])), seed)
    intervals = {}
    for name, matrix in matrices.items():
        hits = probes.hits(probes.margins(matrix[index], fold))
        found = accuracy(hits, groups, seed)
        entry[name] = round(found.value, 4)
        intervals[name] = [round(found.low, 4), round(found.high, 4)]
    entry["intervals"] = intervals
    entry["chosen_longer"] = round(float(np.mean(np.sign(lengths[:, 0] - lengths[:, 1]) / 2 + 0.5)), 4)
    entry["length_ratio_ks"] = round(balance.mirror_ks(lengths[:, 0], lengths[:, 1]), 4)
    return entry


def _add_language_model(entry: dict, pairs: list[Pair], score: lm_probe.Scorer, sample: int, seed: int) -> None:
    """Add what a language model tells of a sample: `lm`, its interval, and `lm_n`, the size of the sample."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:sample])
    pairs = [pairs[i] for i in drawn]
    groups = [p.source_id for p in pairs]
    rows = lm_probe.contrasts(score, [p.chosen for p in pairs], [p.rejected for p in pairs])
    fold = probes.folds(groups, min(FOLDS, max(2, len(set(groups)))), seed)
    hits = probes.hits(probes.margins(probes.scaled(probes.hashed(rows)), fold))
    found = accuracy(hits, groups, seed)
    entry |= {"lm": round(found.value, 4), "lm_n": len(pairs)}
    entry["intervals"]["lm"] = [round(found.low, 4), round(found.high, 4)]


def leaks(report: dict, threshold: float = THRESHOLD) -> list[str]:
    """One sentence per operator and probe that tells chosen from rejected more often than `threshold`."""
    found = []
    for operator, entry in {**report["operators"], "all operators": report["overall"]}.items():
        if entry["sources"] < FEWEST_SOURCES:
            continue
        for name, (low, _) in entry["intervals"].items():
            if entry[name] > threshold and low > 0.5:
                count = entry["lm_n"] if name == "lm" else entry["n"]
                found.append(f"{operator}: the {name} probe tells {entry[name]:.1%} of {count} pairs without looking")
    return found


def main(argv: list[str] | None = None) -> int:
    """Entry of `rlkit audit`; exit code 0: no leak, 1: a leak above the threshold, 2: the pairs could not be read."""
    options = _parser().parse_args(argv)
    try:
        pairs = read_pairs(Path(options.pairs))
        score = lm_probe.scorer(options.language_model) if options.language_model else None
        report = audit(pairs, seed=options.seed, score=score, sample=options.sample)
        if options.balance:
            report["balanced"] = _balance_to(pairs, Path(options.balance), options.seed)
    except DataError as error:
        print(f"rlkit audit: {error}", file=sys.stderr)
        return 2
    found = leaks(report, options.threshold)
    report["leaks"] = found
    print(json.dumps(report, ensure_ascii=False) if options.json else table(report))
    return 1 if found else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlkit audit", description="Can chosen be told from rejected without looking?"
    )
    parser.add_argument("pairs", help="JSONL, JSON or parquet file, or a folder of them, with chosen and rejected")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="accuracy above which the exit code is 1")
    parser.add_argument("--balance", metavar="OUT", help="also write the pairs that balancing keeps to this JSONL file")
    parser.add_argument("--language-model", metavar="MODEL", help="a folder, .gguf file or hub id: adds the probe lm")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="pairs per operator that the language model reads")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _balance_to(pairs: Sequence[Pair], out: Path, seed: int) -> dict:
    """Write the pairs that balancing keeps, each operator on its own, and audit them anew."""
    keep = np.zeros(len(pairs), bool)
    for operator in sorted({p.kind for p in pairs}):
        index = np.flatnonzero([p.kind == operator for p in pairs])
        group = [pairs[i] for i in index]
        keep[index] = balance.balance(
            [p.chosen for p in group], [p.rejected for p in group], [p.source_id for p in group]
        )
    stays = [p for p, k in zip(pairs, keep, strict=True) if k]
    with whole(out, "w") as file:
        file.writelines(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in stays)
    return {"kept": round(float(keep.mean()), 4), **audit(stays, seed=seed)} if stays else {"kept": 0.0}


def table(report: dict) -> str:
    """The report as a plain table, accuracies in percent with their intervals."""
    names = (*probes.PROBES, "blind", *(["lm"] if any("lm" in e for e in report["operators"].values()) else []))
    lines = [f"{'operator':<22}{'n':>8}  " + "".join(f"{name:>20}" for name in names)]
    for operator, entry in {**report["operators"], "overall": report["overall"]}.items():
        shown = [n for n in names if n in entry]
        cells = (f"{entry[n]:>6.1%} [{entry['intervals'][n][0]:.1%}, {entry['intervals'][n][1]:.1%}]" for n in shown)
        lines.append(f"{operator:<22}{entry['n']:>8}  " + "".join(f"{cell:>20}" for cell in cells))
    if "balanced" in report:
        kept = report["balanced"]
        lines.append(
            f"after balancing: {kept['kept']:.1%} kept"
            + (f", blind {kept['overall']['blind']:.1%}" if "overall" in kept else "")
        )
    lines += report["leaks"] or ["no leak found"]
    return "\n".join(lines)
