"""Losses of reward models as pure functions of scores, in fp32 (fp64 stays); every one is a mean over valid cells.

`mask` is True where a label exists, None means everywhere; what stands in other cells, NaN included, reaches neither
value nor gradient. No valid cell gives 0, which still has a graph. Means of unequal batches or processes must be
weighed by their numbers of valid cells. A wrong shape, dtype or value raises ValueError. Constants of the models
(margin, thresholds, cutpoints) broadcast, so an attribute may have its own.

Papers: Bradley & Terry 1952, Biometrika 39; Rao & Kupper 1967, JASA 62; Davidson 1970, JASA 65; Plackett 1975,
Applied Statistics 24; McCullagh 1980, JRSS B 42; NIMA, https://huggingface.co/papers/1709.05424; Llama 2,
https://huggingface.co/papers/2307.09288; Kendall & Gal 2017, https://huggingface.co/papers/1703.04977.

Deviations: strengths are exp(score), and the constants of ties are tensors, to be learned with the scores. `emd` is
the squared distance, for its root has no gradient at a perfect fit. `ranking` sums over its stages
(losses.plackett_luce takes their mean), so that it is a log-likelihood.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Cells = Float[Tensor, "*cells"]  # e.g. pairs x attributes
Bins = Float[Tensor, "*cells bins"]
Constant = Float[Tensor, "*#cells"]
Ties = Bool[Tensor, "*cells"]
Mask = Bool[Tensor, "*cells"] | None
Loss = Float[Tensor, ""]


# ---- pairs ----------------------------------------------------------------------------------------------------------


def bradley_terry(chosen: Cells, rejected: Cells, mask: Mask = None, margin: Constant | None = None) -> Loss:
    """-log sigmoid(chosen - rejected - margin), Llama 2's Eq. 2; no margin is Bradley & Terry's model."""
    margin = torch.zeros_like(chosen) if margin is None else _spread("bradley_terry", "margin", margin, chosen.shape)
    chosen, rejected, margin = _valid("bradley_terry", mask, chosen=chosen, rejected=rejected, margin=margin)
    return _mean(-F.logsigmoid(chosen - rejected - margin))


def rao_kupper(better: Cells, worse: Cells, tie: Ties, log_threshold: Constant, mask: Mask = None) -> Loss:
    """Bradley-Terry where differences below a threshold are ties; with d = better - worse and theta >= 1

        P(win) = sigmoid(d - log theta)
        P(tie) = (theta^2 - 1) sigmoid(d - log theta) sigmoid(-d - log theta)
               = sigmoid(d + log theta) - sigmoid(d - log theta)

    (Rao & Kupper 1967). `log_threshold` is log theta, e.g. softplus of a parameter; below 0 it raises, at 0 a tie is
    impossible and its loss infinite. In a tie `better` and `worse` may change places.
    """
    difference, tie, log_threshold = _compared("rao_kupper", mask, better, worse, tie, log_threshold=log_threshold)
    if not bool((log_threshold >= 0).all()):
        found = log_threshold.min().item()
        raise ValueError(f"rao_kupper: log_threshold is {found:.3g}, expected >= 0, e.g. softplus of a parameter.")
    # a gap of 0 has an infinite gradient, which times the 0 of torch.where would be NaN where nothing is tied
    gap = torch.where(tie, 2 * log_threshold, 1.0)
    between = _log_between(difference - log_threshold, difference + log_threshold, gap)
    return _mean(-torch.where(tie, between, F.logsigmoid(difference - log_threshold)))


def davidson(better: Cells, worse: Cells, tie: Ties, log_nu: Constant, mask: Mask = None) -> Loss:
    """Bradley-Terry with ties in proportion to the geometric mean of the strengths, p = exp(score):

        P(win) : P(loss) : P(tie) = p_better : p_worse : nu sqrt(p_better p_worse)

    (Davidson 1970), a softmax over d/2, -d/2 and log nu, d = better - worse. nu = 2 P(tie) / (1 - P(tie)) of equals.
    """
    difference, tie, log_nu = _compared("davidson", mask, better, worse, tie, log_nu=log_nu)
    logits = torch.stack([difference / 2, -difference / 2, log_nu])
    return _mean(logits.logsumexp(0) - torch.where(tie, logits[2], logits[0]))


# ---- single items ---------------------------------------------------------------------------------------------------


def regression(score: Cells, target: Cells, mask: Mask = None, delta: float | None = None) -> Loss:
    """Squared error e^2; with `delta` Huber's loss, e^2 / 2 up to |e| = delta and delta (|e| - delta / 2) beyond."""
    score, target = _valid("regression", mask, score=score, target=target)
    if delta is None:
        return _mean((score - target) ** 2)
    if not delta > 0:
        raise ValueError(f"regression: delta is {delta}, expected above 0, or None for the squared error.")
    return _mean(F.huber_loss(score, target, reduction="none", delta=delta))


