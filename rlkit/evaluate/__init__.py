"""Evaluation of captioners; `rlkit eval <run folder>` prints the results of a finished run."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlkit.errors import RunFolderError


def main(argv: Sequence[str] | None = None) -> int:
    """`rlkit eval <run folder>`: the table of systems with intervals, as Markdown; returns the exit code."""
    parser = argparse.ArgumentParser(prog="rlkit eval", description="example: rlkit eval runs/dpo_caption")
    parser.add_argument("folder", type=Path, help="a finished run folder")
    parser.add_argument("--metrics", help="comma-separated, for example order_exact,extra_sentences; default: all")
    arguments = parser.parse_args(argv)
    print(results_table(arguments.folder, arguments.metrics.split(",") if arguments.metrics else None), end="")
    return 0


def results_table(folder: Path, metrics: Sequence[str] | None = None) -> str:
    """results.json of a run folder as a Markdown table.

    Raises RunFolderError where the run is not finished, or for a metric that it does not have.
    """
    from rlkit.evaluate.names import is_detail
    from rlkit.report import compare_table
    from rlkit.running.folder import RunFolder

    results = RunFolder(Path(folder)).results()
    systems = results.get("systems")
    if not systems:
        raise RunFolderError(f"{folder}: no results.json yet. Launch its recipe.yaml again to finish the run.")
    known = compare_table.metric_order(systems)
    wrong = [name for name in metrics or [] if name not in known]
    if wrong:
        raise RunFolderError(f"{folder}: no metric '{wrong[0]}'. It has {', '.join(known)}.")
    shown = metrics or [name for name in known if not is_detail(name)]
    return compare_table.markdown(systems, shown, results.get("differences"))
