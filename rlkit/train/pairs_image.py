"""Preference pairs from a generator's own pictures: drawn, scored, ranked; for diffusion_dpo and diffusion_kto.

The run folder is the data set, in Pick-a-Pic's columns (rlkit/generators/pair_table.py). Shards are written whole and
follow from the recipe and their number, so that a killed run goes on with the next shard and ends with the same bytes.
"""

import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rlkit.generators import pairs
from rlkit.generators.gallery import save_grid
from rlkit.generators.pair_table import decided, decode
from rlkit.generators.prompts import Embeddings, read_prompts
from rlkit.models import generator as pipelines
from rlkit.recipe import Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress, quiet
from rlkit.scoring import Rewards


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Draw, score and pair; draw some again from their rows alone; count. See recipes/pairs_image.yaml."""
    quiet()
    started = time.monotonic()
    with Progress(folder.path.name, stages=2) as progress:
        model = recipe.model
        generator = pipelines.load(model.id, dtype=model.dtype, revision=model.revision, device=ranks.device())
        prompts, rewards = read_prompts(recipe), Rewards(recipe.rewards)
        embeddings = Embeddings(generator, recipe.data.cache_gib)
        mine = list(pairs.shards_of(recipe))[ranks.number() :: ranks.count()]
        progress.stage(f"drawing {recipe.generation.num_generations} for each prompt", recipe.image_pairs.num_groups)
        pairs.make(generator, recipe, folder.path, mine, prompts, embeddings, rewards, progress.advance)
        ranks.wait()
        if not folder.main:
            return
        progress.stage("counting, and drawing some again")
        results = count(folder.path)
        shown = pq.read_table(folder.path / pairs.SHARD_NAME.format(0)).to_pylist()
        again = shown[: recipe.image_pairs.redraw]
        worst = [pairs.redrawn(generator, recipe, embeddings, row) for row in again]
        results["redrawn"] = {"rows": len(again), "largest_difference": max(worst, default=None), "of": 255}
        steps = recipe.generation.num_inference_steps * recipe.generation.num_generations
        cfg = recipe.generation.guidance_scale > 1 and not generator.family.takes_guidance(generator.pipe)
        passes = recipe.image_pairs.num_groups * steps * (2 if cfg else 1)
        results["cost"] = {"seconds": round(time.monotonic() - started, 1), "forward_passes": passes}
    gallery(folder, [row for row in shown if row["has_label"] and row["label_0"] != 0.5][:8])
    folder.finish(results)
    print(summary(results, folder.path), flush=True)


def count(folder: Path) -> dict[str, Any]:
    """What became of the groups: groups = pairs + ties + unlabelled."""
    columns = ["has_label", "label_0", "margin", "missing"]
    found = [
        row
        for path in sorted(folder.glob("pairs-*.parquet"))
        for row in pq.read_table(path, columns=columns).to_pylist()
    ]
    margins = sorted(row["margin"] for row in found if row["has_label"] and row["label_0"] != 0.5)
    missing = sum(row["missing"] for row in found)
    counts = {"groups": len(found)} | decided(found)
    told = {"mean": sum(margins) / len(margins), "median": margins[len(margins) // 2]} if margins else {}
    return {"counts": counts | {"missing_rewards": missing}, "margin": told}


def gallery(folder: RunFolder, rows: list[dict[str, Any]]) -> None:
    """samples/pairs.png: a row for each pair, the better picture left; a clip's frames side by side."""
    from PIL import Image

    sides = []
    for row in rows:
        pictures = [decode(row[f"jpg_{at}"], row["pair_id"], num_frames=row["num_frames"]) for at in (0, 1)]
        better_first = pictures if row["label_0"] == 1 else pictures[::-1]
        sides.append(
            [Image.fromarray(frames.swapaxes(0, 1).reshape(frames.shape[1], -1, 3)) for frames in better_first]
        )
    if sides:
        save_grid(folder.samples / "pairs.png", sides)


def summary(results: dict[str, Any], out: Path) -> str:
    """What a person wants to know at the end."""
    counts, again = results["counts"], results["redrawn"]
    lines = [
        f"{out}: {counts['pairs']:,} pairs from {counts['groups']:,} groups; {counts['ties']:,} ties and "
        f"{counts['unlabelled']:,} without a label are marked in the table."
    ]
    if results["margin"]:
        lines.append(f"margin: mean {results['margin']['mean']:.3f}, median {results['margin']['median']:.3f}")
    if again["rows"]:
        lines.append(
            f"{again['rows']} pairs drawn again from their rows: at most {again['largest_difference']} of 255 apart"
        )
    lines += [
        f"  judge by eye:  rlkit review {out}",
        f"  train:         rlkit run recipes/diffusion_dpo.yaml data.pairs={out}",
    ]
    return "\n".join(lines)
