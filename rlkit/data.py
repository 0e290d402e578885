"""`rlkit data VERB`: what is done to a folder of pairs once it is made; one small function per verb."""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from data_synth.records import shards_of
from rlkit.errors import DataError
from rlkit.export import FORMATS, export

HELP = """\
rlkit data export pairs/ --to trl --out out/        rows for trl.DPOTrainer: one row per rejected answer
rlkit data export pairs/ --to ms-swift --out out/   JSON lines with messages and rejected_response
rlkit data export pairs/ --to llamafactory --out out/   JSON lines and dataset_info.json
rlkit data import rows.jsonl --out pairs/           rows of TRL, ms-swift, LLaMA-Factory or 2U1 as pairs
rlkit data votes anna.json ben.json                 agreement, labels and tiers of a review, back into the pairs
rlkit data rebuild pairs/                           after the captions changed: only changed rows are made anew
rlkit data remove pairs/ clip17 clip18              these sources and all that was made from them
rlkit data card pairs/                              README.md: what is in it, for readers and for the hub
rlkit data croissant pairs/                         croissant.json: the same for machines, with lineage"""


def main(argv: Sequence[str]) -> int:
    """Entry of `rlkit data`; the exit code."""
    given = _parser().parse_args(list(argv))
    return VERBS[given.verb](given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlkit data", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    out = verbs.add_parser("export", help="pairs as rows of another tool")
    out.add_argument("pairs", type=Path, help="a folder of pairs, or one parquet file")
    out.add_argument("--to", choices=FORMATS, required=True)
    out.add_argument("--out", type=Path, required=True, help="a new folder")
    out.add_argument("--media-root", type=Path, help="folder that media paths are relative to; written paths get it")
    out.add_argument("--frames", type=int, help="trl: give each video as this many pictures (TRL 1.16 reads no video)")
    out.add_argument(
        "--cut", action="store_true", help="ms-swift, llamafactory: cut pieces of videos into files in --out"
    )
    into = verbs.add_parser("import", help="rows of another tool as pairs")
    into.add_argument("rows", type=Path, help="a .jsonl, .json or .parquet file, or a folder of them")
    into.add_argument("--out", type=Path, required=True, help="a new folder")
    votes = verbs.add_parser("votes", help="what people say of the pairs")
    votes.add_argument("votes", type=Path, nargs="+", help="votes.json of the review page, one file per person")
    votes.add_argument("--pairs", type=Path, help="the folder they judged; default: found by the name in the file")
    votes.add_argument("--dry-run", action="store_true", help="report only; leave the pairs as they are")
    again = verbs.add_parser("rebuild", help="bring pairs up to date with their captions")
    again.add_argument("pairs", type=Path, help="the run folder of `algorithm: pairs`")
    gone = verbs.add_parser("remove", help="remove sources and their descendants")
    gone.add_argument("pairs", type=Path, help="a folder of pairs")
    gone.add_argument("sources", nargs="+", help="ids of sources, as the column source_id has them")
    for name, text in (("card", "write README.md into a folder of pairs"), ("croissant", "write croissant.json there")):
        about = verbs.add_parser(name, help=text)
        about.add_argument("pairs", type=Path, help="a folder of pairs")
    return parser


def _export(given: argparse.Namespace) -> int:
    rows, left_out = export(
        given.pairs, given.to, given.out, media_root=given.media_root, frames=given.frames, cut=given.cut
    )
    print(f"{given.out}: {rows} rows, {left_out} left out" + (" (see left_out.jsonl)." if left_out else "."))
    return 0


def _import(given: argparse.Namespace) -> int:
    from data_synth.card import write_card
    from data_synth.formats import read_rows
    from data_synth.records import write_records

    written = write_records(read_rows(given.rows, media_folder=given.out / "media"), given.out)
    write_card(given.out)
    print(f"{given.out}: {written.kept} pairs, {written.quarantined} rows in rejected_rows.jsonl.")
    return 0


def _votes(given: argparse.Namespace) -> int:
    """Print what the votes come to as JSON; write labels, tiers and weights into the pairs."""
    from data_synth import votes
    from rlkit.report.review import resolve

    pairs = given.pairs or _judged(given.votes[0])
    cast, names = [], [path.stem for path in given.votes]
    for k, path in enumerate(given.votes):
        voter = path.stem if names.count(path.stem) == 1 else str(path)
        if path in given.votes[:k]:
            raise DataError(f"{path}: is given twice; each person has one file.")
        cast += [votes.Vote(row["id"], voter, row["vote"]) for row in resolve(path, pairs)]
    found, reliability = votes.adjudicate(cast)
    told: dict = {"votes": len(cast), "decided": votes.voters_of(cast), "alpha": votes.agreement(cast)}
    told["alpha"] = {name: None if value != value else round(value, 4) for name, value in told["alpha"].items()}
    told["reliability"] = {name: round(value, 4) for name, value in reliability.items()}
    told["careless"] = votes.careless(reliability) if len(given.votes) > 1 else []
    labels = [one.label for one in found.values()]
    told["labels"] = {name: labels.count(name) for name in votes.DECIDED}
    if not given.dry_run:
        told["tiers"] = dict(votes.write_back(pairs, found))
    print(json.dumps(told, ensure_ascii=False))
    return 0


def _judged(path: Path) -> Path:
    """The folder of pairs that a votes.json is about: named in it, here or beside it."""
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["name"].rpartition("-")[0]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: no votes.json as the review page writes it.") from None
    for folder in (path.parent, Path(name), path.parent / name):
        if folder.is_dir() and shards_of(folder) and (folder.resolve().name == name or folder != path.parent):
            return folder
    raise DataError(f"{path}: is about '{name}', which is neither here nor beside it; say where with --pairs.")


def _rebuild(given: argparse.Namespace) -> int:
    from data_synth import votes
    from data_synth.making.report import write_report
    from rlkit.recipe.file import load
    from rlkit.running.folder import RunFolder, lock
    from rlkit.train import pairs

    stored = given.pairs / "recipe.yaml"
    if not stored.is_file():
        raise DataError(f"{given.pairs}: has no recipe.yaml; expected the run folder of `algorithm: pairs`.")
    recipe = load(stored)
    if recipe.algorithm != "pairs":
        raise DataError(f"{stored}: is of algorithm {recipe.algorithm}, expected pairs.")
    started = time.monotonic()
    with lock(given.pairs):
        built = pairs.make(recipe, given.pairs, None)
        votes.write_back(given.pairs, votes.read_adjudicated(given.pairs), strict=False)
        found = write_report(given.pairs, seed=recipe.seed)
        RunFolder(given.pairs).finish(pairs.results(built, found, time.monotonic() - started))
    print(json.dumps({name: asdict(built)[name] for name in ("rows", "made", "pairs", "quarantined")}))
    return 0


def _remove(given: argparse.Namespace) -> int:
    from data_synth.card import write_card
    from data_synth.making.remove import remove

    number = remove(given.pairs, given.sources)
    write_card(given.pairs)
    print(f"{given.pairs}: {number} pairs removed; later builds leave these sources out.")
    return 0


def _card(given: argparse.Namespace) -> int:
    from data_synth.card import write_card

    print(write_card(given.pairs))
    return 0


def _croissant(given: argparse.Namespace) -> int:
    from data_synth.croissant import write_croissant

    print(write_croissant(given.pairs))
    return 0


VERBS = {
    "export": _export,
    "import": _import,
    "votes": _votes,
    "rebuild": _rebuild,
    "remove": _remove,
    "card": _card,
    "croissant": _croissant,
}
