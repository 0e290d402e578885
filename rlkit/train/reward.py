"""Consistency reward: a captioner learns to judge whether a caption tells what the clip shows.

Bradley-Terry (Biometrika 39, 1952) on the scores of rlkit/caption/information.py: the true caption against
constructed negatives of the same clip, and the captioner's own wrong samples, all in one row. Measured on held-out
clips, for the kinds that were trained on, for kinds that were not (`evaluate.unseen_negatives`), and with the clip
hidden: what is told without looking is a leak. Beside the judge stand the captioner it starts from, as a judge
(`untrained`), and that captioner's likelihood with its language prior (`likelihood`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import reward_models
from data_synth.records import SHARD_NAME, read_records, write_records
from data_synth.world.captions import PROMPTS
from reward_models import agreement
from rlkit import models, reward_losses
from rlkit.caption import clips, information, judges, own_samples, pairs, rows, trainer
from rlkit.caption.dataset import Examples, training_examples
from rlkit.evaluate import intervals
from rlkit.models import Captioner
from rlkit.recipe import Recipe
from rlkit.report.finish import finish
from rlkit.rewards import run as heads
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress, quiet
from rlkit.running.tracking import open_tracker

Row = dict[str, Any]


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Make pairs, measure the start by likelihood, train, measure the judge. See recipes/reward_consistency.yaml.

    With a `reward:` section a vision encoder with heads is trained instead (rlkit/rewards/run.py).
    """
    if recipe.reward is not None:
        heads.run(recipe, folder)
        return
    quiet()
    own = own_samples.wanted(recipe)
    with Progress(folder.path.name, stages=clips.stages(recipe) + 4 + own) as progress:
        found = clips.collect(recipe, folder, progress)
        tracker = open_tracker(recipe.train.report_to, folder, name=folder.path.name, config={}, progress=progress)
        captioner = models.load(recipe.model, seed=recipe.seed)
        progress.note(captioner.reason)
        target, question = folder.path / "pairs", PROMPTS[recipe.data.language]
        pool = pairs.event_pool(found.labelled())
        samples = None
        if own:
            samples = own_samples.draw(captioner, found, recipe, question, progress)
        progress.stage("making preference pairs")
        if folder.main and not (target / SHARD_NAME.format(0)).is_file():
            is_true = own_samples.truth_test(recipe)
            made = pairs.labelled_pairs(
                found.labelled(), recipe, question=question, pool=pool, samples=samples, is_true=is_true
            )
            write_records(made, target)
        ranks.wait()
        records, held_out = read_records(target), HeldOut(found, recipe, pool)
        before = measure(captioner, held_out, "untrained", progress)
        examples = training_examples(captioner, records, found.reader, recipe)
        stage = f"reward: training on {len(records):,} clips with up to {recipe.num_negatives} negatives"
        seconds = trainer.train(
            captioner, bradley_terry(records), recipe, examples, folder, tracker, progress, stage=stage
        )
        folder.write_json(f"final/{judges.MANIFEST}", {"question": question})
        folder.write_json(f"final/{reward_models.MANIFEST}", {"reward": "consistency"})
        after = measure(captioner, held_out, "reward", progress)
        systems = {
            "untrained": summary(without_prior(before)),
            "likelihood": summary(before),
            "reward": summary(without_prior(after)),
        }
        cost = {"train_seconds": {"reward": seconds}, "pairs": len(records), "quarantined": found.quarantined}
        results = {"systems": systems, "cost": cost}
        finish(folder, results, cards=False)
        tracker.finish()


def bradley_terry(records: Sequence[Row]) -> trainer.Loss:
    """Per clip, the mean over its negatives of -log sigmoid(score of the caption - score of the negative)."""

    def loss_of(caption_trainer, model, batch, counts):
        captioner = caption_trainer.captioner
        hidden = information.prior(captioner, [records[at] for at in batch["index"].tolist()], model=model)
        scored = information.likelihood(captioner, batch, model=model) - hidden
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

    return loss_of


