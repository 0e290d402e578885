"""The terms of a reward's loss: each equals its formula, missing labels and padding change nothing."""

import numpy as np
import pytest
import torch

from reward_models.vision.heads import Heads, Outputs, moderated
from rlkit.recipe import EncoderReward
from rlkit.rewards import loss
from rlkit.rewards.dataset import Collator
from rlkit.rewards.labels import Group, Item, Pair, Ranking

OUTPUTS = Outputs(("overall", "sharpness"), ("anatomy",), 3, 0, ("general", "portrait"), 8)
SETTINGS = EncoderReward(attributes=["sharpness"], vetoes=["anatomy"], bins=3)


@pytest.fixture
def judged():
    torch.manual_seed(0)
    heads = Heads(6, OUTPUTS)
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return heads(torch.randn(5, 6))


def batch_of(*groups):
    """Labels as the trainer gets them; the windows are not looked at here."""
    windows = lambda group: [(torch.zeros(1, 3, 2, 2), [0], [0.0]) for _ in group.items]  # noqa: E731
    return Collator(OUTPUTS)([(group, windows(group)) for group in groups])


def some(judged, start, stop):
    """What was said of items start to stop - 1."""
    return type(judged)(*(value[start:stop] if len(value) == 5 else value for value in vars(judged).values()))


LABELLED = Group(
    "a",
    (
        Item(None, {"sharpness": 0.8}, (0.1, 0.2, 0.7), {"anatomy": False}, "portrait"),
        Item(None, {}, None, {"anatomy": True}),
        Item(None, {"sharpness": 0.1, "overall": 0.4}, (1.0, 0.0, 0.0)),
    ),
    (Pair(0, 1), Pair(2, 0, "sharpness", margin=0.3), Pair(1, 2, tie=True)),
    (Ranking((2, 0, 1), "sharpness"),),
)
PLAIN = Group("b", (Item(None), Item(None)))


def test_pairs_are_bradley_terry_on_moderated_differences(judged):
    group = Group("a", LABELLED.items, LABELLED.pairs[:2])
    found = loss.pairs(judged, batch_of(group, PLAIN), EncoderReward(ties="none"))
    scale = judged.log_scale.exp()
    wanted = []
    for better, worse, attribute, margin in ((0, 1, 0, 0.0), (2, 0, 1, 0.3)):
        spread = scale[attribute] ** 2 * judged.log_variance[[better, worse], attribute].exp().sum()
        difference = scale[attribute] * (judged.scores[better, attribute] - judged.scores[worse, attribute])
        wanted.append(-torch.nn.functional.logsigmoid(difference * moderated(spread) - margin))
    torch.testing.assert_close(found, torch.stack(wanted).mean())


def test_ties_need_a_model_of_ties(judged):
    with pytest.raises(ValueError, match=r"reward\.ties"):
        loss.pairs(judged, batch_of(LABELLED, PLAIN), EncoderReward(ties="none"))
    one, other = (
        loss.pairs(judged, batch_of(LABELLED, PLAIN), EncoderReward(ties=t)) for t in ("rao_kupper", "davidson")
    )
    assert one.isfinite() and other.isfinite() and one != other


def test_each_term_is_the_mean_of_its_own_labels(judged):
    found = loss.terms(judged, batch_of(LABELLED, PLAIN), SETTINGS)
    errors = [
        ((judged.mean[row, a] - target) ** 2 * torch.exp(-judged.log_variance[row, a]) + judged.log_variance[row, a])
        / 2
        for row, a, target in ((0, 1, 0.8), (2, 1, 0.1), (2, 0, 0.4))
    ]
    torch.testing.assert_close(found["ratings"], torch.stack(errors).mean())
    logits = judged.veto[:2, 0]
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(found["veto"], wanted)
    torch.testing.assert_close(found["route"], -judged.route_logits[:1].log_softmax(-1)[0, 1])
    gaps = [
        (judged.distribution[row].exp().cumsum(0) - torch.tensor(cdf))
        for row, cdf in ((0, [0.1, 0.3, 1.0]), (2, [1.0] * 3))
    ]
    torch.testing.assert_close(found["distribution"], torch.stack(gaps).square().mean())
    scores = judged.log_scale[1].exp() * judged.mean[[2, 0, 1], 1]
    order = -sum(scores[k] - scores[k:].logsumexp(0) for k in range(3))
    torch.testing.assert_close(found["rankings"], order)
    assert loss.counts(batch_of(LABELLED, PLAIN)).tolist() == [3, 1, 3, 2, 2, 1]


def test_what_has_no_label_changes_no_term(judged):
    few = loss.terms(some(judged, 0, 3), batch_of(LABELLED), SETTINGS)
    more = loss.terms(judged, batch_of(LABELLED, PLAIN), SETTINGS)
    for name in loss.TERMS:
        torch.testing.assert_close(few[name], more[name])


def test_a_batch_without_labels_is_0_and_has_a_graph(judged):
    for name, value in loss.terms(some(judged, 0, 2), batch_of(PLAIN), SETTINGS).items():
        assert value == 0 and value.requires_grad, name


def test_every_weight_of_the_heads_has_a_gradient_whatever_the_labels():
    """Engines that share weights out wait for a gradient of each weight on every process."""
    heads = Heads(6, OUTPUTS)
    loss.everything(heads(torch.randn(5, 6), expert=torch.tensor([0, 1, -1, 0, 0]))).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in heads.parameters())


def test_terms_of_parts_weighed_by_their_counts_are_the_terms_of_the_whole(judged):
    other = Group("c", (Item(None, {"sharpness": 0.5}), Item(None, {"sharpness": 0.2})), (Pair(0, 1),))
    whole, counts = loss.terms(judged, batch_of(LABELLED, other), SETTINGS), loss.counts(batch_of(LABELLED, other))
    parts = [(some(judged, 0, 3), batch_of(LABELLED)), (some(judged, 3, 5), batch_of(other))]
    for number, name in enumerate(loss.TERMS):
        total = sum(loss.terms(j, b, SETTINGS)[name] * loss.counts(b)[number] for j, b in parts)
        torch.testing.assert_close((total / counts[number]).float(), whole[name], msg=name)


def test_grades_are_fitted_as_grades(judged):
    outputs = Outputs(("overall", "sharpness"), levels=4)
    heads = Heads(6, outputs)(torch.randn(3, 6))
    target = torch.tensor([[np.nan, 0.0], [np.nan, 3.0], [2.0, np.nan]])
    found = loss.ratings(heads, target, "ordinal")
    cuts = torch.log1p(torch.exp(torch.zeros(3))).cumsum(0) - torch.log(torch.tensor(2.0))  # 0, log 2, 2 log 2
    below = torch.sigmoid(cuts[None] - heads.mean[[0, 1, 2], [1, 1, 0]][:, None])
    share = torch.stack([below[0, 0], 1 - below[1, 2], below[2, 2] - below[2, 1]])
    torch.testing.assert_close(found, -share.log().mean())
