"""Quality against the sampler's number of steps: every system at each of them, from the same prompts and noise.

Beside rewards: `to_many`, the root mean squared difference of pixels in [0, 1] to what the first system draws from the
same noise in the most steps; a system of few steps is to end where many do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rlkit.evaluate import intervals
from rlkit.evaluate.generator import Measure, Sampled
from rlkit.generators.pixels import frames
from rlkit.running import ranks
from rlkit.running.progress import Progress

if TYPE_CHECKING:
    from rlkit.generators.session import Session

Pixels = list[np.ndarray]


def compared(
    session: Session, systems: Mapping[str, str], sampled: Mapping[str, Sampled], progress: Progress
) -> dict[str, dict[str, dict[str, Any]]]:
    """`out[system][steps]` is a summary as of `intervals.summarise`, for generation.compare_steps.

    `systems` maps a title to whose weights it has; `sampled` gives the guidance of some of them.
    """
    generation = session.recipe.generation
    steps = sorted(generation.compare_steps, reverse=True)
    judges = session.rewards, session.held_out
    measure = Measure(session.prompts.held_out, *judges, session.embeddings, session.recipe)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    many: list[Pixels] | None = None
    for title, name in systems.items():
        usual = sampled.get(title, Sampled(generation.eval_inference_steps, generation.guidance_scale))
        for number in steps:
            progress.stage(f"{title}: drawing in {number} steps", len(measure.prompts))
            at = replace(measure, sampled=Sampled(number, usual.guidance_scale))
            rows, pictures = drawn(session, at, name, progress)
            if many is None:
                many = pictures
            for row, one, other in zip(rows, pictures, many, strict=True):
                row["to_many"] = distance(one, other)
            found.setdefault(title, {})[str(number)] = intervals.summarise(rows)
    return {title: dict(reversed(of_system.items())) for title, of_system in found.items()}


def distance(one: Pixels, other: Pixels) -> float:
    """Mean over pictures of the root mean squared difference, pixels in [0, 1]."""
    pairs = zip(one, other, strict=True)
    return float(np.mean([np.sqrt(np.mean(((a / 255.0) - (b / 255.0)) ** 2)) for a, b in pairs]))


def drawn(session: Session, measure: Measure, name: str, progress: Progress) -> tuple[list[dict], list[Pixels]]:
    """Rows and frames of every prompt of `measure`, by the weights `name`; the processes of the run share them."""

    def seen(numbers: Sequence[int]) -> list[tuple[dict, Pixels]]:
        found = []
        for number in numbers:
            row, pictures = measure.of_prompt(session.generator, name, number, ratio=False)
            found.append((row, frames(pictures)))
            progress.advance()
        return found

    found = ranks.spread(seen, list(range(len(measure.prompts))))
    return [row for row, _ in found], [pictures for _, pictures in found]