class HeldOut:
    """Held-out clips with one negative of every operator that can make one; `kinds[i]` are (kind, trained on)."""

    def __init__(self, found: clips.Clips, recipe: Recipe, pool: Sequence[str]) -> None:
        self.reader, self.size = found.held_out_reader, recipe.evaluate.per_device_eval_batch_size
        self.records: list[dict[str, Any]] = []
        self.kinds: list[list[tuple[str, bool]]] = []
        operators = [(one, True) for one in recipe.negatives if one.name != "own_samples"]
        operators += [(one, False) for one in recipe.evaluate.unseen_negatives]
        for number, row in enumerate(found.held_out):
            wrong, seen = [], []
            for operator, trained in operators:
                operator = replace(operator, weight=1.0)
                made = pairs.constructed(row["true_caption"], [operator], 1, seed=number, pool=pool)
                wrong += made
                seen += [trained] * len(made)
            if wrong:
                record = pairs.record(row, PROMPTS[recipe.data.language], row["true_caption"], wrong, number, {})
                self.records.append(record)
                self.kinds.append([(one["kind"], trained) for one, trained in zip(wrong, seen, strict=True)])


@torch.no_grad()
def measure(captioner: Captioner, held_out: HeldOut, name: str, progress: Progress) -> list[Row]:
    """One row per negative of a held-out clip: `clip`, `kind`, `seen`, and by how many nats the true caption is more
    likely with the clip (`margin`) and without it (`blind`)."""
    progress.stage(f"{name}: scoring the captions of {len(held_out.records)} clips", total=len(held_out.records))
    captioner.model.eval()
    shown = Examples(captioner, held_out.records, held_out.reader, cache_gib=0.0)

    def margins(part: Sequence[int]) -> list[list[Row]]:
        """The rows of some clips, clip by clip."""
        told = []
        for start in range(0, len(part), held_out.size):
            some = part[start : start + held_out.size]
            blind = [rows.encode(captioner, held_out.records[at]) for at in some]
            views = [[shown[at] for at in some], blind]
            scored = [information.likelihood(captioner, rows.batch_of(captioner, view)).cpu() for view in views]
            with_clip, without = ((one[:, :1] - one[:, 1:]).tolist() for one in scored)
            told += [
                [
                    {"clip": held_out.records[at]["source_id"], "kind": kind, "seen": seen, "margin": m, "blind": b}
                    for (kind, seen), m, b in zip(held_out.kinds[at], with_clip[k], without[k], strict=False)
                ]
                for k, at in enumerate(some)
            ]
            progress.step(start + len(some))
        return told

    found = ranks.spread(margins, list(range(len(held_out.records))))
    return [row for of_clip in found for row in of_clip]


def without_prior(measured: Sequence[Row]) -> list[Row]:
    """The rows as a judge by information.py scores them: with the clip hidden, all captions are worth 0."""
    return [{**row, "margin": row["margin"] - row["blind"], "blind": 0.0} for row in measured]


def summary(measured: Sequence[Row]) -> dict[str, intervals.Interval]:
    """Shares of negatives scored below their caption (a tie counts half), with intervals over clips; and the expected
    calibration error of P(the higher score is right) = sigmoid(|margin|)."""
    by_clip: dict[str, dict[str, list[float]]] = {}
    for row in measured:
        told, blind = (0.5 + 0.5 * float(np.sign(row[name])) for name in ("margin", "blind"))
        values = by_clip.setdefault(row["clip"], {})
        for name in ("pairwise_seen" if row["seen"] else "pairwise_unseen_kind", f"pairwise_{row['kind']}"):
            values.setdefault(name, []).append(told)
        values.setdefault("pairwise_blind", []).append(blind)
    lines = [{"clip": clip} | {k: float(np.mean(v)) for k, v in values.items()} for clip, values in by_clip.items()]
    margin = np.array([row["margin"] for row in measured])
    error = agreement.bootstrap_by_prompt(
        lambda sure, right: agreement.expected_calibration_error(sure, right)["error"],
        [row["clip"] for row in measured],
        1 / (1 + np.exp(-np.abs(margin))),
        (margin > 0).astype(float),
    )
    calibration = {"value": error.value, "low": error.low, "high": error.high, "n": len(by_clip), "excluded": 0}
    return intervals.summarise(lines) | {"calibration_error": calibration}
