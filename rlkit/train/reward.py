"""Consistency reward: a captioner learns to say of a caption whether it tells what the clip shows.

Bradley-Terry (Biometrika 39, 1952) on the scores of rlkit/caption/verdict.py: the true caption against constructed
negatives of the same clip, all in one row. Measured on held-out clips, for the kinds that were trained on, for kinds
that were not (`evaluate.unseen_negatives`), and with the clip hidden: what is told without looking is a leak.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from data_synth.records import make_record, read_records, write_records
from data_synth.world.captions import PROMPTS
from reward_models.agreement import expected_calibration_error
from rlkit import models, reward_losses
from rlkit.caption import clips, pairs, rows, trainer, verdict
from rlkit.caption.dataset import Examples
from rlkit.evaluate import intervals
from rlkit.models import Captioner
from rlkit.recipe import Recipe
from rlkit.report.page import write_report
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress, last_screen, quiet
from rlkit.running.tracking import open_tracker

VIEWS = ("clip", "blind")


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Make pairs, train, measure. See recipes/reward_consistency.yaml."""
    quiet()
    with Progress(folder.path.name, stages=clips.stages(recipe) + 3) as progress:
        found = clips.collect(recipe, folder, progress)
        tracker = open_tracker(recipe.train.report_to, folder, name=folder.path.name, config={}, progress=progress)
        captioner = models.load(recipe.model, seed=recipe.seed)
        verdict.tokens(captioner)  # a tokenizer that cannot say yes or no is refused before anything is made
        progress.note(captioner.reason)
        progress.stage("making preference pairs")
        target = folder.path / "pairs"
        pool = pairs.event_pool(found.labelled())
        question = PROMPTS[recipe.data.language]
        if folder.main and not list(target.glob("pairs-*.parquet")):
            write_records(pairs.labelled_pairs(found.labelled(), recipe, question=question, pool=pool), target)
        ranks.wait()
        records = read_records(target)
        examples = Examples(
            captioner,
            records,
            found.reader,
            cache_gib=recipe.data.cache_gib,
            shuffle_frames=recipe.data.shuffle_frames,
            seed=recipe.seed,
        )
        stage = f"reward: training on {len(records):,} clips with up to {recipe.num_negatives} negatives"
        seconds = trainer.train(captioner, bradley_terry, recipe, examples, folder, tracker, progress, stage=stage)
        trainer.save(captioner, folder.final, is_main_process=folder.main)
        yes, no = verdict.tokens(captioner)
        folder.write_json("final/verdict.json", {"yes": yes, "no": no, "question": question})
        measured = measure(captioner, found, recipe, pool, progress)
        results = {
            "systems": {"reward": summary(measured)},
            "cost": {"train_seconds": {"reward": seconds}, "pairs": len(records), "quarantined": found.quarantined},
        }
        folder.finish(results)
        if folder.main:
            write_report(folder.path)
        last_screen(results, folder.path)
        tracker.finish()


def bradley_terry(trainer, model, batch, counts):
    """Per clip, the mean over its negatives of -log sigmoid(score of the caption - score of the negative)."""
    scored = verdict.scores(trainer.captioner, batch, model=model)
    real = batch["answer_mask"][:, 1:]
    margin = scored[:, :1] - scored[:, 1:]
    each = torch.stack(
        [
            reward_losses.bradley_terry(one[:1].expand(len(one) - 1), one[1:], mask=m)
            for one, m in zip(scored, real, strict=True)
        ]
    )
    told = margin.detach()[real]
    return each, {
        "rewards/chosen": scored[:, 0].detach().mean(),
        "rewards/rejected": scored[:, 1:].detach()[real].mean(),
        "rewards/margins": told.mean(),
        "rewards/accuracies": (told > 0).float().mean(),
    }


