"""Evaluation of captioners; `rlkit eval` prints the results of a finished run, or measures finished models again."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlkit.errors import RunFolderError

EXAMPLES = """\
  rlkit eval runs/dpo_caption                                   the results that the run stored
  rlkit eval runs/dpo_caption --again                           its final model measured again
  rlkit eval runs/dpo_caption evaluate.num_clips=2000           ... on more clips
  rlkit eval runs/dpo_caption evaluate.controls=[blind] data.num_frames=4
  rlkit eval runs/sft_caption/final runs/dpo_caption/final evaluate.num_clips=2000
  rlkit eval Qwen/Qwen2.5-VL-3B-Instruct --recipe runs/mine/recipe.yaml

Keys of evaluate, data and model may be given. Stored results are never overwritten: what is measured again goes to
evaluations/ in the run folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """`rlkit eval`: a table of systems with intervals, as Markdown; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="rlkit eval", description=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", metavar="run, model or key=value")
    parser.add_argument("--metrics", help="comma-separated, for example order_exact,extra_sentences; default: all")
    parser.add_argument("--again", action="store_true", help="measure again, with the settings of the run")
    parser.add_argument("--recipe", type=Path, help="says which clips and how they are shown; default: the run's own")
    parser.add_argument("--out", type=Path, help="folder for what is measured; default: evaluations/ in the run folder")
    given = parser.parse_intermixed_args(argv)
    names = [text for text in given.names if "=" not in text]
    overrides = [text for text in given.names if "=" in text]
    if not names:
        parser.error("name a run folder or a model first")
    folder = Path(names[0])
    stored = len(names) == 1 and not overrides and not given.again and given.recipe is None
    if stored and not folder.exists():
        raise RunFolderError(f"rlkit eval: no such file or folder: {folder}. Expected a run folder or a model's.")
    if not stored or not any((folder / name).is_file() for name in ("recipe.yaml", "results.json")):
        from rlkit.evaluate.again import measure_again

        folder = measure_again(names, overrides, recipe_path=given.recipe, out=given.out)
    print(results_table(folder, given.metrics.split(",") if given.metrics else None), end="")
    print(f"\n{folder}/results.json")
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