def gaussian(score: Cells, log_variance: Cells, target: Cells, mask: Mask = None) -> Loss:
    """-log N(target; score, exp(log_variance)) without its constant: e^2 / (2 v) + log(v) / 2.

    Kendall & Gal 2017, Eq. 8: where labels are noisy the variance grows, and their errors weigh less.
    """
    score, spread, target = _valid("gaussian", mask, score=score, log_variance=log_variance, target=target)
    return _mean(((score - target) ** 2 * torch.exp(-spread) + spread) / 2)


def ordered_cutpoints(raw: Float[Tensor, "*shape cuts"]) -> Float[Tensor, "*shape cuts"]:
    """Increasing cutpoints from a free parameter: the first, then steps of softplus."""
    raw = _widen(raw)
    return torch.cat([raw[..., :1], F.softplus(raw[..., 1:])], -1).cumsum(-1)


def ordinal(
    score: Cells, level: Int[Tensor, "*cells"], cutpoints: Float[Tensor, "*#cells cuts"], mask: Mask = None
) -> Loss:
    """Cumulative logit (proportional odds), P(level <= k) = sigmoid(cutpoints[k] - score), McCullagh 1980.

    `level` is 0..cuts, 0 the worst; `cutpoints` must not decrease (`ordered_cutpoints`).
    """
    spread = _spread("ordinal", "cutpoints", cutpoints, (*score.shape, cutpoints.shape[-1]))
    score, level = _valid("ordinal", mask, score=score, level=level)
    (edges,) = _valid("ordinal", mask, vectors=True, cutpoints=spread)
    cuts = edges.shape[-1]
    if level.is_floating_point() or bool(((level < 0) | (level > cuts)).any()):
        raise ValueError(f"ordinal: level is {level.dtype}, {_range(level)}, expected integers from 0 to {cuts}.")
    if not bool((edges.diff(dim=-1) >= 0).all()):
        raise ValueError("ordinal: cutpoints decrease, expected an order, e.g. ordered_cutpoints of a parameter.")
    edges = F.pad(F.pad(edges, (1, 0), value=-torch.inf), (0, 1), value=torch.inf)
    low, high = (edges.gather(-1, level.long()[:, None] + upper).squeeze(-1) for upper in (0, 1))
    return _mean(-_log_between(low - score, high - score, high - low))


def distribution(logits: Bins, target: Bins, mask: Mask = None) -> Loss:
    """Cross-entropy -sum_k target_k log softmax(logits)_k to a label distribution, which must sum to 1."""
    logits, target = _labelled("distribution", mask, logits, target)
    return _mean(-(target * logits.log_softmax(-1)).sum(-1))


def emd(logits: Bins, target: Bins, mask: Mask = None) -> Loss:
    """Squared earth mover's distance between ordered bins: NIMA's Eq. 1 at r = 2, without its root

    mean_k (CDF_target(k) - CDF_softmax(logits)(k))^2; `target` must sum to 1.
    """
    logits, target = _labelled("emd", mask, logits, target)
    return _mean((logits.softmax(-1) - target).cumsum(-1).square().mean(-1))


# ---- lists and composition ------------------------------------------------------------------------------------------


def ranking(
    scores: Float[Tensor, "*lists items"],
    ranks: Int[Tensor, "*lists items"],
    mask: Bool[Tensor, "*lists items"] | None = None,
) -> Loss:
    """Plackett-Luce -log P(order) = sum_i log sum_{j not before i} exp(s_j - s_i) (Plackett 1975), mean over lists.

    The smallest rank is the best, and gaps are allowed; items outside of `mask` do not compete. Counted are lists of
    at least two valid items; two give `bradley_terry`. Ties raise: Plackett-Luce has none, but pairs do (`davidson`).
    """
    _same_shape("ranking", scores=scores, ranks=ranks)
    mask = _full_mask("ranking", mask, scores)
    scores = _widen(scores).masked_fill(~mask, 0.0)
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    together = mask[..., :, None] & mask[..., None, :]
    if bool((together & ~itself & (ranks[..., :, None] == ranks[..., None, :])).any()):
        raise ValueError("ranking: ranks has ties within a list, expected distinct ranks; compare pairs instead.")
    against = itself | (together & (ranks[..., None, :] > ranks[..., :, None]))
    stages = scores[..., None, :].masked_fill(~against, -torch.inf).logsumexp(-1) - scores
    return stages.sum() / (mask.sum(-1) > 1).sum().clamp(min=1)


