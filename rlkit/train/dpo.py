"""DPO for captioners (https://huggingface.co/papers/2305.18290) with one row per clip and cached reference log-probs.

Deviations from the paper: K rejected answers per clip share one row; losses of TRL's menu can be mixed and carry terms
that hold the chosen answer's likelihood up (sft, anchor); pairs come from corrupted captions and from the starting
model's own samples, which a judge ranks where no true caption exists.

Steps, none done twice: runs/own_samples (shared by all runs), then in the run folder pairs/ -> reference/ ->
checkpoints/ -> final/.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from data_synth.records import SHARD_NAME, content_hash, read_records, write_records
from data_synth.world.captions import PROMPTS
from rlkit import losses, models
from rlkit.caption import clips, judge_gate, judges, one_row, own_samples, pairs, reference, retain, rows, trainer
from rlkit.caption.dataset import Examples, training_examples
from rlkit.caption.guards import Guard
from rlkit.caption.systems import run_systems
from rlkit.evaluate.held_out import Evaluation
from rlkit.models import Captioner
from rlkit.recipe import Loss, Recipe
from rlkit.running import ranks
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Make pairs, train, evaluate; then the recipe's variants, each from the same start (recipes/dpo_caption.yaml)."""
    own = own_samples.wanted(recipe)
    # of one system: pairs, reference, training, evaluation
    stages = 4 + own * (1 + judge_gate.stages(recipe)) + bool(recipe.loss.video_conditional)
    run_systems(recipe, folder, one_system, name="dpo", stages=stages)


def one_system(
    recipe: Recipe,
    folder: RunFolder,
    found: clips.Clips,
    evaluation: Evaluation,
    tracker: Tracker,
    progress: Progress,
    *,
    name: str,
) -> float:
    """Train and evaluate one system in its own folder; returns the seconds of training. A finished one is read back."""
    if evaluation.read(name, folder):
        return evaluation.seconds(folder)
    captioner = models.load(recipe.model, seed=recipe.seed)
    progress.note(f"{name}: {captioner.reason}")
    shards = make_pairs(captioner, recipe, folder, found, progress)
    records = read_records(shards)
    examples = training_examples(captioner, records, found.reader, recipe)
    kept = reference_log_probs(captioner, examples, recipe, folder, shards, "own clip", progress)
    wrong = kept_wrong = None
    if recipe.loss.video_conditional:
        wrong = WrongClips(examples, seed=recipe.seed)
        kept_wrong = reference_log_probs(captioner, wrong, recipe, folder, shards, "wrong clip", progress)
    guard = Guard(captioner, evaluation, recipe, folder, tracker, progress)
    guard.self_test(examples)
    evaluation.retained.before(name, captioner, folder)
    seconds = trainer.train(
        captioner,
        preference(recipe.loss, kept, wrong, kept_wrong),
        recipe,
        examples,
        folder,
        tracker,
        progress,
        stage=f"{name}: training on {len(records):,} clips with up to {recipe.num_negatives} negatives",
        callbacks=[guard],
        replay=retain.replay(captioner, found, recipe),
    )
    evaluation.add(name, captioner, folder, seconds=seconds, pairs=sample_pairs(captioner, examples, kept, recipe))
    return seconds


def make_pairs(
    captioner: Captioner,
    recipe: Recipe,
    folder: RunFolder,
    found: clips.Clips,
    progress: Progress,
) -> Path:
    """pairs/ of the system's folder, or the recipe's finished preference set; samples are shared by all runs."""
    if recipe.data.source == "pairs":
        return Path(recipe.data.pairs)
    target = folder.path / "pairs"
    there = (target / SHARD_NAME.format(0)).is_file()
    if ranks.gathered(there)[0]:  # as the main process, which alone writes, found it
        return target
    question = PROMPTS[recipe.data.language]
    samples = None
    if own_samples.wanted(recipe):
        samples = own_samples.draw(captioner, found, recipe, question, progress)
    judge = judges.load(recipe) if samples is not None else None
    if judge is not None:
        judge_gate.check(captioner, judge, found, recipe, folder, question, progress)
    progress.stage("making preference pairs")
    if folder.main:
        note = write_pairs(found, recipe, target, question, samples, judge)
        progress.note(note)
    ranks.wait()
    return target


