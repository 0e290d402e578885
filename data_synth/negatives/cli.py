"""`rlkit negatives`: a file of captions in, a file of pairs out; rows that cannot be used go to a quarantine file.

Three passes of constant memory: rows are read and checked one by one and their pairs spooled to disk; of the order
swaps,
a fixed number fits the blind probes; then the spool is copied to the output without the swaps that would leak.
"""

import argparse
import contextlib
import importlib
import importlib.util
import itertools
import json
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_synth import balance, probes
from data_synth.errors import DataError
from data_synth.events import Negative, en_spacy, parse
from data_synth.mixture import Mirror
from data_synth.negatives import order_swap
from data_synth.negatives.rows import Row, read_rows
from data_synth.whole import whole

SAMPLE = 6_000
"""Order swaps that the balancing probes are fitted on; the rest is judged by them."""
GROUP = 20_000
"""Pairs among which mirror images in length are looked for."""
MOST_SLACK = 2.2
"""Of the order swaps that the probes tell, at most so many stay per one that they get wrong; fewer where probes fitted
anew still tell more than `TOLD`."""
TOLD = 0.555
BATCH = 2_000
BUCKETS = 2**16


@dataclass
class Counts:
    """What happened to the rows."""

    rows: int = 0
    quarantined: int = 0
    neighbours: int = 0
    """Neighbouring sentences in `sentences` input: what the yield of order_swap is measured against."""
    refused: Counter = None
    spooled: Counter = None
    written: Counter = None


