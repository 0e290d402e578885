"""Fitted to simulated comparisons, the losses with ties recover the planted scores and the planted constant."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from rlkit import reward_losses as losses


def compare(items, comparisons, constant, model, seed):
    """Planted scores and outcomes drawn from the model's textbook probabilities: (scores, better, worse, tie)."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(np.linspace(-3, 3, items))
    first = rng.integers(0, items, comparisons)
    second = (first + rng.integers(1, items, comparisons)) % items
    strong, weak = np.exp(scores[first]), np.exp(scores[second])
    if model == "rao_kupper":
        win, lose = strong / (strong + constant * weak), weak / (weak + constant * strong)
    else:
        total = strong + weak + constant * np.sqrt(strong * weak)
        win, lose = strong / total, weak / total
    # equidistributed among similar differences; with independent draws the constant has a standard error of 3 to 4 %
    draw = np.empty(comparisons)
    draw[np.argsort(strong / weak)] = (rng.random() + np.arange(comparisons) * (math.sqrt(5) - 1) / 2) % 1
    lost = (draw >= win) & (draw < win + lose)
    better, worse = np.where(lost, second, first), np.where(lost, first, second)
    return scores, *(torch.from_numpy(values) for values in (better, worse, draw >= win + lose))


@pytest.mark.parametrize(("model", "log_constant"), [("rao_kupper", 0.8), ("davidson", math.log(1.5))])
def test_a_fit_recovers_planted_scores_and_constant(model, log_constant):
    planted, better, worse, tie = compare(40, 4000, math.exp(log_constant), model, seed=0)
    scores = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    raw = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scores, raw], max_iter=200, line_search_fn="strong_wolfe")

    def constant():
        return torch.nn.functional.softplus(raw) if model == "rao_kupper" else raw

    def closure():
        optimizer.zero_grad()
        loss = getattr(losses, model)(scores[better], scores[worse], tie, constant())
        loss.backward()
        return loss

    optimizer.step(closure)
    assert scores.grad.abs().max() < 1e-4
    assert spearmanr(scores.detach().numpy(), planted).statistic > 0.97
    found = constant().item()
    if model == "davidson":
        found, log_constant = math.exp(found), math.exp(log_constant)
    assert found == pytest.approx(log_constant, rel=0.05)
