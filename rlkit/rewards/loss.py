"""The loss of a reward with heads: a weighted sum of terms, each a mean over the labels that are there.

`pairs` Bradley-Terry, or with ties Rao & Kupper's or Davidson's model, on differences moderated by their variance
(see reward_models/vision/heads.py), overall as limited by the vetoes; `rankings` Plackett-Luce; `ratings` a Gaussian
with its own variance, squared errors, or ordinal grades; `distribution` the squared earth mover's distance; `veto`
and `route` cross-entropies. rlkit/reward_losses.py has the formulas.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from reward_models.vision.heads import Judged, moderated
from rlkit import reward_losses as losses
from rlkit.recipe.schema import EncoderReward

TERMS = ("pairs", "rankings", "ratings", "distribution", "veto", "route")


def terms(judged: Judged, batch: Mapping[str, Tensor], settings: EncoderReward) -> dict[str, Tensor]:
    """Each term's mean over its labels in the batch; 0, with a graph, where it has none."""
    return {
        "pairs": pairs(judged, batch, settings),
        "rankings": rankings(judged, batch),
        "ratings": ratings(judged, batch["ratings"], settings.ratings),
        "distribution": losses.emd(judged.distribution, batch["distribution"], known(batch["distribution"]).all(-1))
        if judged.distribution.shape[-1]
        else judged.mean.sum() * 0,
        "veto": against_zero(judged.veto, batch["veto"]),
        "route": route(judged.route_logits, batch["expert"]),
    }


def counts(batch: Mapping[str, Tensor]) -> Tensor:
    """How many labels each term has, [terms] in the order of TERMS: means of batches are weighed by them."""
    bins = batch["distribution"]
    shares = known(bins).all(-1).sum() if bins.shape[-1] else torch.zeros((), device=bins.device)
    lists = (batch["ranking"] >= 0).sum(-1) > 1
    found = [len(batch["pair"]), lists.sum(), known(batch["ratings"]).sum(), shares]
    found += [known(batch["veto"]).sum(), (batch["expert"] >= 0).sum()]
    return torch.tensor([float(value) for value in found], dtype=torch.float64)


def everything(judged: Judged) -> Tensor:
    """A number that depends on every weight of the heads."""
    own = (judged.mean, judged.log_variance, judged.veto, judged.distribution, judged.route_logits)
    return sum(one.sum() for one in (*own, judged.log_scale, judged.tie, judged.raw_cutpoints))


def pairs(judged: Judged, batch: Mapping[str, Tensor], settings: EncoderReward) -> Tensor:
    """-log P(what people said of the pair)."""
    better, worse, attribute = batch["pair"].unbind(1)
    (one, spread), (other, wide) = (in_logits(judged, at, attribute) for at in (better, worse))
    factor = moderated(spread + wide)
    one, other, tie = one * factor, other * factor, judged.tie[attribute]
    if settings.ties == "none":
        if bool(batch["tie"].any()):
            raise ValueError("there are ties among the pairs; set reward.ties to rao_kupper or davidson.")
        return losses.bradley_terry(one, other, margin=batch["margin"])
    one = one - batch["margin"]
    if settings.ties == "davidson":
        return losses.davidson(one, other, batch["tie"], tie)
    return losses.rao_kupper(one, other, batch["tie"], torch.nn.functional.softplus(tie))


def rankings(judged: Judged, batch: Mapping[str, Tensor]) -> Tensor:
    """-log P(order) of every ranking."""
    place = batch["ranking"]
    attribute = batch["ranking_attribute"][:, None].expand_as(place)
    score, _ = in_logits(judged, place.clamp(min=0), attribute)
    order = torch.arange(place.shape[1], device=place.device).expand_as(place)
    return losses.ranking(score, order, place >= 0)


def ratings(judged: Judged, target: Tensor, kind: str) -> Tensor:
    """The error of the attributes. `ordinal` reads grades, the others numbers on a scale of their own."""
    mask = known(target)
    if kind == "gaussian":
        return losses.gaussian(judged.mean, judged.log_variance, target, mask)
    if kind == "regression":
        return losses.regression(judged.mean, target, mask)
    cuts = losses.ordered_cutpoints(judged.raw_cutpoints)
    return losses.ordinal(judged.mean, target.nan_to_num().long(), cuts, mask)


def route(logits: Tensor, expert: Tensor) -> Tensor:
    """Cross-entropy of the router where the kind is known."""
    one = torch.nn.functional.one_hot(expert.clamp(min=0), logits.shape[-1]).to(logits.dtype)
    return losses.distribution(logits, one, expert >= 0)


def against_zero(logit: Tensor, said: Tensor) -> Tensor:
    """Binary cross-entropy, which is Bradley-Terry against an opponent of strength 0."""
    zero = torch.zeros_like(logit)
    return losses.bradley_terry(
        torch.where(said == 1, logit, zero), torch.where(said == 1, zero, logit), mask=known(said)
    )


def in_logits(judged: Judged, item: Tensor, attribute: Tensor) -> tuple[Tensor, Tensor]:
    """Score and variance of some items' attributes in the units of pairs."""
    scale = judged.log_scale[attribute]
    return judged.scores[item, attribute] * scale.exp(), (judged.log_variance[item, attribute] + 2 * scale).exp()


def known(labels: Tensor) -> Tensor:
    """Where there is a label."""
    return ~labels.isnan()