def main(argv: list[str] | None = None) -> int:
    """Entry of `rlkit negatives`; prints a summary as JSON and returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        counts = run(
            Path(options.captions),
            Path(options.out),
            [kind.strip() for kind in options.kinds.split(",") if kind.strip()],
            seed=options.seed,
            balanced=not options.no_balance,
            quarantine=Path(options.quarantine) if options.quarantine else None,
            parser=options.parser,
            neutral=options.length_neutral,
        )
    except DataError as error:
        print(f"rlkit negatives: {error}", file=sys.stderr)
        return 2
    summary = {
        "rows": counts.rows,
        "quarantined": counts.quarantined,
        "pairs": dict(counts.written),
        "parser": {language: parser_used(options.parser, language) for language in ("en", "zh")},
        "refused": dict(counts.refused),
        "balanced_out": {k: n - counts.written[k] for k, n in counts.spooled.items() if n > counts.written[k]},
    }
    if counts.neighbours:
        summary["order_swap_yield"] = round(counts.written["order_swap"] / counts.neighbours, 4)
    print(json.dumps(summary, ensure_ascii=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlkit negatives", description="Make wrong captions from true ones.")
    parser.add_argument("captions", help='JSONL with {"id", "caption"} or {"id", "sentences": [...]} per line')
    parser.add_argument("--kinds", default="order_swap", help="operators by file name or path, separated by commas")
    parser.add_argument("--out", required=True, help="JSONL to write: one line per pair")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quarantine", help="where unusable rows go (default: <out>.rejected_rows.jsonl)")
    parser.add_argument("--no-balance", action="store_true", help="keep order swaps that can be told without looking")
    parser.add_argument(
        "--length-neutral",
        action="store_true",
        help="mix so that length tells nothing; pairs without a mirror image go",
    )
    parser.add_argument("--parser", default="rules", choices=["rules", "spacy", "jieba"], help="what finds the events")
    return parser


def load(kind: str):
    """The `corrupt` function of an operator, by file name ("order_swap") or by path ("./my_negative.py")."""
    if kind.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(kind).stem, kind) if Path(kind).is_file() else None
        if spec is None or spec.loader is None:
            raise DataError(f"no operator file {kind}; give a path to a Python file with a function corrupt")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        known = sorted(p.stem for p in Path(__file__).parent.glob("*.py"))
        known = [k for k in known if k not in {"__init__", "cli", "rows", "media", "graded"}]
        if kind not in known:
            raise DataError(f"no operator called {kind!r}; the operators are {', '.join(known)}, or a path to your own")
        module = importlib.import_module(f"data_synth.negatives.{kind}")
    if "corrupt" not in vars(module):
        raise DataError(f"operator {kind} has no function corrupt; define corrupt(caption, *, seed) -> Negative | None")
    return module.corrupt


def run(
    captions: Path,
    out: Path,
    kinds: list[str],
    *,
    seed: int = 0,
    balanced: bool = True,
    quarantine: Path | None = None,
    parser: str = "rules",
    neutral: bool = False,
) -> Counts:
    """Write the pairs of a caption file and the rows that could not be used; returns what was counted.

    `balanced`: drop the order swaps that a blind probe tells. `neutral`: make the truncated and the verbose captions
    mirror images of each other and drop every pair, of any kind, that has no mirror image in length.
    """
    if not kinds:
        raise DataError("no operator named; give --kinds, for example --kinds order_swap,verbose")
    if not captions.is_file():
        raise DataError(f"no file {captions}; give a JSONL file with one caption per line")
    operators = {kind: load(kind) for kind in kinds}
    if neutral:
        operators |= _mirrored(operators)
    quarantine = quarantine or out.with_name(out.name + ".rejected_rows.jsonl")
    counts = Counts(refused=Counter(), spooled=Counter(), written=Counter())
    out.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlkit-negatives-")))
        seen = stack.enter_context(contextlib.closing(sqlite3.connect(folder / "ids.sqlite", isolation_level=None)))
        spool = folder / "spool.jsonl"
        sample = _Sample(BUCKETS) if balanced and "order_swap" in operators else None
        with whole(quarantine, "w") as bad, spool.open("w", encoding="utf-8") as spooled:
            for row in _read_ahead(read_rows(captions, seen), operators, parser):
                counts.rows += 1
                if row.reason:
                    counts.quarantined += 1
                    bad.write(json.dumps(row.quarantined(), ensure_ascii=True) + "\n")
                    continue
                counts.neighbours += max(len(row.sentences) - 1, 0)
                for line in _pairs(row, operators, seed, parser, counts):
                    spooled.write(f"{line['kind']}\t{json.dumps(line, ensure_ascii=False)}\n")
                    counts.spooled[line["kind"]] += 1
                    if sample is not None and line["kind"] == "order_swap":
                        sample.add(line)
        with whole(out, "w") as target:
            kept = _kept(spool, sample)
            for kind, text in _neutral(kept) if neutral else kept:
                target.write(text)
                counts.written[kind] += 1
    return counts


def _mirrored(operators: dict) -> dict:
    """The truncated and verbose operators of a length-neutral mixture, where both are asked for."""
    if not {"truncated", "verbose"} <= set(operators):
        return {}
    mirror = Mirror()
    return {
        "truncated": lambda caption, *, seed: mirror.truncated(caption, seed),
        "verbose": lambda caption, *, seed: mirror.verbose(caption, seed),
    }


def _neutral(lines: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The lines whose length tells nothing, group by group."""
    while group := list(itertools.islice(lines, GROUP)):
        rows = [json.loads(text) for _, text in group]
        texts = ([row[name] for row in rows] for name in ("chosen", "rejected", "source_id"))
        yield from itertools.compress(group, balance.length_neutral(*texts))


def parser_used(parser: str, language: str) -> str:
    """Which parser reads captions of a language when `parser` is asked for: rules, spacy or jieba."""
    wanted = {"en": "spacy", "zh": "jieba"}[language]
    if parser != wanted or (wanted == "spacy" and en_spacy.model() is None):
        return "rules"
    return wanted


def _read_ahead(rows: Iterator[Row], operators: dict, parser: str) -> Iterator[Row]:
    """The same rows; with spaCy their texts are read in groups, which is twice as fast as one by one."""
    if parser_used(parser, "en") != "spacy":
        yield from rows
        return
    while group := list(itertools.islice(rows, 256)):
        usable = [row for row in group if not row.reason]
        swaps = [text for row in usable if "order_swap" in operators for text in order_swap.to_confirm(row.sentences)]
        texts = [row.text for row in usable if not row.sentences]
        en_spacy.read_ahead(text for text in swaps + texts if text.isascii())
        yield from group


