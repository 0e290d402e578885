"""Guards of online RL of captioners: do captions grow, does what was not rewarded by name, the truth, get lost.

Beside those of rlkit/caption/guards.py, every `guards.every` steps on held-out clips, greedy: `held_out/truth` (how
well captions tell their events, reward_models/event_order.py) and `held_out/length_words`. The length of the captions
that are drawn is looked at whenever it is logged.
"""

import json

from rlkit.caption import generate, judge_gate
from rlkit.caption.guards import Guard
from rlkit.errors import GuardError
from rlkit.evaluate import caption_metrics

STARTS = "policy_start.json"


class PolicyGuard(Guard):
    """Compares with the start of the run, which a resumed run reads from its folder."""

    told: frozenset[str] = frozenset()
    """Alarms given already."""

    def on_log(self, args, state, control, logs=None, **other: object) -> None:
        """Alarm when drawn captions have grown."""
        super().on_log(args, state, control, logs=logs, **other)
        length = (logs or {}).get("completions/mean_length")
        if length is not None:
            self._length("drawn captions", "tokens", length, state.global_step)

    def _measure(self, step: int) -> None:
        super()._measure(step)
        held, settings = self.evaluation.hold_out(self.captioner), self.recipe.evaluate
        shown = held.examples["clip"][: self.recipe.guards.num_clips]
        if not shown:
            return
        options = {"max_new_tokens": settings.max_new_tokens, "batch_size": settings.per_device_eval_batch_size}
        texts = [one[0] for one in generate.captions(self.captioner, shown, **options)]
        truth = sum(judge_gate.truth_of(row, text) for row, text in zip(held.rows, texts, strict=False)) / len(texts)
        words = sum(map(caption_metrics.length_words, texts)) / len(texts)
        metrics = {"held_out/truth": truth, "held_out/length_words": words}
        self.tracker.log(metrics, step)
        self.progress.metrics(metrics, step)
        self._length("greedy captions of held-out clips", "words", words, step)
        drop, most = self._start("truth", truth) - truth, self.recipe.grpo.max_truth_drop
        if most is not None and drop > most:
            text = f"held-out captions tell their events worse: {truth + drop:.3f} at the start, {truth:.3f} now"
            self._alarm("truth", -drop, text, step)

    def _length(self, what: str, unit: str, length: float, step: int) -> None:
        start, rise = max(self._start(unit, length), 1.0), self.recipe.grpo.max_length_rise
        if rise is not None and length > start * (1 + rise):
            self._alarm("length", length / start - 1, f"{what} grew from {start:.1f} to {length:.1f} {unit}", step)

    def _start(self, name: str, value: float) -> float:
        """The first value of this name in the run, which is `value` where there was none before."""
        path = self.folder.path / STARTS
        starts = json.loads(path.read_text()) if path.is_file() else {}
        if name not in starts:
            starts[name] = value
            self.folder.write_json(STARTS, starts)
        return starts[name]

    def _alarm(self, name: str, size: float, text: str, step: int) -> None:
        if name in self.told:
            return
        self.told = self.told | {name}
        self.folder.log({f"alarm/{name}": size}, step)
        self.progress.note(f"ALARM {name} at step {step}: {text}")
        if self.recipe.grpo.alarm == "stop":
            raise GuardError(
                f"{text}: the rewards are being hacked. Weigh a length prior or a veto against them, raise grpo.beta, "
                "or lower train.learning_rate."
            )
