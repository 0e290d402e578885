"""Several rewards: columns with NaN for what has no score, weights, names, refusals."""

import pytest

from rlkit.errors import ModelError
from rlkit.recipe import PlugIn
from rlkit.scoring import Rewards

OWN = """\
def load(device="cpu", *, values: list[float]):
    return lambda *, prompts, completions, **_: values
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return lambda values, weight=1.0: PlugIn(str(tmp_path / "own.py"), weight, {"values": values})


def test_what_has_no_score_is_nan_never_0(own):
    rewards = Rewards([own([1.0, None, float("inf")]), own([3.0, 4.0, 5.0], 3.0)])
    scores = rewards(["p"] * 3, ["c"] * 3)
    assert scores.shape == (3, 2) and scores.isnan().tolist() == [[False, False], [True, False], [True, False]]
    assert rewards.total(scores)[0].item() == pytest.approx((1.0 * 1 + 3.0 * 3) / 4)
    assert rewards.total(scores)[1:].isnan().all()
    assert rewards.names == ["own_1", "own_2"]


def test_another_number_of_scores_is_refused(own):
    with pytest.raises(ModelError, match="2 scores for 3 completions"):
        Rewards([own([1.0, 2.0])])(["p"] * 3, ["c"] * 3)


def test_a_reward_that_cannot_be_loaded_is_named():
    with pytest.raises(ModelError, match=r"world_picture cannot be loaded.*hue"):
        Rewards([PlugIn("world_picture", 1.0, {"parts": ["hue"]})])


def test_a_reward_gets_the_columns_and_the_options_of_ours_that_it_names(tmp_path):
    (tmp_path / "own.py").write_text(
        "def load(device='cpu', *, parse):\n"
        "    return lambda *, prompts, completions, events, **_: [parse(c) + e for c, e in zip(completions, events)]\n"
    )
    (tmp_path / "other.py").write_text(
        "def load(device='cpu'):\n    return lambda *, prompts, completions, **_: [0.5, 1]\n"
    )
    rewards = Rewards([PlugIn(str(tmp_path / f"{name}.py")) for name in ("own", "other")], {"parse": len, "more": 1})
    assert rewards(["p"] * 2, ["abc", "d"], {"events": [10, 20]}).tolist() == [[13.0, 0.5], [21.0, 1.0]]