def write_pairs(
    found: clips.Clips,
    recipe: Recipe,
    target: Path,
    question: str,
    samples: own_samples.Drawn | None,
    judge: judges.Judge | None,
) -> str:
    """Pairs of all labelled clips, and with samples of the others, written as they are made; says how many."""
    is_true = own_samples.truth_test(recipe)
    pool = pairs.event_pool(found.labelled())
    count = Counter()

    def counted(rows: Iterable[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
        for row in rows:
            count[kind] += 1
            yield row

    labelled = counted(found.labelled(), "labelled")
    records = pairs.labelled_pairs(labelled, recipe, question=question, pool=pool, samples=samples, is_true=is_true)
    if judge is not None and samples is not None:
        unlabelled = counted(found.unlabelled(), "unlabelled")
        asked = partial(judge, reader=found.reader)
        judged = pairs.judged_pairs(unlabelled, recipe, question=question, samples=samples, judge=asked)
        records = itertools.chain(records, judged)
    written = write_records(records, target)
    return f"{written.kept:,} pairs from {count['labelled']:,} labelled and {count['unlabelled']:,} unlabelled clips"


def reference_log_probs(captioner, examples, recipe: Recipe, folder: RunFolder, shards: Path, view: str, progress):
    """Reference log-probs of every row, from disk where they are there; see rlkit/caption/reference.py."""
    progress.stage(f"reference log-probs ({view})", total=len(examples))
    data = recipe.data
    settings = {
        "view": view,
        "num_frames": data.num_frames,
        "fps": data.fps,
        "frame_size": data.frame_size,
        "decoder": data.decoder,
        "shuffled": [data.shuffle_frames, recipe.seed if data.shuffle_frames or view != "own clip" else None],
    }
    return reference.precompute(
        captioner,
        examples,
        folder.path / "reference",
        data=content_hash(shards),
        settings=settings,
        batch_size=recipe.train.per_device_train_batch_size,
        progress=progress.step,
    )


def preference(settings: Loss, kept: reference.ReferenceLogProbs, wrong: "WrongClips | None", kept_wrong):
    """The recipe's loss as the trainer calls it: per-clip losses and TRL's metrics."""
    options = losses.Options(
        beta=settings.beta,
        label_smoothing=settings.label_smoothing,
        discopop_tau=settings.discopop_tau,
        f_divergence_type=settings.f_divergence_type,
        f_alpha_divergence_coef=settings.f_alpha_divergence_coef,
    )

    def loss_of(trainer, model, batch, counts):
        log_probs, mask = one_row.log_probs(trainer.captioner, batch, model=model)
        ref_log_probs = kept.lookup(batch).to(log_probs.device)
        other: dict[str, Any] = {}
        if wrong is not None:
            shown = wrong.batch(batch["index"].tolist(), trainer.captioner.processor.tokenizer.pad_token_id)
            shown = {name: tensor.to(log_probs.device) for name, tensor in shown.items()}
            wrong_log_probs, _ = one_row.log_probs(trainer.captioner, shown, model=model)
            wrong_ref = kept_wrong.lookup(shown).to(log_probs.device)
            width = log_probs.shape[2] - wrong_log_probs.shape[2]
            pad = (0, width)
            other = {
                "wrong_log_probs": torch.nn.functional.pad(wrong_log_probs[:, 0], pad),
                "wrong_ref_log_probs": torch.nn.functional.pad(wrong_ref[:, 0], pad),
            }
        loss, metrics = losses.preference_loss(
            log_probs,
            ref_log_probs,
            mask,
            types=settings.types,
            options=options,
            ld_alpha=settings.ld_alpha,
            average_log_prob=settings.average_log_prob,
            span_mask=batch["span_mask"],
            span_weight=settings.span_weight,
            rejected_weight=batch["rejected_weight"],
            anchor_weight=settings.anchor,
            video_conditional_weight=settings.video_conditional,
            num_items_in_batch=float(counts[1] / counts[0]),
            **other,
        )
        return loss, metrics | length_correlation(log_probs.detach(), ref_log_probs, mask)

    return loss_of


def length_correlation(log_probs, ref_log_probs, mask) -> dict[str, torch.Tensor]:
    """Correlation over pairs of margin and length gap: near +-1, the policy is learning length and little else."""
    ratio = (log_probs - ref_log_probs).sum(-1)
    lengths = mask.sum(-1).float()
    real = mask[:, 1:].any(-1)
    margin, gap = (ratio[:, :1] - ratio[:, 1:])[real], (lengths[:, :1] - lengths[:, 1:])[real]
    if len(margin) < 2 or margin.std() == 0 or gap.std() == 0:
        return {}
    return {"margin_length_correlation": torch.corrcoef(torch.stack([margin, gap]))[0, 1]}


class WrongClips(Sequence):
    """Each row's chosen caption under its own clip with the frames shuffled, for the video-conditional term."""

    def __init__(self, examples: Examples, *, seed: int) -> None:
        records = examples.records
        self.shuffled = Examples(
            examples.captioner, ChosenOnly(records), examples.reader, shuffle_frames=True, seed=seed + 1
        )

    def __len__(self) -> int:
        return len(self.shuffled)

    def __getitem__(self, index: int) -> rows.Example:
        if index >= len(self):
            raise IndexError(index)
        return self.shuffled[index]

    def batch(self, indices: Sequence[int], pad_token_id: int) -> dict[str, torch.Tensor]:
        """The rows of a training batch, collated."""
        return rows.collate([self[index] for index in indices], pad_token_id=pad_token_id)


class ChosenOnly(Sequence):
    """Records without their rejected answers."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.records[index], "rejected": [], "rejected_weight": [], "edit": []}


@torch.no_grad()
def sample_pairs(captioner: Captioner, examples: Examples, kept, recipe: Recipe, count: int = 12) -> list[dict]:
    """The first pairs with the margin of each rejected answer after training, for the report."""
    chosen = [examples[index] for index in range(min(count, len(examples)))]
    batch = rows.batch_of(captioner, chosen)
    log_probs, _ = one_row.log_probs(captioner, batch)
    ratio = recipe.loss.beta * (log_probs - kept.lookup(batch)).sum(-1)
    margins = (ratio[:, :1] - ratio[:, 1:]).tolist()
    return [
        {"record": examples.records[index], "margin": margins[index][: len(example.answers) - 1]}
        for index, example in enumerate(chosen)
    ]
