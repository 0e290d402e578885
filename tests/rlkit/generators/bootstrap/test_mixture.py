"""What a round trains on: a fixed share of originals in every batch, as many of the base model's, the weighed loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlkit.generators.bootstrap import mixture
from rlkit.generators.bootstrap.mixture import Mixture
from rlkit.generators.pool import Pool
from rlkit.recipe import Recipe
from rlkit.recipe.schema import Train
from rlkit.recipe.sections_bootstrap import Bootstrap


def flat(value, count, prompt):
    """Pictures whose every pixel is `value`, of 0 to 255."""
    return Pool([np.full((4, 4, 3), value, np.uint8)] * count, [prompt] * count)


@pytest.fixture
def make(monkeypatch):
    """(real, kept, prior, options) -> a Mixture whose error of a picture is its mean pixel, and the prompts it used."""
    used = []

    def embeddings(prompts):
        used.append(list(prompts))
        return {}

    monkeypatch.setattr(mixture.denoising, "errors", lambda _, x0, *__: x0.flatten(1).mean(1))
    family = SimpleNamespace(encode_images=lambda _, pixels: pixels)
    generator = SimpleNamespace(device="cpu", family=family, pipe=None)

    def build(real, kept, prior, *, real_share=0.25, weight=1.0, size=8):
        recipe = Recipe(train=Train(per_device_train_batch_size=size), bootstrap=Bootstrap(prior_loss_weight=weight))
        session = SimpleNamespace(recipe=recipe, generator=generator, embeddings=embeddings)
        return Mixture(session, real, kept, prior, real_share=real_share), used

    return build


REAL, KEPT, PRIOR, NONE = flat(255, 3, "x real"), flat(0, 5, "x kept"), flat(51, 4, "prior"), Pool([], [])


def test_every_batch_has_its_share_of_originals_and_as_many_of_the_base_model(make):
    trains, used = make(REAL, KEPT, PRIOR)
    for step in range(5):
        list(trains.losses(step))
    assert [(one.count("x real"), one.count("x kept"), one.count("prior")) for one in used] == [(2, 6, 8)] * 5
    assert trains.forward_passes == 5 * 2 * 16


@pytest.mark.parametrize(("share", "originals"), [(0.0, 0), (0.01, 1), (0.3, 3), (1.0, 8)])
def test_the_share_is_a_least_one(make, share, originals):
    trains, _ = make(REAL, KEPT, NONE, real_share=share)
    assert trains.sizes == {"real": originals, "kept": 8 - originals, "prior": 0}


def test_where_nothing_is_kept_all_are_originals(make):
    assert make(REAL, NONE, PRIOR)[0].sizes == {"real": 8, "kept": 0, "prior": 8}


def test_the_loss_is_that_of_the_pictures_and_the_weighed_one_of_the_prior(make):
    """Pixels 255, 0 and 51 are 1, -1 and -0.6 as the model sees them."""
    trains, _ = make(REAL, KEPT, PRIOR, weight=0.5)
    ((loss, metrics),) = trains.losses(0)
    assert loss.item() == pytest.approx((2 * 1.0 + 6 * -1.0) / 8 + 0.5 * -0.6)
    assert metrics == {"loss/pictures": pytest.approx(-0.5), "loss/prior": pytest.approx(-0.6)}


def test_a_step_follows_from_its_number_alone(make):
    pools = [Pool([np.full((4, 4, 3), 9 * at + add, np.uint8) for at in range(20)], [""] * 20) for add in (0, 3, 6)]
    one, _ = make(*pools)
    losses = [next(one.losses(step))[0] for step in range(3)]
    again, _ = make(*pools)
    assert torch.equal(next(again.losses(2))[0], losses[2]) and losses[0] != losses[1]
