"""What is near what: copies of originals and near-duplicates among pictures, by their places in a space."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from rlkit.generators.bootstrap.rounds import likeness_of, twins
from rlkit.generators.bootstrap.space import distances


@dataclass
class Line:
    """A space of one dimension, with originals at two places."""

    originals: np.ndarray = field(default_factory=lambda: np.array([[0.0], [100.0]]))

    def nearest(self, points):
        apart = distances(points, self.originals)
        return apart.argmin(1), apart.min(1)


def placed(*places):
    return np.array(places, float)[:, None]


def test_copies_are_what_lies_near_an_original():
    found = likeness_of(placed(0.5, 20, 60, 99.5), Line(), near=1.0, clusters=2, seed=0)
    assert [one.copy for one in found] == [True, False, False, True]
    assert [one.original for one in found] == [0, 0, 1, 1]
    assert found[1].distance == pytest.approx(20.0)
    assert found[0].cluster == found[1].cluster != found[2].cluster == found[3].cluster


def test_a_near_duplicate_is_named_and_what_is_apart_is_none():
    refused = twins(placed(20, 20.5, 22, 60), 1.0)
    assert refused(0, []) is None
    assert refused(1, [3, 0]) == "a near-duplicate of sample 0"
    assert refused(2, [3, 0]) is None
