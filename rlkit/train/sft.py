"""Supervised fine-tuning of a captioner: the negative log-likelihood of captions, one clip a row.

With `model.init` it trains a tiny model from nothing, with `data.noise` on captions as the web writes them; without
either it teaches a pretrained model the captions of a folder.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from data_synth.records import make_record
from data_synth.world.captions import PROMPTS
from data_synth.world.noise import PADDING
from rlkit import models
from rlkit.caption import clips, retain, trainer
from rlkit.caption.dataset import training_examples
from rlkit.caption.systems import run_systems
from rlkit.evaluate.held_out import Evaluation
from rlkit.recipe import Recipe
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Train, evaluate, save; then the recipe's variants from the same start. See recipes/sft_caption.yaml."""
    run_systems(recipe, folder, one_system, name=folder.path.name.removesuffix("_caption"), stages=2)


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
    captioner = models.load(
        recipe.model, texts=vocabulary(found, recipe), frame_size=recipe.data.frame_size or 56, seed=recipe.seed
    )
    examples = training_examples(captioner, Captions(found.train, recipe), found.reader, recipe)
    stage = f"{name}: training on {len(examples):,} captions"
    evaluation.retained.before(name, captioner, folder)
    old = retain.replay(captioner, found, recipe)
    seconds = trainer.train(
        captioner, trainer.nll, recipe, examples, folder, tracker, progress, stage=stage, replay=old
    )
    evaluation.add(name, captioner, folder, seconds=seconds)
    return seconds


class Captions(Sequence):
    """Clip rows as records with one answer: the caption, or with `data.probe_share` an answer to a question."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], recipe: Recipe) -> None:
        self.rows, self.recipe = rows, recipe
        self.questions = round(len(rows) * recipe.data.probe_share / (1 - recipe.data.probe_share))

    def __len__(self) -> int:
        return len(self.rows) + self.questions

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index % len(self.rows)]
        if index < len(self.rows):
            question, answer = PROMPTS[self.recipe.data.language], row["caption"]
        else:
            _, question, answer = random.Random(f"{self.recipe.seed} {index}").choice(row["probes"])
        return make_record(question, answer, [], videos=[row["video"]], start=row.get("start"), end=row.get("end"))


def vocabulary(found: clips.Clips, recipe: Recipe) -> list[str]:
    """Texts a fresh tokenizer is trained on; nothing is read for a model that has one."""
    if recipe.model.id is not None:
        return []
    texts = [text for language in PADDING.values() for pool in language for text in pool] + list(PROMPTS.values())
    for index in range(min(len(found.train), 2000)):
        row = found.train[index]
        texts += [row["caption"], row.get("true_caption") or row["caption"]]
        texts += [text for probe in row.get("probes", ()) for text in probe[1:]]
    return texts
