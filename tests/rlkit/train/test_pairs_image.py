"""Pairs of a generator's own pictures: best against worst, ties and missing scores marked, drawn again from their rows,
and a killed run ends with the same bytes."""

import base64
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from rlkit.errors import DataError, RecipeError
from rlkit.generators import pair_table, pairs
from rlkit.generators.prompts import Embeddings
from rlkit.models import generator as generators
from rlkit.recipe.file import load
from rlkit.report import review
from rlkit.run import run as launch
from tests.rlkit.train.conftest import PAIRS


def rows_of(folder):
    return [row for path in sorted(folder.glob("pairs-*.parquet")) for row in pq.read_table(path).to_pylist()]


def redness(row, side):
    return np.asarray(Image.open(io.BytesIO(row[f"jpg_{side}"])), np.float64)[..., 0].mean()


def test_every_row_is_a_pair_whose_better_side_scores_higher(picture_pairs):
    rows = rows_of(picture_pairs)
    assert [path.name for path in sorted(picture_pairs.glob("*.parquet"))] == [
        f"pairs-0000{n}.parquet" for n in range(3)
    ]
    assert len(rows) == 10 and len({row["caption"] for row in rows}) == 10
    for row in rows:
        better = 0 if row["label_0"] == 1 else 1
        assert row["label_0"] + row["label_1"] == 1 and row["has_label"]
        assert row[f"rewards_{better}"][0] - row[f"rewards_{1 - better}"][0] == pytest.approx(row["margin"], rel=1e-5)
        for side in (0, 1):  # the stored reward is that of the stored picture
            assert row[f"rewards_{side}"] == pytest.approx([redness(row, side)], rel=1e-5)
        assert row["reward_names"] == ["redness"] and row["seed_0"] != row["seed_1"]
        assert (row["sampler"], row["num_inference_steps"]) == ("FlowMatchEulerDiscreteScheduler", 2)
    assert {row["label_0"] for row in rows} == {0.0, 1.0}  # the better one is not always on one side
    counts = launch_results(picture_pairs)["counts"]
    assert counts == {"groups": 10, "pairs": 10, "ties": 0, "unlabelled": 0, "missing_rewards": 0}
    assert (picture_pairs / "samples/pairs.png").read_bytes().startswith(b"\x89PNG")


def launch_results(folder):
    from rlkit.running.folder import RunFolder

    return RunFolder(folder).results()


def test_noise_and_pictures_follow_from_the_row_alone(picture_pairs, flow_folder):
    assert launch_results(picture_pairs)["redrawn"]["largest_difference"] <= 1
    recipe = load(picture_pairs / "recipe.yaml")
    generator = generators.load(str(flow_folder))
    row = rows_of(picture_pairs)[9]
    shape = generator.family.latent_shape(generator.pipe, 16, 16)
    noise = pairs.noise_of(row["seed_1"], row["noise_1"], shape, "row")
    stock = torch.randn((1, *shape), generator=torch.Generator().manual_seed(row["seed_1"]))[0]
    assert torch.equal(noise, stock)  # what diffusers draws for a list of CPU generators
    assert pairs.redrawn(generator, recipe, Embeddings(generator, 1.0), row) <= 1
    with pytest.raises(DataError, match="other noise"):
        pairs.noise_of(row["seed_1"] + 1, row["noise_1"], shape, "row")
    with pytest.raises(DataError, match="no longer gives the noise"):
        pairs.redrawn(generator, recipe, Embeddings(generator, 1.0), row | {"seed_0": 5})


