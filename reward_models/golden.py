"""Golden vectors: scores that a published checkpoint must give, checked by whoever has the weights with one command.

    python -m reward_models.golden image_reward --files <a clone of the original's repository> --device cuda
    python -m reward_models.golden pick_score --record mine.json      # scores of pictures made here, kept by you
    python -m reward_models.golden pick_score --against mine.json     # another machine, dtype, version: the same?

golden_vectors/<name>.json holds what its authors published: inputs, scores, tolerance, source. Cases without a
published score say null; they are made from a seed, for `--record`. The exit code is 0 where all that could be
compared agrees, 1 where something does not, 2 where nothing could be compared.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reward_models.published.checkpoint import CheckpointError

VECTORS = Path(__file__).parent / "golden_vectors"
RECORDED_TOLERANCE = 2e-3
"""Relative to max(1, |score|), of a recorded case: other libraries and cards, the same dtype."""


@dataclass(frozen=True)
class Verdict:
    """One number of one case. `expected` is None where none is published; `found` is None where inputs are missing."""

    case: str
    expected: float | None
    tolerance: float | None
    found: float | None
    note: str = ""

    @property
    def agrees(self) -> bool | None:
        """None where nothing is published or the pictures are not here; a score that is missing does not agree."""
        if self.expected is None or self.note:
            return None
        return self.found is not None and abs(self.found - self.expected) <= self.tolerance


def names() -> list[str]:
    """The vectors there are."""
    return sorted(path.stem for path in VECTORS.glob("*.json"))


def check(
    vectors: dict[str, Any], *, device: str = "cpu", files: Path | None = None, options: dict[str, Any] | None = None
) -> list[Verdict]:
    """Score every case of `vectors` (a file's content) whose pictures are here; `options` replace the file's.

    `files`: the folder that holds the published pictures. Raises what the reward's `load` raises.
    """
    loaded: dict[str, Any] = {}
    verdicts = []
    for case in vectors["cases"]:
        named = [one["file"] for one in case["pictures"] if "file" in one]
        missing = [file for file in named if files is None or not (files / file).is_file()]
        if missing:
            note = f"no {missing[0]}; pass --files with {vectors['files']}"
            verdicts += [Verdict(*one, None, note) for one in _expected(case)]
            continue
        chosen = vectors["options"] | case.get("options", {}) | (options or {})
        key = json.dumps(chosen, sort_keys=True)
        if key not in loaded:
            loaded = {key: _load(vectors["reward"], device, chosen)}  # one model in memory at a time
        columns = {name: case[name] for name in ("fps",) if name in case}
        shown = [picture(one, files) for one in case["pictures"]]
        scores = loaded[key](prompts=case["prompts"], completions=shown, **columns)
        found = [None if None in scores else float(np.mean(scores))] if case["of"] == "mean" else scores
        verdicts += [Verdict(*one, value) for one, value in zip(_expected(case), found, strict=True)]
    return verdicts


def picture(told: dict[str, Any], files: Path | None = None) -> Any:
    """The picture of a case: a file, or blocks of colour from SHA-256 of its seed, the same on every machine.

    {"file": ...}, {"seed": 1, "width": 512, "height": 384}, or with "frames" also a clip uint8 [frames, H, W, 3].
    """
    if "file" in told:
        with Image.open(files / told["file"]) as image:
            return image.convert("RGB")
    frames = [
        _blocks(f"{told['seed']}/{index}", told["width"], told["height"]) for index in range(told.get("frames", 1))
    ]
    return np.stack(frames) if "frames" in told else Image.fromarray(frames[0])


def recorded(vectors: dict[str, Any], verdicts: Sequence[Verdict], options: dict[str, Any]) -> dict[str, Any]:
    """The content of a file for `--against`: the vectors with what was found, and where it was found."""
    import torch
    import transformers

    values = iter(verdicts)
    cases = []
    for case in vectors["cases"]:
        found = [next(values).found for _ in _expected(case)]
        if None not in found:
            tolerances = [RECORDED_TOLERANCE * max(1.0, abs(value)) for value in found]
            source = f"recorded with torch {torch.__version__}, transformers {transformers.__version__}"
            cases.append(case | {"expected": found, "tolerance": tolerances, "source": source})
    chosen = vectors["options"] | options
    return vectors | {"options": chosen, "revision": _revision(chosen.get("model")), "cases": cases}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m reward_models.golden", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=names())
    parser.add_argument("--model", help="hub id, folder or file, instead of the published one")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="any option of load, as JSON"
    )
    parser.add_argument("--files", type=Path, help="folder that holds the published pictures")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--record", type=Path, help="write what was found, for --against")
    parser.add_argument("--against", type=Path, help="compare with a file that --record wrote")
    told = parser.parse_args(arguments)
    options = dict(_option(one) for one in told.option) | ({"model": told.model} if told.model else {})
    vectors = json.loads((told.against or VECTORS / f"{told.name}.json").read_text(encoding="utf-8"))
    try:
        verdicts = check(vectors, device=told.device, files=told.files, options=options)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 2
    for verdict in verdicts:
        print(_line(verdict))
    compared = [verdict.agrees for verdict in verdicts if verdict.agrees is not None]
    print(f"{sum(compared)} of {len(compared)} agree, {len(verdicts) - len(compared)} not compared ({told.name}).")
    if told.record:
        content = json.dumps(recorded(vectors, verdicts, options), indent=1, ensure_ascii=False) + "\n"
        aside = told.record.with_name(told.record.name + ".part")
        aside.write_text(content, encoding="utf-8")
        aside.replace(told.record)
    return 2 if not compared else 0 if all(compared) else 1


def as_rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The verdicts as flat objects, `agrees` included, for a report."""
    return [asdict(verdict) | {"agrees": verdict.agrees} for verdict in verdicts]


def _expected(case: dict[str, Any]) -> list[tuple[str, float | None, float | None]]:
    """(name, expected, tolerance) of every number that a case gives: one for a mean, else one a picture."""
    count = 1 if case["of"] == "mean" else len(case["pictures"])
    values = case["expected"] or [None] * count
    tolerances = case["tolerance"] if isinstance(case["tolerance"], list) else [case["tolerance"]] * count
    labels = [case["name"]] if count == 1 else [f"{case['name']} {index + 1}" for index in range(count)]
    return list(zip(labels, values, tolerances, strict=True))


def _load(reward: str, device: str, options: dict[str, Any]) -> Any:
    import reward_models

    return reward_models.load(reward, device=device, **options)


def _blocks(seed: str, width: int, height: int) -> np.ndarray:
    """8 x 8 blocks of colour, uint8 [height, width, 3]; width and height are multiples of 8."""
    digest = b"".join(hashlib.sha256(f"{seed}/{part}".encode()).digest() for part in range(6))
    colours = np.frombuffer(digest, dtype=np.uint8).reshape(8, 8, 3)
    return colours.repeat(height // 8, axis=0).repeat(width // 8, axis=1)


def _revision(model: str | None) -> str | None:
    """The commit of a hub id in the local cache; None for a folder or file."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        held = {repo.repo_id: repo.refs for repo in scan_cache_dir().repos}
    except CacheNotFound:
        return None
    refs = held.get(str(model), {})
    return refs["main"].commit_hash if "main" in refs else None


def _option(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _line(verdict: Verdict) -> str:
    shown = ["-" if value is None else f"{value:.5f}" for value in (verdict.expected, verdict.found)]
    said = {True: "agrees", False: "DIFFERS", None: verdict.note or "no published score"}[verdict.agrees]
    return f"{verdict.case:32} expected {shown[0]:>10}  found {shown[1]:>10}  {said}"


if __name__ == "__main__":
    sys.exit(main())
