"""Preference losses of captioners as pure functions of log-probabilities, in fp32; a clip has 1 + K answers, 0 chosen.

Pairwise losses have TRL 1.16's values at K = 1 (trl/trainer/dpo_trainer.py, checked in the tests); at K > 1 they are
averaged over the negatives of a clip. Listwise losses (softmax, plackett_luce) equal `sigmoid` at K = 1. answers.py
makes the pairs from token log-probs.

Deviation: Plackett-Luce is the mean, not the sum, of its stages.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlkit.answers import Pairs, answer_log_probs, pair_up, token_weights
from rlkit.errors import RecipeError


@dataclass(frozen=True)
class Options:
    """Strengths shared by the losses; names and defaults as in TRL's DPOConfig."""

    beta: float = 0.1
    label_smoothing: float = 0.0  # robust, exo_pair, aot, aot_unpaired
    discopop_tau: float = 0.05
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5


def score(ratio: Float[Tensor, "*shape"], options: Options) -> Float[Tensor, "*shape"]:
    """f'(p / p_ref) of the chosen divergence (f-DPO, https://huggingface.co/papers/2309.16240); reverse KL: the log."""
    kind, alpha = options.f_divergence_type, options.f_alpha_divergence_coef
    if kind == "reverse_kl" or (kind == "alpha_divergence" and abs(alpha - 1.0) < 1e-6):
        return ratio
    if kind == "forward_kl":
        return 1 - torch.exp(-ratio)
    if kind == "js_divergence":
        return math.log(2) + F.logsigmoid(ratio)
    if kind == "alpha_divergence":
        # exp(80) is near the largest fp32; TRL clamps at the same place
        return (torch.exp(((alpha - 1.0) * ratio).clamp(max=80.0)) - 1.0) / (alpha - 1.0)
    raise RecipeError(
        f"loss.f_divergence_type is {kind!r}; choose reverse_kl, forward_kl, js_divergence or alpha_divergence."
    )


