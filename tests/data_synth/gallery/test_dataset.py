"""Rows, pairs and folders of rated pictures."""

import json
import re
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_synth.errors import DataError
from data_synth.gallery import dataset
from data_synth.gallery.degrade import ATTRIBUTES, DEGRADATIONS, PHOTO_ONLY, visible
from data_synth.gallery.scenes import render

SIZE = 64
KEYS = {"image", "picture", "style", "kind", "face", "degradation", "strength", "ratings", "distribution", "veto"}


@pytest.fixture(scope="module")
def rows():
    return list(dataset.rows(12, seed=3, size=SIZE))


def test_rows_are_clean_first_then_spoilt_by_every_strength(rows):
    groups = Counter(row["picture"] for row in rows)
    assert sorted(groups) == [3_000_000 + k for k in range(12)] and set(groups.values()) == {1 + 4 * 4}
    for row in rows:
        assert set(row) == KEYS and set(row["ratings"]) == set(ATTRIBUTES)
        assert row["image"].shape == (SIZE, SIZE, 3) and row["image"].dtype == np.uint8
        if row["degradation"] is None:
            assert row["strength"] == 0 and set(row["ratings"].values()) == {1.0} and row["veto"]["artefact"] is False


def test_a_rating_falls_with_strength_in_its_attribute_alone(rows):
    for row in rows:
        name = row["degradation"]
        if name is None or (row["style"] == "cartoon" and name in PHOTO_ONLY):
            continue
        expected = dict.fromkeys(ATTRIBUTES, 1.0) | {DEGRADATIONS[name].attribute: 1 - row["strength"]}
        assert row["ratings"] == expected


def test_smoothness_never_lowers_a_cartoons_rating():
    seen = Counter()
    for seed in range(12):
        scene = render(seed, size=SIZE, style="cartoon")
        for name in PHOTO_ONLY:
            row = dataset.spoilt(scene, seed, name, 1.0)
            assert row["ratings"]["artefacts"] in (1.0, None) and row["veto"]["artefact"] in (False, None)
            assert {value for key, value in row["ratings"].items() if key != "artefacts"} == {1.0}
            seen[row["ratings"]["artefacts"]] += 1
    assert seen[None]


def test_the_distribution_sums_to_one_and_its_mean_follows_the_quality():
    means = [np.dot(dataset.distribution(quality), range(1, 6)) for quality in (0.0, 0.5, 1.0)]
    assert all(sum(dataset.distribution(q)) == pytest.approx(1) for q in (0.0, 0.3, 1.0))
    assert means == pytest.approx([1.2, 2.9, 4.6], abs=0.35) and means[0] < means[1] < means[2]


def test_wrong_anatomy_lowers_the_overall_rating():
    right, wrong = (dataset.row(render(4, size=SIZE, subject="hand", wrong=w), 4) for w in (False, True))
    mean = [np.dot(one["distribution"], range(1, 6)) for one in (right, wrong)]
    assert mean[0] > mean[1] + 0.5
    assert right["veto"]["anatomy"] is False and wrong["veto"]["anatomy"] is True
    assert dataset.row(render(4, size=SIZE, subject="flower"), 4)["veto"]["anatomy"] is None


def test_what_only_generated_photos_have_is_a_veto_when_strong():
    scene = render(1, size=SIZE, style="photo", subject="landscape")
    found = {s: dataset.spoilt(scene, 1, "grid", s)["veto"]["artefact"] for s in (0.25, 0.5, 0.75, 1.0)}
    assert found == {0.25: None, 0.5: None, 0.75: True, 1.0: True}
    assert dataset.spoilt(scene, 1, "noise", 1.0)["veto"]["artefact"] is False


def test_faults_that_do_not_show_are_not_claimed(rows):
    clean = {row["picture"]: row for row in rows if row["degradation"] is None}
    for row in rows:
        smooth = row["style"] == "cartoon" and row["degradation"] in PHOTO_ONLY
        if row["degradation"] and not smooth:
            assert visible(clean[row["picture"]]["image"], row["image"]), (row["picture"], row["degradation"])


def test_composition_is_not_spoilt_where_it_does_not_show():
    for seed in range(300):
        scene = render(seed, size=32)
        if scene.subject in dataset.NO_UPRIGHT and scene.style == "photo":
            names = dataset._drawn(scene, seed, None, 0.25)
            assert "composition" not in names and len(names) > 8
            return
    raise AssertionError("no picture seen from above among 300")


