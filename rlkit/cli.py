"""The command `rlkit`: one small function per verb, each importing only what it needs, so that answers come at once."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rlkit.errors import RlkitError

HELP = """\
  rlkit new dpo_caption mine.yaml           copy a recipe, comments and all
  rlkit check mine.yaml                     every mistake, with its line
  accelerate launch mine.yaml train.learning_rate=2e-6

before a run
  new NAME FILE             copy a recipe to start from
  check RECIPE [KEY=VALUE]  read it strictly; all problems at once, exit code 2
  plan RECIPE [KEY=VALUE]   steps, memory, disk and time; refuses what does not divide
  ls [WHAT]                 recipes; or runs algorithms negatives losses models rewards
  help [KEY]                what a key means: rlkit help train.learning_rate
  doctor                    what this machine lacks, with the command that mends it
the run
  run RECIPE [KEY=VALUE]    accelerate launch, with --config ddp or --processes 4
  eval RUN|MODEL [KEY=..]   results of a finished run, or its model measured again
  report RUN                write and open report.html
  diff RUN RUN              what differs in recipe and results
  pick MODEL PROMPTS        make n for each, keep the best; how far n helps
data
  negatives CAPTIONS        wrong captions from true ones, as a file
  audit PAIRS               can chosen and rejected be told apart without the clip?
  review PAIRS              one offline page to judge pairs by eye; gives votes.json
  data VERB                 export, import, votes, rebuild, remove, card, croissant
  reward VERB               check, score, serve: reward models, probed and put to use

