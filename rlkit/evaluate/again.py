"""Measures finished models again: a run's final/, any model folder or hub id, on more clips or with other controls.

    rlkit eval runs/dpo_caption evaluate.num_clips=2000
    rlkit eval runs/sft_caption/final runs/dpo_caption/final evaluate.num_clips=2000
    rlkit eval Qwen/Qwen2.5-VL-3B-Instruct runs/mine/final --recipe runs/mine/recipe.yaml

The recipe says which clips and how they are shown. What a run trained on is never measured: of a folder of clips only
those that the run held out, or all of another folder. Results go to `evaluations/` of the recipe's run folder, one
folder for each set of models and settings; what was measured there before a kill is read back.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlkit import models
from rlkit.caption.clips import FRAMES, Captions, Clips, JsonLines, Reader, folder_clips, world_held_out
from rlkit.errors import RecipeError, RunFolderError
from rlkit.evaluate.held_out import Evaluation, read_rows
from rlkit.recipe import Recipe
from rlkit.recipe.file import Step, as_dict, load
from rlkit.report.compare_table import markdown
from rlkit.run import settle
from rlkit.running import ranks
from rlkit.running.folder import RunFolder, write_text
from rlkit.running.progress import Progress, quiet
from rlkit.running.tracking import Null, Tracker

SECTIONS = ("evaluate", "data", "model")


def measure_again(
    names: Sequence[str], overrides: Sequence[str] = (), *, recipe_path: Path | None = None, out: Path | None = None
) -> Path:
    """Measure the models and return the folder with results.json, table.md and the rows of each.

    A name is a run folder (its final/ is measured), the folder of a model, or a hub id. Without `recipe_path` the
    recipe is that of the first model that lies in a run folder. Raises RlkitError for a name that is no model, a
    missing recipe, keys that change nothing here, or more clips than there are.
    """
    quiet()
    found = models_of(names)
    run = next((run for run in map(run_of, found.values()) if run is not None), None)
    if recipe_path is None and run is None:
        raise RecipeError(
            "rlkit eval: no recipe says which clips to show and how: none of these models lies in a run folder. "
            "Give one with --recipe."
        )
    path = recipe_path if recipe_path is not None else run / "recipe.yaml"
    recipe, before = read_recipe(path, overrides, next(iter(found.values()))), read_recipe(path, (), "any/model")
    home = path.resolve().parent if (path.resolve().parent / "env.json").is_file() else None
    out = out or (home or Path("runs")) / "evaluations" / _digest(recipe, found)
    folder = RunFolder(out, ranks.is_main())
    _claim(folder, recipe, found)
    settle(Step(path, recipe, "eval", out))
    with Progress("eval", stages=1 + len(found)) as progress:
        kept = (
            home if home is not None and before.data == replace(recipe.data, num_clips=before.data.num_clips) else None
        )
        rows, reader = clips_of(recipe, folder, progress, run=kept)
        clips = Clips(train=[], held_out=rows, reader=reader, held_out_reader=reader)
        evaluation = Evaluation(clips, recipe, folder, Tracker(folder, Null()), progress)
        for name, model in found.items():
            part = folder.part(name)
            if not evaluation.read(name, part):
                evaluation.add(name, models.load(replace(recipe.model, id=model), seed=recipe.seed), part)
                evaluation.held = None  # the next model may have another processor
    results = evaluation.results()
    if folder.main:
        write_text(out / "table.md", markdown(results["systems"], paired=results.get("differences")))
    folder.finish(results | {"models": found})
    return out


def models_of(names: Sequence[str]) -> dict[str, str]:
    """Name in the table -> folder or hub id. Raises RunFolderError for what is neither."""
    found: dict[str, str] = {}
    for text in names:
        path = Path(text)
        if (path / "recipe.yaml").is_file():
            if not (path / "final").is_dir():
                parts = sorted(str(one.parent) for one in path.glob("*/final"))
                advice = (
                    f"Name one of its systems: {', '.join(parts[:4])}." if parts else "Launch its recipe.yaml again."
                )
                raise RunFolderError(f"{text}: has no final/, so there is nothing to measure. {advice}")
            path = path / "final"
        elif not path.exists() and (text.startswith((".", "/", "~")) or text.count("/") > 1):
            raise RunFolderError(f"{text}: no such folder. Give a run folder, a model's folder, or a hub id.")
        elif path.exists() and not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            raise RunFolderError(f"{text}: neither a run folder (recipe.yaml) nor a model's (config.json).")
        short = (path.resolve().parent if path.name == "final" else path).name.removesuffix("_caption")
        taken = sum(one == short or one.startswith(f"{short}-") for one in found)
        found[f"{short}-{taken + 1}" if taken else short] = str(path)
    return found


def run_of(model: str) -> Path | None:
    """The run folder that a model's folder lies in; None for others."""
    return next((one for one in Path(model).resolve().parents if (one / "recipe.yaml").is_file()), None)