def veto_gate(
    soft: Cells, veto_logit: Float[Tensor, "*cells vetoes"], mask: Bool[Tensor, "*cells vetoes"] | None = None
) -> Cells:
    """soft + sum_v log sigmoid(-veto_logit_v): the strength exp(soft) times the chance that nothing is vetoed.

    No loss, but a score for the losses above. Vetoes are taken as independent, and those outside of `mask` do not
    apply. An unlikely veto costs nothing, a likely one about its logit; so nothing soft makes up for a certain one.
    """
    if veto_logit.shape[:-1] != soft.shape:
        found, expected = tuple(veto_logit.shape), (*soft.shape, "vetoes")
        raise ValueError(f"veto_gate: veto_logit has shape {found}, expected {expected}.")
    mask = _full_mask("veto_gate", mask, veto_logit)
    passed = F.logsigmoid(-_widen(veto_logit).masked_fill(~mask, -torch.inf))
    return _widen(soft) + passed.sum(-1)


# ---- shared ---------------------------------------------------------------------------------------------------------


def _widen(values: Tensor) -> Tensor:
    """fp32: bf16 has 3 digits, fewer than most differences of scores need."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _same_shape(loss: str, **tensors: Tensor) -> None:
    shapes = {argument: tuple(tensor.shape) for argument, tensor in tensors.items()}
    first, expected = next(iter(shapes.items()))
    for argument, found in shapes.items():
        if found != expected:
            raise ValueError(f"{loss}: {argument} has shape {found}, expected {expected} like {first}.")


def _spread(loss: str, argument: str, constant: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`constant` expanded to `shape`."""
    pairs = zip(reversed(constant.shape), reversed(shape), strict=False)
    if constant.ndim > len(shape) or any(size not in (1, wanted) for size, wanted in pairs):
        found = tuple(constant.shape)
        raise ValueError(f"{loss}: {argument} has shape {found}, expected one that broadcasts to {tuple(shape)}.")
    return constant.expand(shape)


def _full_mask(loss: str, mask: Tensor | None, cells: Tensor) -> Tensor:
    if mask is None:
        return torch.ones_like(cells, dtype=torch.bool)
    found, expected = tuple(mask.shape), tuple(cells.shape)
    if mask.dtype != torch.bool or found != expected:  # integers would index instead of select
        raise ValueError(f"{loss}: mask is {mask.dtype} of shape {found}, expected torch.bool of shape {expected}.")
    return mask


def _valid(loss: str, mask: Tensor | None, *, vectors: bool = False, **tensors: Tensor) -> list[Tensor]:
    """The valid cells of `tensors`, [valid], or [valid, size] where each cell is a vector."""
    _same_shape(loss, **tensors)
    first = next(iter(tensors.values()))
    mask = _full_mask(loss, mask, first[..., 0] if vectors else first)
    return [_widen(tensor[mask]) for tensor in tensors.values()]


def _mean(values: Float[Tensor, " valid"]) -> Loss:
    return values.sum() / max(len(values), 1)


def _compared(loss: str, mask: Tensor | None, better: Tensor, worse: Tensor, tie: Tensor, **constant: Tensor):
    """(better - worse, tie, constant) of valid cells."""
    if tie.dtype != torch.bool:
        raise ValueError(f"{loss}: tie is {tie.dtype}, expected torch.bool.")
    spread = {name: _spread(loss, name, value, better.shape) for name, value in constant.items()}
    better, worse, tie, value = _valid(loss, mask, better=better, worse=worse, tie=tie, **spread)
    return better - worse, tie, value


def _labelled(loss: str, mask: Tensor | None, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(logits, target) of valid cells, [valid, bins]."""
    logits, target = _valid(loss, mask, vectors=True, logits=logits, target=target)
    shares = (target >= 0).all(-1) & ((target.sum(-1) - 1).abs() < 1e-2)  # bf16 labels are rounded
    if not bool(shares.all()):
        raise ValueError(f"{loss}: target sums to {_range(target.sum(-1))}, expected shares >= 0 that sum to 1.")
    return logits, target


def _range(values: Tensor) -> str:
    return f"{values.min().item():.4g} to {values.max().item():.4g}" if len(values) else "empty"


def _log_between(low: Tensor, high: Tensor, gap: Tensor) -> Tensor:
    """log(sigmoid(high) - sigmoid(low)) for gap = high - low > 0, without subtracting nearly equal numbers."""
    return F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(-gap))
