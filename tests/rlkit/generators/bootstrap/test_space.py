"""What is near: altered copies against other pictures of the look, and the number of different pictures in a set."""

import numpy as np
import pytest

from data_synth.world import look, pictures
from rlkit.generators.bootstrap.space import Space, measured, vendi


@pytest.fixture(scope="module")
def seen():
    """(ten originals, pictures of the base model's kind), measured."""
    base = [pictures.render(one, at) for at, one in enumerate(pictures.drawn(40, seed=5))]
    return measured([look.render(one, 0) for one in look.few()]), measured(base)


@pytest.fixture(scope="module")
def space(seen):
    return Space(*seen)


def test_altered_copies_lie_below_a_quarter_of_the_usual_distance_and_new_pictures_above(space):
    originals = [look.render(one, 0) for one in look.few()]
    altered = [np.roll(one, 1, 1) for one in originals]
    altered += [np.clip(one * 1.04, 0, 255).astype(np.uint8) for one in originals]
    number, apart = space.nearest(space(measured(altered)))
    assert (apart < 0.25 * space.usual).all() and (number == np.tile(np.arange(10), 2)).all()
    shown = {(one.colour, one.shape, one.count) for one in look.few()}
    new = [one for one in pictures.drawn(60, split="test", seed=9) if (one.colour, one.shape, one.count) not in shown]
    _, apart = space.nearest(space(measured([look.render(one, 3) for one in new])))
    assert len(new) > 30 and (apart > 0.25 * space.usual).all()


def test_an_original_is_at_distance_zero_of_itself(space, seen):
    number, apart = space.nearest(space(seen[0]))
    assert (number == np.arange(10)).all() and apart.max() < 1e-9


@pytest.mark.parametrize(("groups", "each"), [(1, 12), (3, 4), (12, 1)])
def test_vendi_counts_groups_that_have_nothing_in_common(groups, each):
    """n / g equal points in g far groups: the eigenvalues are 1 / g, g times, so exp(entropy) is g."""
    points = np.repeat(1000.0 * np.arange(groups)[:, None], each, 0)
    assert vendi(points, 1.0) == pytest.approx(groups, rel=1e-6)


def test_vendi_of_two_points_is_that_of_the_formula():
    kernel = np.exp(-0.5 * 0.7**2)
    share = np.array([1 + kernel, 1 - kernel]) / 2
    assert vendi(np.array([[0.0], [0.7]]), 1.0) == pytest.approx(np.exp(-(share * np.log(share)).sum()))


def test_small_pictures_are_measured_too():
    small = [look.render(one, 0, 16) for one in look.few(4)]
    assert all(np.isfinite(numbers).all() and len(numbers) == 4 for numbers in measured(small).values())
