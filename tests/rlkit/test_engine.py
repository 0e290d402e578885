"""The diffusion loop's own parts: state as safetensors and JSON, steps without a finite gradient, seeds."""

import dataclasses
import json

import pytest
import torch

pytest.importorskip("diffusers")

from rlkit import engine
from rlkit.errors import ModelError
from rlkit.muon import MuonWithAdamW
from rlkit.recipe import Recipe, Train

SETTINGS = Train(learning_rate=0.1, max_steps=4, lr_scheduler_type="constant", gradient_accumulation_steps=2)


class Weights:
    """As much of a Generator as the loop touches."""

    keep = ()

    def __init__(self):
        self.denoiser = torch.nn.Linear(2, 1)
        with torch.no_grad():
            self.denoiser.weight.fill_(1.0)
            self.denoiser.bias.zero_()

    def parameters(self):
        return list(self.denoiser.parameters())


def loop(weights, settings=SETTINGS):
    return engine.Loop(weights, Recipe(algorithm="nft", train=settings), None)


def stepped(kind, steps):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    optimizer = kind(model)
    for _ in range(steps):
        model(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize(
    "kind",
    [
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.9, 0.95)),
        lambda model: MuonWithAdamW(model, lr=0.1, weight_decay=0.0, betas=(0.9, 0.95)),
    ],
)
def test_an_optimiser_comes_back_whole_through_json(kind):
    model, optimizer = stepped(kind, 2)
    tensors = {}
    text = json.dumps(engine.pack(optimizer.state_dict(), tensors, "state"))
    again, restored = stepped(kind, 0)
    again.load_state_dict(model.state_dict())
    restored.load_state_dict(engine.unpack(json.loads(text), tensors))
    for one, two in ((model, optimizer), (again, restored)):
        one(torch.ones(2, 3)).square().sum().backward()
        two.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_what_a_checkpoint_cannot_hold_is_named():
    with pytest.raises(TypeError, match=r"state\.inner is a set"):
        engine.pack({"inner": {1}}, {}, "state")


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_a_step_is_the_mean_of_its_micro_batches_clipped(max_grad_norm):
    weights, rows = Weights(), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    training = loop(weights, dataclasses.replace(SETTINGS, max_grad_norm=max_grad_norm))
    training.optimizer = torch.optim.SGD(weights.parameters(), lr=1.0)
    training.take((weights.denoiser(row[None]).sum(), {}) for row in rows)
    gradient = torch.cat([rows.mean(0), torch.ones(1)])  # of weight and bias
    if max_grad_norm:
        gradient = gradient / gradient.norm()
    assert torch.allclose(weights.denoiser.weight[0], 1 - gradient[:2], atol=1e-5)
    assert training.means()["grad_norm"] == pytest.approx(torch.cat([rows.mean(0), torch.ones(1)]).norm().item())


def test_a_step_without_a_finite_gradient_is_left_out_and_counted():
    weights = Weights()
    before = weights.denoiser.weight.clone()
    training = loop(weights)
    training.take(iter([(weights.denoiser(torch.full((1, 2), torch.nan)).sum(), {})]))
    assert torch.equal(weights.denoiser.weight, before) and training.step == 1
    found = training.means()
    assert found["skipped_steps"] == 1.0 and "loss" not in found
    training.take(iter([(weights.denoiser(torch.ones(1, 2)).sum(), {})]))
    assert not torch.equal(weights.denoiser.weight, before) and training.means()["skipped_steps"] == 0.0


def test_ten_steps_without_a_finite_gradient_end_training():
    weights = Weights()
    training = loop(weights)
    before = weights.denoiser.weight.clone()

    def bad():
        yield weights.denoiser(torch.full((1, 2), torch.nan)).sum(), {}

    for _ in range(engine.MOST_SKIPPED - 1):
        training.take(bad())
    with pytest.raises(ModelError, match="step 10: the gradient is not finite for 10 steps running"):
        training.take(bad())
    assert torch.equal(weights.denoiser.weight, before)


def test_a_good_step_between_bad_ones_is_a_new_start():
    weights = Weights()
    training = loop(weights)
    for number in range(2 * engine.MOST_SKIPPED):
        value = 1.0 if number % 9 == 8 else torch.nan
        training.take((weights.denoiser(torch.full((1, 2), one)).sum(), {}) for one in (value,))
    assert training.step == 2 * engine.MOST_SKIPPED


def test_seeds_differ_by_every_part_and_fit_torch():
    seeds = {engine.seed_of(0, "nft", step, part) for step in range(20) for part in range(5)}
    assert len(seeds) == 100 and all(0 <= one < 2**63 for one in seeds)
    assert engine.seed_of(0, 1) != engine.seed_of(1, 0)