def _delta(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    return score(pairs.chosen_ratio, options) - score(pairs.rejected_ratio, options)


def _mean_delta(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """The same per token: scores over lengths."""
    chosen = score(pairs.chosen_ratio, options) / pairs.chosen_lengths.clamp(min=1)
    return chosen - score(pairs.rejected_ratio, options) / pairs.rejected_lengths.clamp(min=1)


# ---- pairwise losses: Pairs -> [batch, k] ---------------------------------------------------------------------------


def sigmoid(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """DPO, https://huggingface.co/papers/2305.18290, Eq. 7."""
    return -F.logsigmoid(options.beta * _delta(pairs, options))


def hinge(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """SLiC's hinge on DPO's margin, https://huggingface.co/papers/2305.10425."""
    return torch.relu(1 - options.beta * _delta(pairs, options))


def ipo(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """IPO on token means, https://huggingface.co/papers/2310.12036, Eq. 17; beta is its tau, on another scale."""
    return (_mean_delta(pairs, options) - 1 / (2 * options.beta)) ** 2


def exo_pair(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """EXO-pref, https://huggingface.co/papers/2402.00856, Eq. 16; label_smoothing must be above 0."""
    if not 0 < options.label_smoothing < 1:
        raise RecipeError("loss.types has exo_pair, whose target needs loss.label_smoothing above 0, e.g. 1e-3.")
    logits = options.beta * _delta(pairs, options)
    win, lose = math.log1p(-options.label_smoothing), math.log(options.label_smoothing)
    towards = torch.sigmoid(logits) * (F.logsigmoid(logits) - win)
    return towards + torch.sigmoid(-logits) * (F.logsigmoid(-logits) - lose)


def nca_pair(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """NCA, https://huggingface.co/papers/2402.05369: absolute likelihoods, holds the chosen answer's up."""
    chosen, rejected = options.beta * pairs.chosen_ratio, options.beta * pairs.rejected_ratio
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def robust(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """DPO debiased for a share label_smoothing of flipped pairs, https://huggingface.co/papers/2403.00409."""
    epsilon = options.label_smoothing
    if epsilon >= 0.5:
        raise RecipeError(f"loss.label_smoothing is {epsilon}; robust needs it below 0.5.")
    logits = options.beta * _delta(pairs, options)
    return (-(1 - epsilon) * F.logsigmoid(logits) + epsilon * F.logsigmoid(-logits)) / (1 - 2 * epsilon)


def bco_pair(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """Binary classifier, https://huggingface.co/papers/2404.04656, without its running mean (as in TRL)."""
    return -F.logsigmoid(options.beta * pairs.chosen_ratio) - F.logsigmoid(-options.beta * pairs.rejected_ratio)


def sppo_hard(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """SPPO with hard probabilities, https://huggingface.co/papers/2405.00675, Eq. 4.7."""
    return (pairs.chosen_ratio - 0.5 / options.beta) ** 2 + (pairs.rejected_ratio + 0.5 / options.beta) ** 2


def apo_zero(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """APO-zero, https://huggingface.co/papers/2408.06266, Eq. 7: the chosen answers beat the model's own."""
    return 1 - torch.sigmoid(options.beta * pairs.chosen_ratio) + torch.sigmoid(options.beta * pairs.rejected_ratio)


def apo_down(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """APO-down, https://huggingface.co/papers/2408.06266, Eq. 8: the chosen answers are worse than the model's own."""
    return torch.sigmoid(options.beta * pairs.chosen_ratio) + 1 - torch.sigmoid(options.beta * pairs.margin)


def discopop(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """DiscoPOP, https://huggingface.co/papers/2406.08414, Eq. 5."""
    logits = options.beta * _delta(pairs, options)
    share = torch.sigmoid(logits / options.discopop_tau)
    return -F.logsigmoid(logits) * (1 - share) + torch.exp(-logits) * share


def sigmoid_norm(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """DPO on token means (Tulu 3), https://huggingface.co/papers/2411.15124; beta is on another scale."""
    return -F.logsigmoid(options.beta * _mean_delta(pairs, options))


def aot(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """AOT, https://huggingface.co/papers/2406.05882: compares sorted margins of the whole batch, not pair by pair."""
    policy = (pairs.chosen - pairs.rejected)[pairs.mask].sort().values
    reference = (pairs.ref_chosen - pairs.ref_rejected)[pairs.mask].sort().values
    return _sorted_loss(policy - reference, pairs, options)


def aot_unpaired(pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """AOT for unpaired data: sorted ratios of chosen against sorted ratios of rejected answers."""
    chosen = pairs.chosen_ratio[pairs.mask].sort().values
    return _sorted_loss(chosen - pairs.rejected_ratio[pairs.mask].sort().values, pairs, options)


def _sorted_loss(delta: Float[Tensor, " n"], pairs: Pairs, options: Options) -> Float[Tensor, "batch k"]:
    """Smoothed DPO loss of sorted differences; their mean stands in every place, for they belong to no pair."""
    logits, epsilon = options.beta * delta, options.label_smoothing
    values = -F.logsigmoid(logits) * (1 - epsilon) - F.logsigmoid(-logits) * epsilon
    return values.mean().expand_as(pairs.chosen)


PAIRWISE = {
    "sigmoid": sigmoid,
    "hinge": hinge,
    "ipo": ipo,
    "exo_pair": exo_pair,
    "nca_pair": nca_pair,
    "robust": robust,
    "bco_pair": bco_pair,
    "sppo_hard": sppo_hard,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "aot": aot,
    "aot_unpaired": aot_unpaired,
    "discopop": discopop,
    "sigmoid_norm": sigmoid_norm,
}
NAMES = (*PAIRWISE, "sft", "softmax", "plackett_luce")


# ---- listwise losses and terms: -> [batch] --------------------------------------------------------------------------


def softmax(
    margins: Float[Tensor, "batch k"],
    mask: Bool[Tensor, "batch k"],
    *,
    beta: float,
    weights: Float[Tensor, "batch k"] | None = None,
) -> Float[Tensor, " batch"]:
    """S-DPO, https://huggingface.co/papers/2406.09215: -log softmax of the chosen answer among all.

    Written as a cross-entropy over [0, -beta * margin_k], since the paper's form overflows. `weights` of mean 1 count
    a negative more or less often.
    """
    logits = -beta * margins.float()
    if weights is not None:
        logits = logits + weights.clamp(min=1e-8).log()
    logits = logits.masked_fill(~mask, -torch.inf)
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1).logsumexp(1)


def plackett_luce(
    scores: Float[Tensor, "batch answers"],
    mask: Bool[Tensor, "batch answers"],
    *,
    beta: float,
    grades: Int[Tensor, "batch answers"] | None = None,
) -> Float[Tensor, " batch"]:
    """Plackett-Luce likelihood of a ranking, mean over its stages (DPO's appendix, Eq. 18).

    `grades`: 0 is best; each answer competes with all that have a higher grade, equal grades never compete. Without
    them the answers are taken in order, best first. All negatives of one grade give `softmax`.
    """
    scores = beta * scores.float()
    if grades is None:
        grades = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    worse = (grades[:, None, :] > grades[:, :, None]) & mask[:, None, :] & mask[:, :, None]
    against = worse | torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    field = scores[:, None, :].expand(-1, scores.shape[1], -1).masked_fill(~against, -torch.inf)
    stages = field.logsumexp(-1) - scores
    counted = worse.any(-1)
    return (stages * counted).sum(1) / counted.sum(1).clamp(min=1)


def anchor(chosen_ratio: Float[Tensor, " batch"], *, beta: float) -> Float[Tensor, " batch"]:
    """mDPO's anchor, https://huggingface.co/papers/2406.11839: keeps the chosen answer's likelihood from falling."""
    return -F.logsigmoid(beta * chosen_ratio)


def video_conditional(
    chosen_ratio: Float[Tensor, " batch"], wrong_ratio: Float[Tensor, " batch"], *, beta: float
) -> Float[Tensor, " batch"]:
    """mDPO's conditional term: the chosen caption fits its own clip better than a wrong or shuffled one."""
    return -F.logsigmoid(beta * (chosen_ratio - wrong_ratio))


def sft(
    log_probs: Float[Tensor, "batch tokens"],
    mask: Bool[Tensor, "batch tokens"],
    *,
    num_items_in_batch: float | None = None,
) -> Float[Tensor, " batch"]:
    """Negative log-likelihood of the chosen answers, whose mean over the batch is TRL's token mean.

    `num_items_in_batch`, tokens of the whole accumulated batch over its number of clips, makes 1 x 8 equal 8 x 1.
    """
    per_clip = mask.sum() / len(mask) if num_items_in_batch is None else num_items_in_batch
    return -(log_probs.float() * mask).sum(-1) / per_clip


# ---- all together ---------------------------------------------------------------------------------------------------


def preference_loss(
    log_probs: Float[Tensor, "batch answers tokens"],
    ref_log_probs: Float[Tensor, "batch answers tokens"],
    mask: Bool[Tensor, "batch answers tokens"],
    *,
    types: Mapping[str, float],
    options: Options | None = None,
    ld_alpha: float | None = None,
    average_log_prob: bool = False,
    span_mask: Bool[Tensor, "batch answers tokens"] | None = None,
    span_weight: float = 1.0,
    rejected_weight: Float[Tensor, "batch k"] | None = None,
    grades: Int[Tensor, "batch answers"] | None = None,
    anchor_weight: float = 0.0,
    video_conditional_weight: float = 0.0,
    wrong_log_probs: Float[Tensor, "batch tokens"] | None = None,
    wrong_ref_log_probs: Float[Tensor, "batch tokens"] | None = None,
    num_items_in_batch: float | None = None,
) -> tuple[Float[Tensor, " batch"], dict[str, Tensor]]:
    """The weighted sum of `types` (name -> weight) and terms, per clip, and TRL's metrics; the loss is its mean.

    `wrong_*` are log-probs of the chosen answer under a wrong clip, for `video_conditional_weight`. Raises RecipeError
    for an unknown loss, or for token means taken twice.
    """
    options = options or Options()
    unknown = [name for name in types if name not in NAMES]
    if unknown:
        raise RecipeError(f"loss.types names {', '.join(unknown)}; known are {', '.join(NAMES)}.")
    twice = {"ipo", "sigmoid_norm"}.intersection(types)
    if average_log_prob and twice:
        raise RecipeError(f"loss.average_log_prob would take token means twice, for {', '.join(sorted(twice))} does.")
    token_options = {"ld_alpha": ld_alpha, "span_weight": span_weight, "average_log_prob": average_log_prob}
    pairs = pair_up(log_probs, ref_log_probs, mask, span_mask=span_mask, **token_options)
    weights = _pair_weights(pairs.mask, rejected_weight)
    loss = log_probs.new_zeros(len(mask), dtype=torch.float32)
    for name, weight in types.items():
        if name == "sft":
            value = sft(log_probs[:, 0], mask[:, 0], num_items_in_batch=num_items_in_batch)
        elif name == "softmax":
            relative = weights * pairs.mask.sum(1, keepdim=True)
            value = softmax(_delta(pairs, options), pairs.mask, beta=options.beta, weights=relative)
        elif name == "plackett_luce":
            value = _ranked(log_probs, ref_log_probs, mask, grades, options, span_mask, **token_options)
        else:
            value = (PAIRWISE[name](pairs, options) * weights).sum(1)
        loss = loss + weight * value
    if anchor_weight or video_conditional_weight:
        weighed = mask[:, 0].float()
        own = answer_log_probs(log_probs[:, 0] - ref_log_probs[:, 0], weighed, average_log_prob=average_log_prob)
        if anchor_weight:
            loss = loss + anchor_weight * anchor(own, beta=options.beta)
        if video_conditional_weight:
            other = answer_log_probs(wrong_log_probs - wrong_ref_log_probs, weighed, average_log_prob=average_log_prob)
            loss = loss + video_conditional_weight * video_conditional(own, other, beta=options.beta)
    return loss, metrics(pairs, options.beta)


def metrics(pairs: Pairs, beta: float) -> dict[str, Tensor]:
    """TRL's logged values, as scalars over all real pairs."""
    real = pairs.mask
    chosen, rejected = (beta * pairs.chosen_ratio)[real].detach(), (beta * pairs.rejected_ratio)[real].detach()
    return {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "rewards/accuracies": (chosen > rejected).float().mean(),
        "logps/chosen": pairs.chosen[real].detach().mean(),
        "logps/rejected": pairs.rejected[real].detach().mean(),
    }


def _pair_weights(
    mask: Bool[Tensor, "batch k"], rejected_weight: Float[Tensor, "batch k"] | None
) -> Float[Tensor, "batch k"]:
    """Weights of a clip's negatives, summing to 1 over the real ones."""
    weights = mask.float() if rejected_weight is None else rejected_weight.float() * mask
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-8)


def _ranked(log_probs, ref_log_probs, mask, grades, options, span_mask, *, ld_alpha, span_weight, average_log_prob):
    """Plackett-Luce over a clip's answers; the shared length of LD-DPO is that of the shortest."""
    lengths = mask.sum(-1)
    real = lengths > 0
    shortest = lengths.masked_fill(~real, torch.iinfo(lengths.dtype).max).min(1, keepdim=True).values
    shared = shortest.expand_as(lengths)
    weights = token_weights(mask, shared=shared, ld_alpha=ld_alpha, span_mask=span_mask, span_weight=span_weight)
    ratio = answer_log_probs(log_probs, weights, average_log_prob=average_log_prob) - answer_log_probs(
        ref_log_probs, weights, average_log_prob=average_log_prob
    )
    return plackett_luce(score(ratio, options), real, beta=options.beta, grades=grades)
