"""GRPO for captioners: captions that the policy draws of a clip are scored, compared with each other, and learnt from.

GRPO, https://huggingface.co/papers/2402.03300; its variants by TRL's names, in rlkit/losses/grpo.py; RLOO and rewards
normalised one by one (GDPO) in rlkit/advantages.py. A step: `num_generations` captions of each of its clips, all from
one pass over clip and prompt; rewards; advantages; then the loss, the captions of a clip in one row with it
(rlkit/caption/rounds.py). The reference, with grpo.beta, is the start.

Deviations from TRL: standard deviations are the population's; groups whose rewards are alike, and captions without a
score, are left out of every mean; a batch counts clips, not captions; `entropy` is the mean surprise of the drawn
tokens, which estimates it; log-probs are checked against those of the draw, and ratios to be 1, before the first
update of every process.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from data_synth.records import make_record
from data_synth.world.captions import PROMPTS
from data_synth.world.clips import events_of
from rlkit import losses, models
from rlkit.caption import clips, judge_gate, judges, retain, trainer
from rlkit.caption.dataset import training_examples
from rlkit.caption.policy_guard import PolicyGuard
from rlkit.caption.policy_trainer import PolicyTrainer
from rlkit.caption.rounds import Rounds
from rlkit.caption.systems import run_systems
from rlkit.caption.vllm_server import VllmServer
from rlkit.evaluate.held_out import Evaluation
from rlkit.losses.policy import require_unit_ratio
from rlkit.recipe import Recipe
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker
from rlkit.scoring import Rewards


def run(recipe: Recipe, folder: RunFolder) -> None:
    """Train, evaluate, save; then the recipe's variants, each from its own start. See recipes/grpo_caption.yaml."""
    stages = 2 + judge_gate.stages(gated(recipe))  # of one system: training and evaluation
    run_systems(recipe, folder, one_system, name="grpo", stages=stages)


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
    question, settings = PROMPTS[recipe.data.language], recipe.grpo
    rewards = Rewards(recipe.rewards, {"parse": events_of})
    captioner = models.load(recipe.model, seed=recipe.seed)
    server = VllmServer(captioner, recipe, folder.path / "vllm") if settings.use_vllm else None
    progress.note(f"{name}: {captioner.reason}")
    judge = judges.by_rewards(rewards, question)
    judge_gate.check(captioner, judge, found, gated(recipe), folder, question, progress)
    examples = training_examples(captioner, Questions(found.train, question), found.reader, recipe)
    guard = PolicyGuard(captioner, evaluation, recipe, folder, tracker, progress)
    guard.self_test(examples)
    rounds = Rounds(captioner, examples, found.train, rewards, recipe, question, server)
    evaluation.retained.before(name, captioner, folder)
    seconds = trainer.train(
        captioner,
        policy_loss(recipe),
        recipe,
        examples,
        folder,
        tracker,
        progress,
        stage=f"{name}: {settings.num_generations} captions each of {len(examples):,} clips",
        callbacks=[guard],
        build=partial(PolicyTrainer, rounds=rounds),
        replay=retain.replay(captioner, found, recipe),
    )
    if server is not None:
        server.close()
    evaluation.add(name, captioner, folder, seconds=seconds)
    return seconds


def policy_loss(recipe: Recipe):
    """The recipe's loss as the trainer calls it: a value for each caption and TRL's metrics."""
    settings = recipe.grpo

    def loss_of(trainer: PolicyTrainer, model, batch, counts):
        part = trainer.round.parts[int(batch["part"])]
        log_probs = trainer.rounds.log_probs(trainer.captioner, replace(part, batch=batch), model=model)
        tokens, counted = batch["target_mask"].flatten(0, 1), part.mask.flatten()
        old = log_probs.detach() if part.old_log_probs is None else part.old_log_probs
        if trainer.iteration == 0 and not trainer.rounds.checked:
            require_unit_ratio((log_probs.detach() - old).flatten(), tokens.flatten())
        found = losses.grpo_loss(
            log_probs.flatten(0, 1),
            old.flatten(0, 1),
            part.advantages.flatten(),
            tokens,
            ref_log_probs=None if part.ref_log_probs is None else part.ref_log_probs.flatten(0, 1),
            completion_mask=counted,
            loss_type=settings.loss_type,
            importance_sampling_level=settings.importance_sampling_level,
            epsilon=settings.epsilon,
            epsilon_high=settings.epsilon_high,
            beta=settings.beta,
            max_completion_length=recipe.sampling.max_completion_length,
            num_items_in_batch=float(counts[1] / counts[0]),
            importance_sampling_ratio=None if part.sampling_ratio is None else part.sampling_ratio.flatten(0, 1),
        )
        return found.loss, found.metrics

    return loss_of


def gated(recipe: Recipe) -> Recipe:
    """The recipe as the gate of judges reads it."""
    return judge_gate.of_rewards(recipe, recipe.grpo.num_generations)


class Questions(Sequence):
    """Clip rows as records whose answer is yet to be drawn: a placeholder stands for it."""

    def __init__(self, rows: Sequence[dict[str, Any]], question: str) -> None:
        self.rows, self.question = rows, question

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return make_record(self.question, "A", [], videos=[row["video"]], start=row.get("start"), end=row.get("end"))
