"""How each number of results.json is called, read and printed, for tables, cards and reports alike."""

from dataclasses import dataclass

from rlkit.evaluate.intervals import Interval


@dataclass(frozen=True)
class Metric:
    """A row or column heading: `better` is "higher", "lower" or "" (a control or a description, never marked best)."""

    title: str
    better: str
    meaning: str
    percent: bool = False
    digits: int = 2
    """Decimals of a value below 10."""


METRICS: dict[str, Metric] = {
    "order_exact": Metric("exact order", "higher", "every event told, in order, nothing invented", True),
    "order_tau": Metric("order tau", "higher", "Kendall's tau-b over the events that matched"),
    "order_likelihood": Metric("order by likelihood", "higher", "P(true order) > P(two events swapped)", True),
    "event_precision": Metric("event precision", "higher", "told events that happened", True),
    "event_recall": Metric("event recall", "higher", "events that happened and are told", True),
    "event_f1": Metric("event F1", "higher", "harmonic mean of precision and recall", True),
    "invented_events": Metric("invented events", "lower", "told events that did not happen, per caption"),
    "extra_sentences": Metric("extra sentences", "lower", "padding sentences per caption"),
    "length_words": Metric("length", "", "words per caption (characters in Chinese)"),
    "repetition": Metric("repetition", "lower", "share of repeated 4-grams", True),
    "skill_probe": Metric("skill probe", "higher", "questions on colour, count and the like answered exactly", True),
    "blind_order_exact": Metric("exact order, blind", "", "without video; what language alone can guess", True),
    "shuffled_order_exact": Metric("exact order, shuffled", "", "frames in random order", True),
    "other_clip_order_exact": Metric("exact order, other clip", "", "another clip's video", True),
    "reward": Metric("reward", "higher", "mean reward", digits=3),
    "held_out": Metric("held-out reward", "higher", "a reward that was not trained on", digits=3),
    "kept": Metric("meaning kept", "higher", "of what the short prompt says", True),
    "diversity": Metric("diversity", "higher", "spread between samples of one prompt", digits=3),
    "drift": Metric("drift", "lower", "of pixels, to what the start draws from the same noise", digits=3),
    "to_many": Metric(
        "distance to many steps", "lower", "of pixels, to what the first system draws in the most steps", digits=3
    ),
    "velocity_ratio": Metric("velocity ratio", "", "size of the predicted velocity, against the start"),
    "forward_passes": Metric("forward passes", "lower", "of the trained network"),
    "acceptance_first": Metric("accepted, first round", "higher", "samples above the bar that repeat nothing", True),
    "acceptance_last": Metric("accepted, last round", "higher", "the same of the round that is kept", True),
    "held_out_first": Metric("held-out judge, first round", "higher", "no sample is chosen by it", digits=3),
    "held_out_last": Metric("held-out judge, last round", "higher", "the same of the round that is kept", digits=3),
    "reward_first": Metric("reward, first round", "higher", "mean of what samples are chosen by", digits=3),
    "reward_last": Metric("reward, last round", "higher", "the same of the round that is kept", digits=3),
    "diversity_first": Metric("diversity, first round", "higher", "different pictures among so many (Vendi score)"),
    "diversity_last": Metric("diversity, last round", "higher", "the same of the round that is kept"),
    "copies": Metric("copies kept", "lower", "kept samples that lie nearer to an original than originals do"),
    "prior_reward_first": Metric(
        "plain prompts, base", "higher", "reward without the trigger, before training", digits=3
    ),
    "prior_reward_last": Metric(
        "plain prompts, last round", "higher", "reward without the trigger, with the LoRA", digits=3
    ),
    "passes_to_target": Metric("passes to target", "lower", "forward passes until the target reward"),
    "pairwise_seen": Metric("pairwise, seen kinds", "higher", "chosen scored above rejected", True),
    "pairwise_unseen_kind": Metric("pairwise, unseen kind", "higher", "on a kind of negative not trained on", True),
    "pairwise_held_out": Metric(
        "pairwise, held out", "higher", "scored above a worse version of the same picture", True
    ),
    "pairwise_real": Metric("pairwise, real pictures", "higher", "real pictures scored above degraded ones", True),
    "pairwise_own": Metric("pairwise, own photos", "higher", "photos of data.folder scored above degraded ones", True),
    "monotone_held_out": Metric("monotone", "higher", "sweeps of a fault that lower the score at every step", True),
    "monotone_real": Metric("monotone, real pictures", "higher", "the same on real pictures", True),
    "monotone_own": Metric("monotone, own photos", "higher", "the same on photos of data.folder", True),
    "cartoon_smooth": Metric("clean cartoon", "higher", "scored above over-smoothed photos", True),
    "pairwise_blind": Metric("pairwise, blind", "", "without video", True),
    "calibration_error": Metric("calibration error", "lower", "expected calibration error", True),
    "calibration_held_out": Metric("calibration error", "lower", "expected calibration error, held out", True),
    "calibration_real": Metric("calibration, real pictures", "lower", "expected calibration error", True),
    "calibration_own": Metric("calibration, own photos", "lower", "expected calibration error", True),
}

