from itertools import groupby

import numpy as np

from rlkit.rewards.gallery import compared, training_rows

SEED, SIZE = 7, 48


def same(one, two):
    return np.array_equal(one["image"], two["image"]) and one["ratings"] == two["ratings"]


def test_any_number_of_workers_draws_the_same_rows():
    alone, together = (list(training_rows(2, seed=SEED, size=SIZE, workers=n)) for n in (1, 2))
    assert len(alone) == len(together) > 8
    assert all(same(*rows) for rows in zip(alone, together, strict=True))


def test_every_fault_is_worse_than_its_picture_as_the_camera_took_it():
    rows = list(training_rows(2, seed=SEED, size=SIZE))
    for _, of_picture in groupby(rows, key=lambda row: row["picture"]):
        versions = list(of_picture)
        spoilt = [at for at, row in enumerate(versions) if row["degradation"] is not None and row["style"] == "photo"]
        told = compared(versions)
        better = {(pair.better, pair.worse) for pair in told if not pair.tie}
        assert versions[0]["degradation"] is None
        assert {(0, at) for at in spoilt} <= better
        assert all(versions[at]["image"].shape == versions[0]["image"].shape for at in spoilt)