def test_killed_between_shards_it_ends_with_the_same_bytes(workplace, flow_folder, picture_pairs, monkeypatch):
    path = workplace("pairs_image", PAIRS.format(model=flow_folder, rewards="[./redness.py]"))
    made = []
    real = pairs.shard

    def counted(*arguments):
        made.append(arguments)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pairs, "shard", counted)
    with pytest.raises(KeyboardInterrupt):
        launch(path)
    folder = launch(path)[-1].path
    assert len(made) == 1 + 1 + 2  # one, the killed one, and those that were missing
    for name in [f"pairs-0000{number}.parquet" for number in range(3)]:
        assert (folder / name).read_bytes() == (picture_pairs / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "counted"),
    [
        ("{constant: true}", {"pairs": 0, "ties": 10, "unlabelled": 0, "missing_rewards": 0}),
        ("{missing: true}", {"pairs": 10, "ties": 0, "unlabelled": 0, "missing_rewards": 10}),
    ],
)
def test_ties_and_missing_scores_are_marked_and_counted(workplace, flow_folder, options, counted):
    path = workplace("pairs_image", PAIRS.format(model=flow_folder, rewards=f"[{{./redness.py: {options}}}]"))
    folder = launch(path)[-1]
    assert folder.results()["counts"] == {"groups": 10} | counted
    for row in rows_of(folder.path):
        assert (row["label_0"] == row["label_1"] == 0.5) == bool(counted["ties"])
        assert row["jpg_0"] != row["jpg_1"] and None not in row["rewards_0"] + row["rewards_1"]
    if counted["ties"]:
        with pytest.raises(DataError, match="no row of 10 can be learnt from"):
            pair_table.read_table(folder.path)


def test_a_margin_that_is_not_reached_is_a_tie():
    values = torch.tensor([0.0, 1.0, 2.0, 5.0, 5.0, 5.0, float("nan"), 3.0, float("nan")])
    assert pairs._undecided(values, range(3)) == (0.5, (2, 0))
    assert pairs._undecided(values, range(3, 6)) == (0.5, (3, 4))
    assert pairs._undecided(values, range(6, 9)) == (None, (6, 7))


def test_several_rewards_are_normalised_before_they_are_added():
    """The first reward's spread is a thousand times the second's, which all the same decides with weight 3."""
    scores = torch.tensor([[1000.0, 0.0], [0.0, 1.0], [500.0, 0.5], [1000.0, float("nan")]])
    values = pairs.ranked(scores, [7, 7, 7, 7], [1.0, 3.0])
    assert values[:3].argmax() == 1 and values[:3].argmin() == 0 and values[3].isnan()
    assert torch.equal(pairs.ranked(scores[:, :1], [7] * 4, [2.0]), scores[:, 0])


def test_the_review_page_shows_both_pictures_and_not_which_is_better(picture_pairs, tmp_path):
    page = review.write_review(picture_pairs, tmp_path / "review.html")
    text = page.read_text()
    assert "Which picture fits the prompt better?" in text
    items = list(review.judgements(review.read_pairs(picture_pairs)))
    assert len(items) == 10 and text.count("data:image/png") == 20
    shown = review._shown(items[0], 0, None)
    left = review.chosen_side(items[0]["id"], 0) == "left"
    better = pair_table.decode(items[0]["pictures"][0], "")[0]
    seen = Image.open(io.BytesIO(base64.b64decode(shown["left_picture" if left else "right_picture"].split(",")[1])))
    assert np.array_equal(np.asarray(seen), better)
    assert set(shown) == {"id", "prompt", "left", "right", "picture", "left_picture", "right_picture"}
    votes = {"seed": 0, "votes": [{"id": items[0]["id"], "vote": "left" if left else "right"}]}
    (tmp_path / "votes.json").write_text(json.dumps(votes))
    assert review.resolve(tmp_path / "votes.json", picture_pairs)[0]["vote"] == "chosen"


@pytest.mark.parametrize(
    ("override", "said"), [("rewards=[]", "nothing ranks"), ("model.lora={}", "trained generator as it is"),
                           ("data.source=gallery", "use world")]
)  # fmt: skip
def test_what_cannot_work_is_refused_before_the_run(workplace, flow_folder, override, said):
    path = workplace("pairs_image", PAIRS.format(model=flow_folder, rewards="[./redness.py]"))
    with pytest.raises(RecipeError, match=said):
        load(path, [override])
