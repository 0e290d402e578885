"""Picking prompt by prompt, so that what is finished is not made again, and what came of it: files, curve, results.

pick.json                what was asked; another command in this folder is refused
drawn/<id>.json          all samples of a prompt: seeds or texts, scores, which are kept; written last, so that it
                         says the prompt is finished (drawn/<id>-pair.json or .parquet: its pair)
pictures/<id>-<rank>.png the kept pictures, best first
picks.jsonl, page.html, results.json, pairs/
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from torch import Tensor

from rlkit.errors import RecipeError, RunFolderError
from rlkit.evaluate import best_of, intervals
from rlkit.evaluate.names import describe, interval_text, number, signed
from rlkit.pick.page import write_page
from rlkit.recipe import REWARD, PlugIn, Recipe
from rlkit.recipe.convert import Reading, convert
from rlkit.recipe.file import load
from rlkit.recipe.text import parse
from rlkit.report.compare_table import differences
from rlkit.running.folder import RunFolder, write_text
from rlkit.running.progress import Progress
from rlkit.running.tracking import write_jsonl

SHOWN = 24
"""Prompts on the page."""


@dataclass
class Made:
    """All samples of one prompt; NaN is no score."""

    values: Tensor
    """[samples]; what they are ranked by."""
    scores: dict[str, Tensor]
    """`reward` and `held_out`, weighted means, and every reward by its name; each [samples]."""
    about: list[dict[str, Any]]
    """Of each sample, what it is or can be made from again."""
    save: Callable[[int, Path], str | None]
    """(sample, path without suffix) -> name of the file written; None where `about` says it all."""
    save_pair: Callable[[Path], None]
    """Write best against worst at a path without suffix."""


class Source(Protocol):
    """Where samples come from: rlkit/pick/pictures.py, rlkit/pick/captions.py."""

    job: dict[str, Any]
    """What was asked, as JSON; samples follow from it and the prompt alone."""
    prompts: Mapping[str, str]
    """Id -> prompt; the id follows from the prompt, so that prompts can be added later."""

    def make(self, id_: str) -> Made:
        """The samples of one prompt."""

    def write_pairs(self, paths: Sequence[Path], folder: Path) -> dict[str, int]:
        """Gather what `save_pair` wrote, without suffix, as a table for training; counts of what it holds."""


def pick(source: Source, out: Path, *, pairs: bool) -> dict[str, Any]:
    """Make what is missing, then write everything; the results. The folder has been claimed."""
    missing = [id_ for id_ in source.prompts if not (out / "drawn" / f"{id_}.json").is_file()]
    with Progress(out.name, stages=1) as progress:
        progress.stage(f"making {source.job['make']} for each of {len(source.prompts):,} prompts", len(source.prompts))
        progress.advance(len(source.prompts) - len(missing))
        for id_ in missing:
            write_text(out / "drawn" / f"{id_}.json", json.dumps(_one(source, id_, out), ensure_ascii=False))
            progress.advance()
    rows = [json.loads((out / "drawn" / f"{id_}.json").read_text(encoding="utf-8")) for id_ in source.prompts]
    write_jsonl(out / "picks.jsonl", list(kept_rows(rows)))
    results = results_of(rows, source.job["make"], source.job["keep"]) | {"job": source.job}
    if pairs:
        paths = [out / "drawn" / f"{id_}-pair" for id_ in source.prompts]
        results["counts"] |= source.write_pairs(paths, out / "pairs")
    write_page(out, results, rows[:SHOWN])
    RunFolder(out).finish(results)
    return results


def _one(source: Source, id_: str, out: Path) -> dict[str, Any]:
    """Make, rank and keep for one prompt; its row."""
    made = source.make(id_)
    values = made.values.tolist()
    known = [at for at, value in enumerate(values) if math.isfinite(value)]
    kept = sorted(known, key=lambda at: -values[at])[: source.job["keep"]]
    files = [made.save(at, out / "pictures" / f"{id_}-{rank}") for rank, at in enumerate(kept, 1)]
    if len(values) > 1:
        made.save_pair(out / "drawn" / f"{id_}-pair")
    return {
        "id": id_,
        "prompt": source.prompts[id_],
        "values": _finite(values),
        "scores": {name: _finite(found.tolist()) for name, found in made.scores.items()},
        "samples": made.about,
        "kept": kept,
        "files": files,
    }


def kept_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A line for each kept sample: prompt, rank, file, scores, and what it can be made from again."""
    for row in rows:
        for rank, (at, file) in enumerate(zip(row["kept"], row["files"], strict=True), 1):
            told = {"file": f"pictures/{file}"} if file else {}
            scores = {name: found[at] for name, found in row["scores"].items()}
            yield {"id": row["id"], "prompt": row["prompt"], "rank": rank, **told, **scores, **row["samples"][at]}


