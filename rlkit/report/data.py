"""What a run folder says, read for a report: every file may be missing or half written, and what is there is used."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlkit.report.film_strip import data_uri

# A film strip is some 20 kB; what is larger is no strip of ours, and would only make the page heavy.
LARGEST_PICTURE = 2_000_000
PICTURE_STARTS = (b"\x89PNG\r\n", b"\xff\xd8\xff")


@dataclass(frozen=True)
class RunData:
    """The contents of a run folder. `metrics` maps a part of the run ("" for the run itself) to its logged lines.

    `alarms` are those among them that guards logged.

    `problems` says which files were there but could not be used.
    """

    path: Path
    results: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]
    recipe: dict[str, Any]
    recipe_text: str
    env: dict[str, Any]
    captions: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    pictures: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name, as the recipe's."""
        return self.path.resolve().name

    def picture(self, row: Mapping[str, Any]) -> str | None:
        """The row's film strip as a `data:` address; None where there is none inside this folder."""
        name = row.get("frames")
        if not isinstance(name, str):
            return None
        path = (self.path / name).resolve()
        # Only pictures of this run: a row must not be able to pull another file of the reader's disk into the page.
        if not path.is_relative_to(self.path.resolve()) or not path.is_file():
            return None
        if path.stat().st_size > LARGEST_PICTURE:
            return None
        content = path.read_bytes()
        return data_uri(content) if content.startswith(PICTURE_STARTS) else None


def read_run(path: Path) -> RunData:
    """Read what is there of a run folder. Raises `NotADirectoryError` only where `path` is no folder."""
    path = Path(path)
    if not path.is_dir():
        raise NotADirectoryError(path)
    problems: list[str] = []
    metrics = {"": read_lines(path / "metrics.jsonl", problems)}
    for inner in sorted([*path.glob("*/metrics.jsonl"), *path.glob("*/*/metrics.jsonl")]):
        metrics[inner.parent.relative_to(path).as_posix()] = read_lines(inner, problems)
    recipe_text = read_text(path / "recipe.yaml", problems)
    return RunData(
        path=path,
        results=_object(path / "results.json", problems),
        metrics={name: lines for name, lines in metrics.items() if lines},
        recipe=_recipe(recipe_text, problems),
        recipe_text=recipe_text,
        env=_object(path / "env.json", problems),
        captions=_rows(path / "samples", "eval", problems),
        pairs=_rows(path / "samples", "pairs", problems),
        alarms=_alarms(metrics),
        pictures=_rows(path / "samples", "pictures", problems),
        problems=problems,
    )


def _alarms(metrics: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What guards logged as `alarm/<guard>`: step, part of the run, guard, value."""
    return [
        {"step": line.get("step"), "part": part, "guard": name.removeprefix("alarm/"), "value": value}
        for part, lines in metrics.items()
        for line in lines
        for name, value in line.items()
        if name.startswith("alarm/")
    ]


def read_text(path: Path, problems: list[str]) -> str:
    """The file's text, "" where there is none; bytes that are no UTF-8 become question marks."""
    try:
        return path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        problems.append(f"{path.name}: {error.strerror}")
        return ""


def read_lines(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The objects of a JSONL file; lines that are none are counted in `problems`."""
    rows, bad = [], 0
    for line in read_text(path, problems).splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad += 1
    if bad:
        problems.append(f"{path.name}: {bad} lines are no JSON objects and were left out")
    return rows


def _object(path: Path, problems: list[str]) -> dict[str, Any]:
    text = read_text(path, problems)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        problems.append(f"{path.name}: not JSON ({error})")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name}: not a JSON object")
        return {}
    return value


def _recipe(text: str, problems: list[str]) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError:
        problems.append("recipe.yaml: not YAML")
        return {}
    if not isinstance(recipe, dict):
        return {}
    recipe.pop("rlkit", None)
    return recipe


def _rows(folder: Path, name: str, problems: list[str]) -> list[dict[str, Any]]:
    """samples/<name>.jsonl, else samples/<name>.parquet."""
    rows = read_lines(folder / f"{name}.jsonl", problems)
    parquet = folder / f"{name}.parquet"
    if rows or not parquet.is_file():
        return rows
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(parquet).to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        problems.append(f"{parquet.name}: not readable ({error})")
        return []