def test_pairs_are_ordered_by_what_was_done_to_them():
    pairs, kinds = list(dataset.pairs(30, seed=5, size=SIZE)), Counter()
    for pair in pairs:
        chosen, rejected = pair["chosen"], pair["rejected"]
        assert chosen["picture"] == rejected["picture"]
        kinds["tie" if pair["tie"] else "anatomy" if pair["attribute"] == "anatomy" else "fault"] += 1
        if pair["tie"]:
            assert pair["margin"] == 0 and pair["attribute"] is None
        elif pair["attribute"] == "anatomy":
            assert (chosen["veto"]["anatomy"], rejected["veto"]["anatomy"]) == (False, True)
        else:
            gap = chosen["ratings"][pair["attribute"]] - rejected["ratings"][pair["attribute"]]
            assert pair["margin"] == pytest.approx(gap) and gap > 0
            assert all(rejected["ratings"][a] == chosen["ratings"][a] for a in ATTRIBUTES if a != pair["attribute"])
    assert min(kinds[k] for k in ("tie", "anatomy", "fault")) >= 5
    clean = sum(pair["chosen"]["degradation"] is None and not pair["tie"] for pair in pairs)
    assert 0.4 < clean / (len(pairs) - kinds["tie"]) < 0.7


def test_a_mirrored_face_keeps_its_box():
    for pair in dataset.pairs(60, seed=6, size=SIZE, degradations=0):
        face, other = pair["chosen"]["face"], pair["rejected"]["face"]
        if pair["degradation"] == "mirror" and face:
            assert face[0] + other[2] == pytest.approx(1) and face[1::2] == other[1::2]
            assert np.array_equal(pair["chosen"]["image"], pair["rejected"]["image"][:, ::-1])
            return
    raise AssertionError("no mirrored portrait among 60 pictures")


def test_a_gallery_comes_back_as_it_was_written(rows, tmp_path):
    some = rows[:20]
    assert dataset.write_gallery(tmp_path, iter(some)) == 20
    back = list(dataset.read_gallery(tmp_path))
    for one, two in zip(some, back, strict=True):
        assert np.array_equal(one["image"], two["image"])
        assert two.pop("file").endswith(".png")
        same = KEYS - {"image", "distribution"}
        assert set(two) == KEYS and {k: one[k] for k in same} == {k: two[k] for k in same}
        assert one["distribution"] == pytest.approx(two["distribution"])
    assert pq.read_table(tmp_path / "gallery.parquet").num_rows == 20
    assert not (tmp_path / "rejected_rows.jsonl").exists()


def test_a_users_own_folder_needs_few_columns(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    Image.new("L", (30, 40)).save(tmp_path / "b.jpg")
    lines = [
        {"file_name": "a.png", "ratings": {"colour": 0.3}, "note": "passes by"},
        {"file_name": "b.jpg", "distribution": [0, 0, 0.5, 0.5, 0], "face": [0.1, 0.1, 0.5, 0.6]},
    ]
    (tmp_path / "gallery.jsonl").write_text("\n".join(map(json.dumps, lines)))
    one, two = dataset.read_gallery(tmp_path)
    assert one["ratings"] == dict.fromkeys(ATTRIBUTES) | {"colour": 0.3}
    assert one["image"].shape == (30, 40, 3) and (one["kind"], two["kind"]) == ("general", "portrait")
    assert one["veto"] == {"anatomy": None, "artefact": None} and two["distribution"] == [0, 0, 0.5, 0.5, 0]
    assert one["picture"] != two["picture"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"file_name": "none.png"}, "file_name: .*no such file"),
        ({"file_name": "../a.png"}, "outside"),
        ({"file_name": 3}, "file_name: found 3"),
        ({"file_name": "text.png"}, "not a picture"),
        ({"ratings": {"colour": 1.2}}, "colour is 1.2"),
        ({"ratings": {"colour": True}}, "colour is True"),
        ({"ratings": {"hue": 0.2}}, "found 'hue'"),
        ({"ratings": None}, "expected at least one"),
        ({"ratings": 0.5}, "found 0.5, expected an object"),
        ({"veto": {"anatomy": 1}}, "anatomy is 1"),
        ({"style": "oil"}, "expected one of photo, cartoon"),
        ({"degradation": "fog"}, "found 'fog'"),
        ({"strength": -1}, "found -1"),
        ({"picture": "x"}, "expected a whole number"),
        ({"face": [0.5, 0.1, 0.2, 0.9]}, "expected left, top"),
        ({"distribution": [0.5, 0.5, 0.5, 0, 0]}, "sum to 1"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_reason(bad, reason, tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no picture")
    good = {"file_name": "a.png", "ratings": {"colour": 0.5}}
    (tmp_path / "gallery.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(good | bad) + "\nbroken\n")
    rejected = []
    assert len(list(dataset.read_gallery(tmp_path, rejected=rejected))) == 1
    assert len(rejected) == 2
    assert any(re.search(reason, text) for text in rejected[0].reasons), rejected[0].reasons
    lines = (tmp_path / "rejected_rows.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[0])["row"] == good | bad


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(DataError, match="holds neither"):
        list(dataset.read_gallery(tmp_path))
    (tmp_path / "gallery.jsonl").write_text('{"file_name": "none.png", "ratings": {"colour": 1}}\n')
    with pytest.raises(DataError, match="no row can be used; the first of 1"):
        list(dataset.read_gallery(tmp_path))
