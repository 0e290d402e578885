"""Votes: agreement as published, careless people found, labels and tiers back in the pairs."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from data_synth import tiers, votes
from data_synth.errors import DataError
from data_synth.records import make_record, read_records, write_records

pytest.importorskip("krippendorff", reason="the optional package krippendorff is not installed")
pytest.importorskip("crowdkit", reason="the optional package crowd-kit is not installed")

NONE = math.nan
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section D: four observers, twelve units.
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
]


@pytest.mark.parametrize(("level", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level, value):
    assert votes.alpha(PUBLISHED, level) == pytest.approx(value, abs=6e-4)


def test_alpha_is_undefined_where_nothing_can_be_compared():
    assert math.isnan(votes.alpha([[1, NONE], [NONE, 2]], "nominal"))
    assert math.isnan(votes.alpha([[1, 1], [1, 1]], "nominal"))


def crowd(seed: int, items: int = 150, voters: int = 40, careless: float = 0.15, each: int = 6):
    """Votes where careless people draw at random and the others are right in 80 %; (votes, truth, careless voters)."""
    draw = np.random.default_rng(seed)
    labels = ["chosen", "rejected", "tie"]
    truth = {f"i{k}": labels[draw.choice(3, p=[0.6, 0.2, 0.2])] for k in range(items)}
    bad = {f"v{k:02d}" for k in draw.permutation(voters)[: round(careless * voters)]}
    cast = []
    for item, label in truth.items():
        for k in draw.permutation(voters)[:each]:
            voter = f"v{k:02d}"
            right = voter not in bad and draw.random() < 0.8
            cast.append(votes.Vote(item, voter, label if right else labels[draw.integers(3)]))
    return cast, truth, bad


@pytest.mark.parametrize("seed", [0, 1])
def test_careless_people_are_found(seed):
    cast, truth, bad = crowd(seed)
    found, reliability = votes.adjudicate(cast)
    assert roc_auc_score([name in bad for name in reliability], [-value for value in reliability.values()]) > 0.95
    right = np.mean([found[item].label == label for item, label in truth.items()])
    assert right > 0.9
    assert set(votes.careless(reliability)) <= bad


def test_unsure_and_skip_do_not_count():
    cast = [votes.Vote("a:0", "x", "chosen"), votes.Vote("a:0", "y", "unsure"), votes.Vote("b:0", "x", "skip")]
    found, _ = votes.adjudicate(cast)
    assert set(found) == {"a:0"} and found["a:0"].votes == 1


def test_unanimous_votes_agree_fully():
    cast = [votes.Vote(f"{k}", v, "chosen" if k % 2 else "tie") for k in range(6) for v in "xyz"]
    assert votes.agreement(cast) == {"nominal": 1.0, "ordinal": 1.0}
    assert votes.adjudicate([]) == ({}, {})


def pair(n: int, **columns):
    rejected = [("order_swap", f"Then {n}. A dog."), ("verbose", f"A dog {n}. Yes.")]
    edit = [{"operator": "order_swap"}, {"operator": "verbose"}]
    return make_record(
        "Describe.", f"A dog {n}.", rejected, source_id=f"{n}", operator="order_swap", edit=edit, **columns
    )


def test_labels_become_tiers_and_weights(tmp_path):
    write_records([pair(n, tier="silver") for n in range(4)], tmp_path, rows_per_shard=2)
    ids = [row["pair_id"] for row in read_records(tmp_path)]
    untouched = (tmp_path / "pairs-00001.parquet").read_bytes()
    sure = votes.Adjudicated("chosen", 0.97, 3, 1.0)
    found = {f"{ids[0]}:0": sure, f"{ids[0]}:1": sure, f"{ids[1]}:0": votes.Adjudicated("tie", 0.9, 3, 0.33)}
    assert votes.write_back(tmp_path, found) == {"gold": 2, "None": 1}
    rows = list(read_records(tmp_path))
    assert [row["tier"] for row in rows] == ["gold", "silver", "silver", "silver"]
    assert rows[0]["rejected_weight"] == [tiers.WEIGHTS["gold"]] * 2
    assert rows[1]["rejected_weight"] == [0.0, 1.0]
    assert rows[1]["scores"] == {"votes": [3, 0], "votes_chosen": [0.33, None], "votes_sure": [0.9, None]}
    assert (tmp_path / "pairs-00001.parquet").read_bytes() == untouched
    assert votes.read_adjudicated(tmp_path) == found


def test_votes_on_other_pairs_are_an_error(tmp_path):
    write_records([pair(0)], tmp_path)
    with pytest.raises(DataError, match="holds no answer absent:0"):
        votes.write_back(tmp_path, {"absent:0": votes.Adjudicated("chosen", 1.0, 2, 1.0)})


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (tiers.Evidence("constructed", 2, "chosen", 0.9), "gold"),
        (tiers.Evidence("constructed", 1, "chosen", 1.0), "silver"),
        (tiers.Evidence("constructed", 5, "chosen", 0.75), "silver"),
        (tiers.Evidence("constructed", 5, "chosen", 0.6), None),
        (tiers.Evidence("constructed", 5, "tie", 0.99), None),
        (tiers.Evidence("constructed", 5, "rejected", 0.99), None),
        (tiers.Evidence("constructed"), "silver"),
        (tiers.Evidence("sampled", margin=0.2), "silver"),
        (tiers.Evidence("sampled", margin=0.1), "bronze"),
        (tiers.Evidence("imported"), "bronze"),
    ],
)
def test_rules_of_the_tiers(evidence, expected):
    assert tiers.tier(evidence) == expected


def test_a_record_is_worth_what_its_worst_answer_is():
    assert tiers.worst(["gold", "bronze", None]) == "bronze"
    assert tiers.worst([None]) is None


def test_drawing_follows_the_weights_of_the_tiers():
    drawn = tiers.draw(["gold", "silver", "bronze", None], 70_000)
    share = np.bincount(drawn, minlength=4) / 70_000
    expected = np.array([2.0, 1.0, 0.5, 0.0]) / 3.5
    assert np.abs(share - expected).max() < 4 * math.sqrt(0.25 / 70_000)
    with pytest.raises(ValueError, match="nothing can be drawn"):
        tiers.draw([None], 1)


def test_adjudicated_file_is_plain_json(tmp_path):
    write_records([pair(0)], tmp_path)
    (row,) = read_records(tmp_path)
    votes.write_back(tmp_path, {f"{row['pair_id']}:0": votes.Adjudicated("chosen", 0.95, 2, 1.0)})
    assert json.loads((tmp_path / votes.ADJUDICATED_NAME).read_text())[f"{row['pair_id']}:0"]["label"] == "chosen"
