"""What a generator drew for other prompts before training, and what it draws now: `retain.probes`.

Beside rewards: `drift`, the root mean squared difference of pixels in [0, 1] to what the start draws from the same
noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlkit.errors import DataError
from rlkit.evaluate.by_steps import Pixels, distance, drawn
from rlkit.evaluate.generator import Measure, Sampled, at_scale
from rlkit.evaluate.retained import compared
from rlkit.generators.prompts import lines_of
from rlkit.recipe import Recipe
from rlkit.running.progress import Progress

if TYPE_CHECKING:
    from rlkit.generators.session import Session

Row = dict[str, Any]


def retained(
    session: Session,
    headline: tuple[str, str],
    systems: Mapping[str, str],
    sampled: Mapping[str, Sampled],
    progress: Progress,
) -> dict[str, Any]:
    """What was trained, at each of retain.adapter_scales, beside what it started from, as `retained.compared` has it.

    `headline` are the titles of start and outcome, `systems` and `sampled` as of `session.run`. Raises DataError for a
    file without prompts.
    """
    settings, (before, after) = session.recipe.retain, headline
    path = Path(settings.probes)
    prompts = lines_of(path)
    if not prompts:
        raise DataError(f"{path}: retain.probes has no prompts; expected one on each line.")
    measure = Measure(prompts, session.rewards, session.held_out, session.embeddings, session.recipe)

    def of(title: str) -> tuple[list[Row], list[Pixels]]:
        progress.stage(f"{title}: drawing {len(prompts)} prompts to keep", len(prompts))
        return drawn(session, replace(measure, sampled=sampled.get(title)), systems[title], progress)

    rows, start = of(before)
    rows = [row | {"drift": 0.0} for row in rows]
    found = {}
    first, *others = settings.adapter_scales
    for scale in (first, *others):
        with at_scale(session.generator, systems[after], scale / first):
            now, pictures = of(after)
        now = [row | {"drift": distance(a, b)} for row, a, b in zip(now, pictures, start, strict=True)]
        found[after if scale == first else f"{after} x{scale:g}"] = compared(rows, now)
    return found


def stages(recipe: Recipe) -> int:
    """Of the progress display: the start, and the outcome at each scale."""
    return 0 if recipe.retain is None else 1 + len(recipe.retain.adapter_scales)