def read_recipe(path: Path, overrides: Sequence[str], model: str) -> Recipe:
    """The recipe for measuring: nothing is trained, so that what it starts from and needs may be gone."""
    for text in overrides:
        if text.partition(".")[0] not in SECTIONS:
            raise RecipeError(f"override {text}: measuring reads the keys of {', '.join(SECTIONS)} alone.")
    gone = [f"model.id={json.dumps(model)}", "model.init=null", "model.revision=null", "needs=[]"]
    recipe = load(path, [*gone, "evaluate.compare_with={}", *overrides])
    if recipe.evaluate.num_clips == 0:
        raise RecipeError(f"{path}: evaluate.num_clips is 0; say on how many clips, as in evaluate.num_clips=400.")
    return replace(recipe, model=replace(recipe.model, lora=None, vision="frozen"), variants={})


def clips_of(recipe: Recipe, folder: RunFolder, progress: Progress, *, run: Path | None) -> tuple[Sequence, Reader]:
    """Held-out clips and their reader. `run` is the run folder whose clips these are, if its `data:` is unchanged."""
    data, wanted = recipe.data, recipe.evaluate.num_clips
    if data.source == "world":
        return world_held_out(data, recipe.evaluate.split, wanted, progress)
    if data.source == "pairs":
        raise RecipeError("pairs hold no clips to measure on; add data.source=folder data.folder=clips/")
    if run is None:
        rows, reader, _ = folder_clips(data, folder, progress, count=wanted)
        places = range(len(rows))
    else:
        rows, reader = JsonLines(run / "clips.jsonl"), Reader(data, Path(data.folder), cache=FRAMES)
        held_out = {row["id"] for row in read_rows(run / "evaluation.jsonl")}
        places = [at for at, row in enumerate(rows) if row["id"] in held_out]
    if len(places) < wanted:
        advice = (
            "" if run is None else " that this run did not train on; for more, give another folder: data.folder=..."
        )
        raise RecipeError(f"evaluate.num_clips is {wanted}, but there are {len(places)} clips{advice}")
    return Captions(rows, list(places)[:wanted]), reader


def _claim(folder: RunFolder, recipe: Recipe, found: Mapping[str, str]) -> None:
    """Write down what is measured here. Raises RunFolderError where the folder holds something else."""
    path, asked = folder.path / "measured.json", _settings(recipe, found)
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != asked:
        raise RunFolderError(f"{folder.path}: holds another measurement. Choose another folder with --out.")
    if not path.is_file() and folder.path.is_dir() and any(folder.path.iterdir()):
        raise RunFolderError(f"{folder.path}: holds other files. Choose another folder with --out.")
    folder.write_json("measured.json", asked)


def _settings(recipe: Recipe, found: Mapping[str, str]) -> dict[str, Any]:
    """All that the numbers depend on, the state of local weights included."""
    tree = as_dict(recipe)
    data = {key: value for key, value in tree["data"].items() if key not in ("num_clips", "num_labelled", "noise")}
    shown = {key: tree["model"][key] for key in ("dtype", "attn_implementation", "sharing")}
    return {"models": dict(found), "weights": {m: _state(Path(m)) for m in found.values()},
            "evaluate": tree["evaluate"], "data": data, "model": shown, "seed": recipe.seed}  # fmt: skip


def _state(model: Path) -> list[list[Any]]:
    """Name, size and time of a folder's weights: a model that was trained again is another one."""
    files = sorted(model.glob("*.safetensors")) if model.is_dir() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _digest(recipe: Recipe, found: Mapping[str, str]) -> str:
    text = json.dumps(_settings(recipe, found), sort_keys=True)
    return f"{recipe.evaluate.num_clips}-clips-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
