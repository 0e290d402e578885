"""One round after the other: train, draw and judge samples, keep some, look at held-out prompts.

A round's folder holds its weights, its samples in shards, and what was measured; each is written whole, and what is
there is not made again. Decisions follow from the samples alone and are taken anew whenever a run goes on.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from rlkit import engine
from rlkit.bootstrap import choose, rounds
from rlkit.bootstrap.choose import Decision
from rlkit.bootstrap.ledger import scores
from rlkit.bootstrap.scale import Scale
from rlkit.engine import seed_of
from rlkit.errors import GuardError
from rlkit.evaluate.generator import Measure
from rlkit.generators.bootstrap import ledger
from rlkit.generators.bootstrap.mixture import Mixture
from rlkit.generators.bootstrap.space import Points, Space, distances, measured
from rlkit.generators.bootstrap.start import Start, samples
from rlkit.generators.gallery import save_grid, thumbnail
from rlkit.generators.pool import Pool
from rlkit.generators.prompts import Prompts
from rlkit.models.generator import POLICY
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker

WEIGHTS, TRAINED, LOOKED = "weights.safetensors", "trained.json", "looked.json"


@dataclass
class Round(rounds.Round):
    """`looked` holds `rows`, a row a held-out prompt, and the `diversity` of all their pictures; of the guard's prompts
    both are in `guard`. `trained` counts `forward_passes`."""

    def told(self) -> dict[str, Any]:
        """Its numbers, for results.json and the curves."""
        return super().told() | {
            "reward": _mean(self.looked["rows"], "reward"),
            "held_out": _mean(self.looked["rows"], "held_out"),
            "diversity": self.looked["diversity"],
        }


@dataclass
class Loop:
    """The rounds of one seed."""

    start: Start
    tracker: Tracker
    progress: Progress
    scale: Scale | None = None
    """Known after the first round."""
    prompts: Prompts = field(init=False)

    def __post_init__(self) -> None:
        self.prompts = Prompts(self.start.prompts, [])

    def round(self, before: Round | None, title: str, folder: RunFolder, *, naive: bool) -> Round:
        """The round after `before`: train, draw, decide, look; or read what is there of it."""
        number = 1 if before is None else before.number + 1
        trained = self._train(title, folder, before, self.mixture(before, naive=naive))
        rows = self._draw(number, title, folder)
        return self.decided(number, folder, rows, trained, self._look(title, folder), naive=naive)

    def decided(
        self,
        number: int,
        folder: RunFolder,
        rows: list[dict[str, Any]],
        trained: dict[str, Any],
        looked: dict[str, Any],
        *,
        naive: bool,
    ) -> Round:
        """The round with its decisions, of the loop with guards or the naive one."""
        start, own = self.start, self.start.recipe.bootstrap
        found, weights = scores(rows), start.rewards.weights
        if self.scale is None:
            self.scale = Scale.of(found, weights, own.bar)
        totals = self.scale.totals(found, weights)
        points = start.space(measured([ledger.pixels(row) for row in rows]))
        decisions = likeness_of(points, start.space, near=start.near, clusters=own.clusters, seed=start.recipe.seed)
        choose.accept(totals, decisions, self.scale.bar, twins(points, start.near))
        keep = max(1, round(own.keep_share * len(rows)))
        if naive:
            choose.naive(totals, decisions, keep)
        else:
            groups = {one.cluster for one in decisions}
            choose.by_cluster(totals, decisions, keep, dict.fromkeys(groups, 1 / len(groups)))
        return Round(number, folder, rows, totals, ranks.gathered(decisions)[0], looked, trained)

    def mixture(self, before: Round | None, *, naive: bool) -> Mixture:
        """What the round after `before` trains on."""
        start, nothing = self.start, Pool([], [])
        if before is None:
            return Mixture(start.session, start.real(), nothing, start.prior, real_share=1.0)
        chosen = [before.rows[at] for at in before.kept]
        kept = Pool([ledger.pixels(row) for row in chosen], [start.trigger + row["prompt"] for row in chosen])
        if naive:
            return Mixture(start.session, start.real(), kept, nothing, real_share=0.0)
        share = start.recipe.bootstrap.real_share
        return Mixture(start.session, start.real(), kept, start.prior, real_share=share)

    def use(self, folder: RunFolder) -> None:
        """Put a round's weights into the generator."""
        self.start.session.generator.load_weights(load_file(folder.path / WEIGHTS), POLICY)

    def _train(self, title: str, folder: RunFolder, before: Round | None, mixture: Mixture) -> dict[str, Any]:
        generator, path = self.start.session.generator, folder.path
        if not (path / TRAINED).is_file():
            if before is None or self.start.recipe.bootstrap.restart:
                generator.load_weights(self.start.weights, POLICY)
            else:
                self.use(before.folder)
            seconds = engine.train(
                generator, self.start.recipe, folder, self.tracker.part(title, folder), self.progress, mixture.losses,
                stage=f"{title}: training", memory=mixture,
            )  # fmt: skip
            weights = {key: one.contiguous() for key, one in generator.weights().items()}
            if folder.main:
                aside = path / f".{WEIGHTS}"
                save_file(weights, aside)
                aside.replace(path / WEIGHTS)
                sha256 = hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()
                told = {"sha256": sha256, "forward_passes": mixture.forward_passes, "seconds": round(seconds, 1)}
                folder.write_json(TRAINED, told)
                shutil.rmtree(folder.checkpoints, ignore_errors=True)
            ranks.wait()
        self.use(folder)
        return json.loads((path / TRAINED).read_text(encoding="utf-8"))

    def _draw(self, number: int, title: str, folder: RunFolder) -> list[dict[str, Any]]:
        """The same prompts and seeds for every system."""
        start = self.start
        seed, count = start.recipe.seed, start.recipe.bootstrap.num_samples
        self.progress.stage(f"{title}: drawing {count} samples", count)
        places = range((number - 1) * count, number * count)
        texts = [start.prompts[self.prompts.at(at, seed)] for at in places]
        seeds = [seed_of(seed, "bootstrap", at) for at in places]
        return samples(
            start.session, folder.path, texts, seeds, self.progress.advance, trigger=start.trigger,
            rewards=start.rewards,
        )  # fmt: skip

    @torch.no_grad()
    def _look(self, title: str, folder: RunFolder) -> dict[str, Any]:
        """Held-out prompts with the trigger, and those that the stop rule looks at; from the same seeds every round."""
        path = folder.path / LOOKED
        if not path.is_file():
            prompts = self.start.session.prompts
            self.progress.stage(f"{title}: held-out prompts", len(prompts.held_out) + len(prompts.guard))
            rows, diversity = self._looked(prompts.held_out, folder)
            watched, guarded = self._looked(prompts.guard, None)
            guard = {"held_out": _mean(watched, "held_out"), "diversity": guarded}
            if guard["held_out"] is None:
                raise GuardError(
                    f"{title}: the held-out judge gives no score for the guard's prompts, such as "
                    f"{prompts.guard[0]!r}; give evaluate.held_out_rewards that can judge them."
                )
            folder.write_json(LOOKED, {"rows": rows, "diversity": diversity, "guard": guard})
            ranks.wait()
        return json.loads(path.read_text(encoding="utf-8"))

    def _looked(self, prompts: Sequence[str], shown: RunFolder | None) -> tuple[list[dict[str, Any]], float]:
        start = self.start
        measure = Measure(
            [start.trigger + one for one in prompts], start.rewards, start.held_out, start.session.embeddings,
            start.recipe, None if shown is not None else start.recipe.guard.num_samples,
        )  # fmt: skip

        def seen(numbers: Sequence[int]) -> list[tuple[dict[str, Any], np.ndarray, list[Any]]]:
            found = []
            for number in numbers:
                row, pictures = measure.of_prompt(start.session.generator, POLICY, number, ratio=False)
                row["spread"] = row.pop("diversity")  # among pictures of one prompt
                row = {key: None if value != value else value for key, value in row.items()}
                found.append((row, start.space(measured(pictures)), [thumbnail(one) for one in pictures]))
                self.progress.advance()
            return found

        found = ranks.spread(seen, list(range(len(prompts))))
        if shown is not None and shown.main:
            for number in range(min(len(found), start.recipe.generation.gallery_prompts)):
                save_grid(shown.samples / f"{number:02}.png", [found[number][2]])
        points = np.concatenate([one for _, one, _ in found])
        return [row for row, _, _ in found], start.space.vendi(points)


def likeness_of(points: Points, space: Space, *, near: float, clusters: int, seed: int) -> list[Decision]:
    """Of each picture its cluster, and the nearest original; `near` is the distance below which two are one."""
    with threadpool_limits(1):  # several threads add in any order, and a resumed run might decide otherwise
        groups = KMeans(min(clusters, len(points)), random_state=seed % 2**32, n_init=4).fit_predict(points)
    originals, apart = space.nearest(points)
    return [
        Decision(int(group), int(original), float(distance), bool(distance < near))
        for group, original, distance in zip(groups, originals, apart, strict=True)
    ]


def twins(points: Points, near: float) -> Callable[[int, Sequence[int]], str | None]:
    """What choose.accept asks: which accepted picture another one is a near-duplicate of."""

    def refused(at: int, accepted: Sequence[int]) -> str | None:
        if not accepted:
            return None
        apart = distances(points[at][None], points[list(accepted)])[0]
        return f"a near-duplicate of sample {accepted[int(apart.argmin())]}" if apart.min() < near else None

    return refused


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """Over the rows that have a value; None where none has."""
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) / len(known) if known else None