def results_of(rows: Sequence[Mapping[str, Any]], make: int, keep: int) -> dict[str, Any]:
    """Systems (one sample, the best of all, the kept ones), the curve over n with gains over n = 1, and KL in nats."""
    by_n = {n: [_expected(row, n) for row in rows] for n in best_of.sizes(make)}
    systems = {"base": by_n[1], f"best_of_{make}": by_n[make], f"kept_{keep}_of_{make}": [_kept(row) for row in rows]}
    curve = []
    for n, found in by_n.items():
        curve.append({"n": n, "kl": best_of.kl(n), **intervals.summarise(found)})
        curve[-1]["gain"] = intervals.paired_difference(found, by_n[1])
    judged = "held_out" if rows and "held_out" in rows[0]["scores"] else "reward"
    gains = [(one["n"], one["gain"][judged]["value"]) for one in curve]
    samples = sum(len(row["values"]) for row in rows)
    missing = sum(value is None for row in rows for value in row["values"])
    return {
        "systems": {name: intervals.summarise(found) for name, found in systems.items()},
        "differences": differences({name: [found] for name, found in systems.items()}),
        "headline": ["base", f"best_of_{make}"],
        "measured_on": "prompts",
        "kl": {"best": best_of.kl(make), "kept": best_of.kl(make, keep), "unit": "nats, at most"},
        "curve": curve,
        "overoptimisation": {"of": judged, **best_of.overoptimisation([g for g in gains if g[1] is not None])},
        "counts": {"prompts": len(rows), "samples": samples, "missing_rewards": missing},
    }


def _expected(row: Mapping[str, Any], n: int) -> dict[str, Any]:
    order = _numbers(row["values"])
    found = {name: best_of.expected(order, _numbers(scores), n) for name, scores in row["scores"].items()}
    return {"clip": row["id"], **found}


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"clip": row["id"]}
    for name, scores in row["scores"].items():
        known = [scores[at] for at in row["kept"] if scores[at] is not None]
        found[name] = sum(known) / len(known) if known else None
    return found


def summary(results: Mapping[str, Any], out: Path) -> str:
    """The curve as a table, and where everything is."""
    names = [name for name in ("reward", "held_out") if name in results["curve"][0]]
    lines = ["   n   KL, nats  " + "  ".join(f"{describe(name).title:<24}" for name in names)]
    for point in results["curve"]:
        cells = [f"{number(point[k]['value'], describe(k))} ({interval_text(point[k], describe(k))})" for k in names]
        lines.append(f"{point['n']:>4}  {point['kl']:>8.2f}   " + "  ".join(f"{cell:<24}" for cell in cells).rstrip())
    last, counts = results["curve"][-1], results["counts"]
    for name in names:
        gain, metric = last["gain"][name], describe(name)
        bounds = f"{signed(gain['low'], metric)} to {signed(gain['high'], metric)}"
        lines.append(f"{metric.title}, best of {last['n']} against one: {signed(gain['value'], metric)} ({bounds})")
    if best := results["overoptimisation"]["best_n"]:
        lines.append(f"{describe(results['overoptimisation']['of']).title} peaks near n = {best}: more is hacked")
    if counts["missing_rewards"]:
        lines.append(f"{counts['missing_rewards']:,} of {counts['samples']:,} samples have no score and take no part")
    lines.append(f"kept ones lie at most {results['kl']['kept']:.2f} nats from the model: {out}/picks.jsonl, page.html")
    return "\n".join(lines)


def rewards_of(texts: Sequence[str], option: str) -> list[PlugIn]:
    """Rewards of the command line, each as an entry of a recipe's list. Raises RecipeError with every problem."""
    tree, problems = parse("rewards:\n" + "".join(f"- {text}\n" for text in texts), option)
    reading = Reading(Path.cwd(), list(problems))
    found = convert(tree.data["rewards"], list[Annotated[PlugIn, REWARD]], option.lstrip("-"), reading) if texts else []
    if reading.problems:
        raise RecipeError(reading.problems)
    return found


def told(rewards: Sequence[PlugIn]) -> list[list[Any]]:
    """Rewards as a job tells them, in JSON."""
    return [[one.name, one.weight, one.options] for one in rewards]


def recipe_of(model: str) -> Recipe:
    """The recipe of the run whose final/ `model` is; the defaults where it is none."""
    stored = Path(model).resolve().parent / "recipe.yaml"
    return load(stored) if stored.is_file() and Path(model).is_dir() else Recipe()


def fingerprint(model: str) -> str:
    """Changes when a folder's weights do: names, sizes and last MiB of its safetensors. A hub id is its own."""
    if not Path(model).is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted(Path(model).rglob("*.safetensors")):
        digest.update(f"{path.relative_to(model)} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 2**20, 0))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def id_of(prompt: str) -> str:
    """Twelve hex digits that follow from a prompt."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:12]


def claim(out: Path, job: Mapping[str, Any]) -> None:
    """Take a folder for a job, before models are loaded. Raises RunFolderError where it holds anything else."""
    path = out / "pick.json"
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise RunFolderError(f"{out}: is not empty and holds no picks; give another folder with --out.")
        write_text(path, json.dumps(job, indent=1, ensure_ascii=False) + "\n")
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in stored | dict(job) if stored.get(key) != job.get(key)]
    if changed:
        told = "; ".join(f"{key}: {stored.get(key)} in the folder, {job.get(key)} asked for" for key in changed)
        raise RunFolderError(f"{out}: holds the picks of another command ({told}). Give another folder with --out.")


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