# What an alarm's value means, in a sentence; `{}` is the value as printed.
ALARMS: dict[str, str] = {
    "displacement": "the chosen answers' log-probability lies {} nats from its start",
    "gap": "the trained reward has gained {} of its start more than the held-out judge, which has gained none",
    "held_out": "the held-out judge has lost {} of its start",
    "velocity": "velocities are {} times as large as the reference's",
    "diversity": "pictures of one prompt have lost {} of their spread",
    "saturation": "mean saturation has risen by {}",
    "grid": "a lattice stands out by {} more than at the start",
    "length": "captions have become longer by {} of their start",
    "truth": "held-out captions tell their events worse, by {}",
}

SYSTEMS: dict[str, str] = {
    "base": "base model",
    "sft": "SFT",
    "sft_sft": "SFT, then more SFT",
    "dpo_k1": "DPO, one negative",
    "dpo": "DPO",
    "dpo_shuffled": "DPO on shuffled video",
    "grpo": "GRPO",
    "dpo_grpo": "DPO, then GRPO",
    "likelihood": "likelihood, prior included",
    "reward": "judge",
    "laplacian": "Laplacian variance",
    "untrained": "before training",
    "teacher": "teacher, all steps",
    "teacher_few": "teacher, few steps",
    "student": "student, few steps",
    "short": "short prompts as typed",
    "nft": "NFT",
    "ours": "rounds with guards",
    "naive": "naive rounds",
    "start": "first round",
    "few": "corrected captions alone",
    "kto": "KTO",
}


def describe(name: str) -> Metric:
    """The entry of `name`, or a plain one for a metric of the user's own."""
    if is_detail(name):
        return Metric(name.removeprefix("skill_"), "higher", f"probe questions about {name[6:]} answered exactly", True)
    if name.startswith("pairwise_") and name not in METRICS:
        kind = name.removeprefix("pairwise_").replace("_", " ")
        return Metric(f"pairwise, {kind}", "higher", f"scored above its {kind}", True)
    return METRICS.get(name, Metric(name.replace("_", " "), "", ""))


def is_detail(name: str) -> bool:
    """Whether a metric is a part of `skill_probe` (skill_colour, ...), shown apart so that tables stay narrow."""
    return name.startswith("skill_") and name != "skill_probe"


def system_title(name: str) -> str:
    """A system's name as people say it; unknown names are shown as they are."""
    count = name.removeprefix("best_of_")
    if name != count and count.isdigit():
        return f"base model, best of {count}"
    return SYSTEMS.get(name, name)


def number(value: float | None, metric: Metric) -> str:
    """A value as printed: percent with one decimal, others with the metric's digits or so; a dash for None."""
    if value is None:
        return "–"
    if metric.percent:
        return f"{100 * value:.1f}"
    size = abs(value)
    text = f"{value:.{metric.digits}f}" if size < 10 else f"{value:.1f}" if size < 100 else f"{value:,.0f}"
    return text.replace("-", "\u2212")


def interval_text(interval: Interval, metric: Metric) -> str:
    """The interval as printed, "50.1–55.4", with "to" where a minus sign is near; empty where there is none."""
    low, high = interval.get("low"), interval.get("high")
    if low is None or high is None:
        return ""
    return number(low, metric) + ("–" if low >= 0 else " to ") + number(high, metric)


def signed(value: float | None, metric: Metric) -> str:
    """A difference as printed, with its sign; percent becomes percentage points."""
    if value is None:
        return "–"
    text = number(abs(value), metric)
    if float(text.replace(",", "")) == 0:
        return text
    return ("+" if value > 0 else "\u2212") + text