rlkit VERB --help has an example for each."""

ELSEWHERE = {
    "eval": ("rlkit.evaluate", ""),
    "pick": ("rlkit.pick", ""),
    "report": ("rlkit.report.page", "a run folder, for example runs/dpo_caption"),
    "negatives": ("data_synth.negatives.cli", "a JSONL file of captions"),
    "audit": ("data_synth.audit", "a folder or parquet file of pairs"),
    "review": ("rlkit.report.review", "a folder or parquet file of pairs"),
    "data": ("rlkit.data", ""),
    "reward": ("rlkit.reward", ""),
}
"""Verbs whose file has a `main(argv)` of its own, and what their first argument must be."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of the console script; ends with exit code 2 for wrong arguments or recipes, 1 for what failed later."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        sys.exit(dispatch(argv))
    except RlkitError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # rlkit ls | head
        sys.stderr.close()
        sys.exit(0)
    except KeyboardInterrupt:
        print(f"\nrlkit {argv[0]}: stopped; files that are there are whole.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from rlkit.running import machine

        told = machine.sentence(error, Path.cwd())
        if told is None:
            raise
        print(f"rlkit {argv[0]}: {told}", file=sys.stderr)
        sys.exit(1)


def dispatch(argv: list[str]) -> int:
    """Run the verb; the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0 if argv else 2
    if argv[0] == "--version":
        from rlkit import __version__

        print(__version__)
        return 0
    verb, rest = argv[0], argv[1:]
    if verb in ELSEWHERE:
        return elsewhere(verb, rest)
    own = {
        "check": check,
        "plan": plan,
        "ls": ls,
        "new": new,
        "run": run,
        "help": help_,
        "doctor": doctor,
        "diff": diff,
    }
    if verb not in own:
        raise usage(f"no verb '{verb}'. {_meant(verb, [*own, *ELSEWHERE])}")
    return own[verb](rest)


def usage(sentence: str) -> RlkitError:
    """An error in the arguments."""
    error = RlkitError(sentence)
    error.exit_code = 2
    return error


def _meant(word: str, words: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(word, words, n=1)
    recipe = " To run a recipe: rlkit run " + word + "." if word.endswith((".yaml", ".yml")) else ""
    return (f"Did you mean '{close[0]}'?" if close else "`rlkit --help` lists them.") + recipe


def _parser(verb: str, example: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"rlkit {verb}",
        description=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def elsewhere(verb: str, argv: list[str]) -> int:
    """Hand over to the file of the verb, once the path it works on is seen to be there."""
    module_name, wanted = ELSEWHERE[verb]
    path = argv[0] if argv and not argv[0].startswith("-") else None
    if path is not None and wanted and not Path(path).exists():
        raise usage(f"rlkit {verb}: no such file or folder: {path}. Expected {wanted}.")
    if path is not None and verb == "report" and not (Path(path) / "recipe.yaml").is_file():
        raise usage(f"rlkit {verb}: {path} is no run folder (it has no recipe.yaml). Expected {wanted}.")
    from data_synth.errors import DataError

    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise RlkitError(f"rlkit {verb}: not part of this version; there is no {module_name}.") from None
    try:
        return int(module.main(argv) or 0)
    except DataError as error:
        raise usage(f"rlkit {verb}: {error}") from None


def check(argv: list[str]) -> int:
    """Read a recipe and all it needs; say where it would run."""
    parser = _parser("check", "rlkit check recipes/dpo_caption.yaml train.learning_rate=2e-6")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--repair", action="store_true", help="add the two lines that make plain YAML launchable")
    given = parser.parse_intermixed_args(argv)
    from rlkit.plugins import is_path, shown_path
    from rlkit.recipe.file import load_chain
    from rlkit.recipe.text import is_launchable

    if given.repair:
        repair(given.recipe)
    for step in load_chain(given.recipe, given.overrides):
        name = shown_path(step.path)
        framed = is_launchable(step.path.read_text(encoding="utf-8-sig"))
        how = "accelerate launch" if framed else "plain YAML: accelerate launch -m rlkit"
        algorithm = step.recipe.algorithm
        algorithm = shown_path(Path(algorithm)) if is_path(algorithm) else algorithm
        print(f"{name}: fine. {algorithm}, into {shown_path(step.out)}. {how} {name}")
    return 0


def repair(path: Path) -> None:
    """Add header and footer to a plain YAML recipe; its other lines stay as they are."""
    from rlkit.listing import framed
    from rlkit.recipe.text import is_launchable, read_text
    from rlkit.running.folder import write_text

    text = read_text(path, str(path))
    if not is_launchable(text):
        write_text(path, framed(text))


def plan(argv: list[str]) -> int:
    """Do the arithmetic of a run without running it."""
    parser = _parser(
        "plan",
        "rlkit plan recipes/dpo_caption.yaml --devices 8 --memory-gib 80\n"
        "         rlkit plan recipes/pairs_caption.yaml data.captions=some.jsonl --rows 1e9 --nodes 128 --cores 64",
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--devices", type=int, help="processes per machine, one per GPU (default: the GPUs here)")
    parser.add_argument("--memory-gib", type=float, help="memory per device (default: that of the device here)")
    parser.add_argument("--rows-per-step", type=int, help="rows per optimiser step the run must have, in total")
    parser.add_argument("--rows", help="captions or clips, instead of those of the recipe; 1e9 may be written")
    parser.add_argument("--nodes", type=int, help="machines; also says what their deaths cost")
    parser.add_argument("--cores", type=int, help="of each machine, for data jobs (default: those here)")
    parser.add_argument("--node-days", type=float, default=264.0, help="mean days until a machine dies (default: 264)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    given = parser.parse_intermixed_args(argv)
    from rlkit.plan import main as show_plan

    return show_plan(given)


def ls(argv: list[str]) -> int:
    """List recipes, or what can be named in one."""
    parser = _parser("ls", "rlkit ls negatives")
    kinds = ["recipes", "runs", "algorithms", "negatives", "losses", "models", "rewards"]
    parser.add_argument("what", nargs="?", default="recipes", choices=kinds)
    given = parser.parse_intermixed_args(argv)
    from rlkit import listing

    rows = listing.rows(given.what)
    if not rows:
        print(f"no {given.what} here")
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(f"{name:<{width}}  " + text.replace("\n", f"\n{'':<{width}}  "))
    return 0


def new(argv: list[str]) -> int:
    """Copy a recipe under a new name."""
    parser = _parser("new", "rlkit new dpo_caption mine.yaml")
    parser.add_argument("name", help="a recipe of `rlkit ls`, or the path of one")
    parser.add_argument("file", type=Path, help="where to; an existing file is never overwritten")
    given = parser.parse_intermixed_args(argv)
    from rlkit import listing

    listing.copy_recipe(given.name, given.file)
    print(f"{given.file}: written. Edit it, then: rlkit check {given.file} && accelerate launch {given.file}")
    return 0


def run(argv: list[str]) -> int:
    """Check the recipe, then hand it to accelerate launch."""
    parser = _parser("run", "rlkit run recipes/dpo_caption.yaml --processes 4 train.max_steps=100")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--config", help="accelerate config: a path, or a name in accelerate_configs such as ddp")
    parser.add_argument("--processes", type=int, help="one per GPU")
    given = parser.parse_intermixed_args(argv)
    from rlkit.launch import launch
    from rlkit.recipe.file import load_chain

    load_chain(given.recipe, given.overrides)
    return launch(given.recipe, given.overrides, given.config, given.processes)


def help_(argv: list[str]) -> int:
    """The reference of keys, from the docstrings of recipe/schema.py."""
    parser = _parser("help", "rlkit help train.learning_rate    (or: rlkit help train, rlkit help learning_rate)")
    parser.add_argument("key", nargs="?", default="")
    given = parser.parse_intermixed_args(argv)
    from rlkit import listing

    print(listing.reference(given.key))
    return 0


def doctor(argv: list[str]) -> int:
    """What this machine has and lacks."""
    parser = _parser("doctor", "rlkit doctor")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the list")
    given = parser.parse_intermixed_args(argv)
    from rlkit.doctor import main as examine

    return examine(given.json)


def diff(argv: list[str]) -> int:
    """Two runs side by side."""
    parser = _parser("diff", "rlkit diff runs/dpo_caption runs/dpo_caption_k1")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    given = parser.parse_intermixed_args(argv)
    for folder in (given.first, given.second):
        if not (folder / "recipe.yaml").is_file():
            raise usage(f"rlkit diff: {folder} is no run folder (it has no recipe.yaml).")
    from rlkit import listing

    print("\n".join(listing.run_differences(given.first, given.second)) or "no difference")
    return 0