def _pairs(row: Row, operators: dict, seed: int, parser: str, counts: Counts) -> Iterator[dict]:
    """The output lines of one row."""
    chosen = row.text
    for kind, corrupt in operators.items():
        negatives: list[Negative]
        if kind == "order_swap" and row.sentences:
            negatives = list(order_swap.sentence_pairs(row.sentences, parser))
        else:
            found = corrupt(parse(chosen, None, parser), seed=seed)
            negatives = [found] if found is not None else []
        if not negatives:
            counts.refused[kind] += 1
        for negative in negatives:
            yield {
                **row.passed,
                "source_id": row.source_id,
                "chosen": chosen,
                "rejected": negative.text,
                "kind": negative.kind,
                "edit": negative.edit,
                "why": negative.why,
            }


def _priority(line: dict) -> float:
    """Which order swaps to keep first when some have to go: those that are least likely to overlap in time."""
    tie = balance.chance(line["source_id"], line["rejected"])
    return float(line["edit"].get("overlap_risk", 0.0)) + 1e-3 * tie


def _contrasts(lines: list[dict]):
    return probes.moved(((line["chosen"], line["rejected"]) for line in lines), BUCKETS)


class _Sample:
    """The first order swaps of a run, as sparse rows: all that balancing keeps in memory."""

    def __init__(self, buckets: int):
        self.blocks, self.waiting, self.sources, self.priorities = [], [], [], []
        self.buckets = buckets
        self.rows = None

    def add(self, line: dict) -> None:
        """Take a line unless there are enough."""
        if len(self.sources) >= SAMPLE:
            return
        self.waiting.append({"chosen": line["chosen"], "rejected": line["rejected"]})
        self.sources.append(line["source_id"])
        self.priorities.append(_priority(line))
        if len(self.waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        self.blocks.append(_contrasts(self.waiting).astype(np.float32))
        self.waiting = []

    def fit(self) -> "balance.Balance | None":
        """The fitted balance; None when the sample is too small."""
        if self.waiting:
            self._flush()
        if not self.blocks:
            return None
        self.rows = balance.stacked(self.blocks)
        priorities = np.array(self.priorities)
        return balance.refine(self.rows, self.sources, priorities, most=MOST_SLACK, enough=TOLD, checks=1)

    def judge(self, fitted: "balance.Balance", lines: list[str], before: int) -> np.ndarray:
        """Which of these order swaps stay, Bool[n]; `before` came earlier. The rows of the sample are used again."""
        known = self.rows[before : before + len(lines)]
        sources, priorities = (x[before : before + len(lines)] for x in (self.sources, self.priorities))
        new = [json.loads(line) for line in lines[known.shape[0] :]]
        if new:
            known = balance.stacked([known, _contrasts(new).astype(np.float32)])
            sources = [*sources, *(line["source_id"] for line in new)]
            priorities = [*priorities, *map(_priority, new)]
        folds = np.array([balance.fold_of(source) for source in sources], dtype=int)
        return balance.kept(fitted, known, folds, np.array(priorities))


def _kept(spool: Path, sample: "_Sample | None") -> Iterator[tuple[str, str]]:
    """(kind, line of text) of what is spooled, without the order swaps that balancing drops, in order."""
    fitted = sample.fit() if sample is not None else None
    judged = 0
    with spool.open(encoding="utf-8") as lines:
        while batch := [tuple(line.split("\t", 1)) for line in itertools.islice(lines, BATCH)]:
            swaps = [k for k, (kind, _) in enumerate(batch) if kind == "order_swap"]
            dropped: set[int] = set()
            if fitted is not None and sample is not None and swaps:
                stays = sample.judge(fitted, [batch[k][1] for k in swaps], judged)
                dropped = {k for k, stay in zip(swaps, stays, strict=True) if not stay}
            judged += len(swaps)
            yield from (line for k, line in enumerate(batch) if k not in dropped)