@torch.no_grad()
def measure(
    captioner: Captioner, found: clips.Clips, recipe: Recipe, pool: Sequence[str], progress: Progress
) -> list[dict[str, Any]]:
    """One row per negative of a held-out clip: `clip`, `kind`, `seen`, and the margin of the true caption with the clip
    (`margin`) and without it (`blind`)."""
    records = list(held_out_records(found, recipe, pool))
    progress.stage(f"reward: scoring the captions of {len(records)} held-out clips", total=len(records))
    captioner.model.eval()

    def margins(part: Sequence[tuple[dict[str, Any], list[bool]]]) -> list[list[dict[str, Any]]]:
        size, scored = recipe.evaluate.per_device_eval_batch_size, []
        for start in range(0, len(part), size):
            some = part[start : start + size]
            shown = {view: _scores(captioner, [record for record, _ in some], found, view) for view in VIEWS}
            for k, (record, seen) in enumerate(some):
                told = {view: (one[k][0] - one[k][1:]).tolist() for view, one in shown.items()}
                scored.append(
                    [
                        {"clip": record["source_id"], "kind": kind, "seen": seen[j], "margin": told["clip"][j]}
                        | {"blind": told["blind"][j]}
                        for j, kind in enumerate(record["rejected_kind"])
                    ]
                )
            progress.step(start + len(some))
        return scored

    return [row for rows_ in ranks.spread(margins, records) for row in rows_]


def held_out_records(
    found: clips.Clips, recipe: Recipe, pool: Sequence[str]
) -> Iterator[tuple[dict[str, Any], list[bool]]]:
    """Per held-out clip one negative of every operator that can make one: (record, was each trained on)."""
    question = PROMPTS[recipe.data.language]
    operators = [(one, True) for one in recipe.negatives]
    operators += [(one, False) for one in recipe.evaluate.unseen_negatives]
    for number, row in enumerate(found.held_out):
        wrong, seen = [], []
        for operator, trained in operators:
            made = pairs.constructed(row["true_caption"], [replace(operator, weight=1.0)], 1, seed=number, pool=pool)
            wrong += [(one["kind"], one["text"]) for one in made]
            seen += [trained] * len(made)
        if wrong:
            yield (
                make_record(question, row["true_caption"], wrong, videos=[row["video"]], source_id=row["id"])
                | {"start": row.get("start"), "end": row.get("end")},
                seen,
            )


def _scores(captioner: Captioner, records: Sequence[Mapping[str, Any]], found: clips.Clips, view: str) -> torch.Tensor:
    """Scores of every answer of some records, with their clips or without."""
    encoded = []
    for record in records:
        clip = None
        if view == "clip":
            clip = found.held_out_reader.clip(record["videos"][0], record["start"], record["end"])
        encoded.append(rows.encode(captioner, record, clip))
    batch = rows.collate(encoded, pad_token_id=captioner.processor.tokenizer.pad_token_id)
    batch = {name: tensor.to(captioner.base.device) for name, tensor in batch.items()}
    return verdict.scores(captioner, batch).cpu()


def summary(measured: Sequence[Mapping[str, Any]]) -> dict[str, intervals.Interval]:
    """Shares of negatives scored below their caption (a tie counts half), with intervals over clips; and how far
    sigmoid(margin) is from those shares."""
    by_clip: dict[str, dict[str, list[float]]] = {}
    for row in measured:
        told, blind = (0.5 + 0.5 * float(np.sign(row[name])) for name in ("margin", "blind"))
        values = by_clip.setdefault(row["clip"], {})
        for name in ("pairwise_seen" if row["seen"] else "pairwise_unseen_kind", f"pairwise_{row['kind']}"):
            values.setdefault(name, []).append(told)
        values.setdefault("pairwise_blind", []).append(blind)
    lines = [{"clip": clip} | {k: float(np.mean(v)) for k, v in values.items()} for clip, values in by_clip.items()]
    return intervals.summarise(lines) | {"calibration_error": _calibration(measured)}


def _calibration(measured: Sequence[Mapping[str, Any]], resamples: int = 500) -> intervals.Interval:
    """Expected calibration error of P(the higher score is right) = sigmoid(|margin|), with a bootstrap over clips."""
    margin = np.array([row["margin"] for row in measured])
    sure, right = 1 / (1 + np.exp(-np.abs(margin))), (margin > 0).astype(float)
    error = lambda at: float(expected_calibration_error(sure[at], right[at])["error"])  # noqa: E731
    places: dict[str, list[int]] = {}
    for at, row in enumerate(measured):
        places.setdefault(row["clip"], []).append(at)
    groups, rng = [np.array(one) for one in places.values()], np.random.default_rng(0)
    drawn = [
        error(np.concatenate([groups[k] for k in rng.integers(len(groups), size=len(groups))]))
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = error(np.arange(len(margin)))
    return {"value": value, "low": float(low), "high": float(high), "n": len(groups), "excluded": 0}
