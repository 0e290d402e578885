"""Files of labels: what is read, what is set aside with its reason, and how the gallery's rows become pairs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from reward_models.vision.heads import Outputs
from rlkit.errors import DataError
from rlkit.rewards import gallery
from rlkit.rewards.dataset import Collator
from rlkit.rewards.held_out import split
from rlkit.rewards.labels import Group, Item, Pair, Ranking, read_labels

OUTPUTS = Outputs(("overall", "sharpness"), ("anatomy",), 2, 0, ("general", "portrait"))
GOOD = {
    "group": "p1",
    "items": [
        {"image": "a.png", "ratings": {"sharpness": 0.8}, "veto": {"anatomy": False}, "distribution": [0.5, 0.5]},
        {"image": "b.png", "kind": "portrait", "face": [0.1, 0.2, 0.5, 0.6], "ratings": {"sharpness": None}},
    ],
    "pairs": [{"better": 0, "worse": 1, "attribute": "sharpness"}, {"better": 1, "worse": 0, "tie": True}],
    "rankings": [{"order": [1, 0]}],
}


@pytest.fixture
def written(tmp_path):
    """rows or lines -> labels.jsonl in a folder with two pictures."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / name)

    def write(*lines):
        text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
        (tmp_path / "labels.jsonl").write_text(text, encoding="utf-8")
        return tmp_path / "labels.jsonl"

    return write


def test_a_group_is_read_and_a_missing_label_is_none(written):
    (group,), rejected = read_labels(written(GOOD), OUTPUTS)
    assert not rejected and group.name == "p1"
    assert group.items[0].frames(1).shape == (8, 9, 3)
    assert group.items[1].ratings == {} and group.items[1].distribution is None and group.items[1].face[3] == 0.6
    assert group.pairs == (Pair(0, 1, "sharpness"), Pair(1, 0, tie=True)) and group.rankings == (Ranking((1, 0)),)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pairs": [{"better": 0, "worse": 2}]}, "names item 2; there are items 0 to 1"),
        ({"pairs": [{"better": 0, "worse": 0}]}, "compared with itself"),
        ({"pairs": [{"better": 0}]}, "worse"),
        ({"rankings": [{"order": [0, 0]}]}, "compared with itself"),
        ({"pairs": [{"better": 0, "worse": 1, "attribute": "beauty"}]}, "'beauty' is no attribute"),
        ({"items": [{"image": "none.png"}]}, "no file"),
        ({"items": [{"picture": "a.png"}]}, "'video' is missing"),
        ({"items": [{"image": "a.png", "distribution": [0.5, 0.6]}]}, "shares that sum to 1"),
        ({"items": [{"image": "a.png", "kind": "animal"}]}, "'animal' is no attribute, veto or expert"),
        ({"items": [{"image": "a.png", "face": [10, 20, 30, 40]}]}, "shares of width and height"),
    ],
)
def test_a_bad_line_is_set_aside_with_its_reason(written, change, reason):
    found, rejected = read_labels(written(GOOD, {**GOOD, "pairs": [], "rankings": [], **change}, "{half"), OUTPUTS)
    assert len(found) == 1 and [one["line"] for one in rejected] == [2, 3]
    assert reason in rejected[0]["reason"]


def test_a_file_without_a_usable_line_says_why(written, tmp_path):
    with pytest.raises(DataError, match=r"no usable group in 1 lines\. First: line 1"):
        read_labels(written("{half"), OUTPUTS)
    with pytest.raises(DataError, match="no file"):
        read_labels(tmp_path / "other.jsonl", OUTPUTS)


def test_ratings_of_other_grades_are_refused(written):
    graded = Outputs(("overall", "sharpness"), ("anatomy",), 2, 5, ("general", "portrait"))
    with pytest.raises(DataError, match="grades 0 to 4"):
        read_labels(written(GOOD), graded)


def test_batches_keep_places_across_groups():
    windows = [(torch.zeros(1, 3, 2, 2), [0], [0.0])] * 2
    group = Group("a", (Item(None), Item(None, {"sharpness": 0.5})), (Pair(0, 1),), (Ranking((1, 0), "sharpness"),))
    longer = Group("b", (Item(None), Item(None), Item(None)), (), (Ranking((2, 0, 1)),))
    batch = Collator(OUTPUTS)([(group, windows), (longer, windows + windows[:1]), (group, windows)])
    assert batch["pair"].tolist() == [[0, 1, 0], [5, 6, 0]]
    assert batch["ranking"].tolist() == [[1, 0, -1], [4, 2, 3], [6, 5, -1]]
    assert batch["ranking_attribute"].tolist() == [1, 0, 1]
    assert batch["ratings"].isnan().sum() == 12 and batch["expert"].tolist() == [-1] * 7


def labels(**changes):
    ratings = dict.fromkeys(("composition", "exposure", "colour", "sharpness", "artefacts"), 1.0)
    anatomy, picture = changes.pop("anatomy", None), changes.pop("picture", 0)
    return {"picture": picture, "ratings": ratings | changes, "veto": {"anatomy": anatomy, "artefact": None}}


def test_versions_are_compared_where_their_labels_decide():
    clean, blurred, worse, cast = labels(), labels(sharpness=0.7), labels(sharpness=0.2), labels(colour=0.5)
    assert gallery.compared([clean, blurred, worse, cast, clean]) == (
        Pair(0, 1), Pair(0, 2), Pair(0, 3), Pair(0, 4, tie=True), Pair(1, 2), Pair(4, 1), Pair(4, 2), Pair(4, 3),
    )  # fmt: skip
    assert gallery.verdict(clean, labels(artefacts=None)) is None  # a smoothed cartoon: nobody says
    assert gallery.verdict(labels(anatomy=True), labels(anatomy=False)) == -1
    assert gallery.verdict(labels(anatomy=True), labels(anatomy=False, colour=0.5)) is None


def test_two_pictures_are_compared_but_never_called_equal():
    photo, smooth, cartoon = labels(), labels(artefacts=0.5), labels(picture=1)
    assert gallery.compared([photo, smooth, cartoon]) == (Pair(0, 1), Pair(2, 1))


def test_every_cartoon_stands_beside_a_photo():
    pictures = [[({"style": style, "picture": at}, at)] for at, style in enumerate(("cartoon", "photo", None, "photo"))]
    assert [[item for _, item in one] for one in gallery.beside(pictures)] == [[1, 0], [2], [3]]
    assert [[item for _, item in one] for one in gallery.beside(pictures[:1] * 2)] == [[0], [0]]


def test_groups_are_held_out_whole_and_at_most_so_many():
    groups = [Group(str(k), ()) for k in range(103)]
    for count, kept in ((10, 9), (100, 20), (0, 0)):
        train, rest = split(groups, count)
        assert len(rest) == kept and not {g.name for g in train} & {g.name for g in rest}
        assert len(train) + len(rest) == 103
