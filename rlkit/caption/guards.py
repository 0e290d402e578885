"""Guards of caption training: is time encoded, does the policy still look at the video, does the chosen answer hold.

Measured every `guards.every` steps on held-out clips: `grounding/shuffled` and `grounding/blind` are the true caption's
log-probability per token with the clip minus with shuffled frames, and minus without the video; `order_accuracy` is the
share of clips where the true order is more likely than a swapped one.
"""

import itertools
import json
import math
from dataclasses import replace

import torch
from transformers import TrainerCallback

from rlkit.caption import generate, one_row, rows
from rlkit.caption.dataset import Examples
from rlkit.errors import GuardError
from rlkit.evaluate.captioner import order_by_likelihood
from rlkit.evaluate.held_out import Evaluation
from rlkit.models import Captioner, family_module
from rlkit.recipe import Recipe
from rlkit.running.folder import RunFolder
from rlkit.running.progress import Progress
from rlkit.running.tracking import Tracker


class Guard(TrainerCallback):
    """One run's guards; alarms are written to metrics.jsonl as `alarm/<name>` and shown as lasting lines."""

    def __init__(
        self,
        captioner: Captioner,
        evaluation: Evaluation,
        recipe: Recipe,
        folder: RunFolder,
        tracker: Tracker,
        progress: Progress,
    ) -> None:
        self.captioner, self.evaluation, self.recipe = captioner, evaluation, recipe
        self.folder, self.tracker, self.progress = folder, tracker, progress
        self.start: float | None = None
        self.alarmed = False

    def self_test(self, examples: Examples) -> None:
        """Before training: timestamps reach the model, positions grow with time, teacher forcing agrees with generate.

        Raises GuardError (or notes it, with `guards.time_encoding: warn`) naming what failed.
        """
        setting = self.recipe.guards.time_encoding
        if setting == "off" or not len(examples):
            return
        for problem in (time_problem(self.captioner, examples[0]), forcing_problem(self.captioner, examples[0])):
            if problem is None:
                continue
            if setting == "stop":
                raise GuardError(
                    f"the self-test of time encoding failed: {problem}. guards.time_encoding: warn goes on."
                )
            self.progress.note(f"ALARM time encoding: {problem}")

    def on_train_begin(self, args, state, control, **_: object) -> None:
        """Measure once before the first step, so that later values have something to fall below."""
        if self.recipe.guards.every and state.global_step == 0:
            self._measure(0)

    def on_step_end(self, args, state, control, **_: object) -> None:
        """Every `guards.every` steps."""
        every = self.recipe.guards.every
        if every and state.global_step % every == 0:
            self._measure(state.global_step)

    def on_log(self, args, state, control, logs=None, **_: object) -> None:
        """Alarm when the chosen answer's log-probability, as TRL logs it, falls below its start."""
        value = (logs or {}).get("logps/chosen")
        if value is None or self.recipe.guards.displacement == "off":
            return
        path = self.folder.path / "chosen_start.json"
        if self.start is None and path.exists() and state.global_step > args.logging_steps:
            self.start = json.loads(path.read_text())["logps/chosen"]
        if self.start is None:
            self.start = value
            self.folder.write_json("chosen_start.json", {"logps/chosen": value})
        elif value < self.start - 0.05 * abs(self.start) and not self.alarmed:
            self.alarmed = True
            text = f"the chosen answers' log-probability fell from {self.start:.1f} to {value:.1f} nats"
            self.folder.log({"alarm/displacement": value - self.start}, state.global_step)
            self.progress.note(f"ALARM displacement at step {state.global_step}: {text}")
            if self.recipe.guards.displacement == "stop":
                raise GuardError(f"{text}; raise loss.anchor or the sft weight in loss.types, or lower the rate.")

    def _measure(self, step: int) -> None:
        held = self.evaluation.hold_out(self.captioner)
        count = min(self.recipe.guards.num_clips, len(held.rows))
        if count == 0:
            return
        training = self.captioner.model.training
        size = self.recipe.evaluate.per_device_eval_batch_size
        own = true_caption_log_prob(self.captioner, held.examples["clip"][:count], size)
        metrics = {
            "order_accuracy": sum(order_by_likelihood(self.captioner, held.examples["clip"][:count], batch_size=size))
            / count
        }
        for view in ("shuffled", "blind"):
            if view in held.examples:
                metrics[f"grounding/{view}"] = own - true_caption_log_prob(
                    self.captioner, held.examples[view][:count], size
                )
        self.captioner.model.train(training)
        self.tracker.log(metrics, step)
        self.progress.metrics(metrics, step)


@torch.no_grad()
def true_caption_log_prob(captioner: Captioner, examples: list[rows.Example], batch_size: int) -> float:
    """Mean log-probability per token of answer 0, in nats."""
    captioner.model.eval()
    total, tokens = 0.0, 0
    for start in range(0, len(examples), batch_size):
        batch = rows.batch_of(captioner, examples[start : start + batch_size])
        log_probs, mask = one_row.log_probs(captioner, batch)
        total += float(log_probs[:, 0].sum())
        tokens += int(mask[:, 0].sum())
    return total / tokens


def time_problem(captioner: Captioner, example: rows.Example) -> str | None:
    """What is wrong with the times the model sees, or None; families without time say nothing."""
    module = family_module(captioner.family)
    if not captioner.sharing or not any("video" in key for key in example.prompt):
        return None
    seconds = module.time_table(captioner.base, captioner.processor, example.prompt)
    if len(seconds) > 1 and any(later <= earlier for earlier, later in itertools.pairwise(seconds)):
        return f"the times of the frames as the model sees them do not grow: {[round(s, 2) for s in seconds]}"
    return None


@torch.no_grad()
def forcing_problem(captioner: Captioner, example: rows.Example, tokens: int = 8) -> str | None:
    """Compares generate's own log-probs of its greedy tokens with those of the training forward; None when equal."""
    model, tokenizer = captioner.base, captioner.processor.tokenizer
    training = model.training
    model.eval()
    inputs = generate.prompts(captioner, [example])
    output = model.generate(
        **inputs,
        max_new_tokens=tokens,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    ids = output.sequences[0, inputs["input_ids"].shape[1] :]
    said = torch.stack(
        [score[0].float().log_softmax(-1)[token] for score, token in zip(output.scores, ids, strict=True)]
    )
    forced = replace(example, answers=[ids.cpu()], spans=[torch.zeros(len(ids), dtype=torch.bool)], rejected_weight=[])
    log_probs, _ = one_row.log_probs(captioner, rows.batch_of(captioner, [forced]))
    worst = float((log_probs[0, 0, : len(ids)] - said).abs().max())
    model.train(training)
    # fp32 differs by rounding; half precision by tenths of a nat, which is noise and not another position table.
    allowed = 1e-3 if model.dtype == torch.float32 else 0.7
    if math.isnan(worst) or worst > allowed:
        return f"teacher forcing and generate differ by {worst:.3g} nats on greedy tokens (allowed {allowed:g})"
    return None
