"""The learnt judges: pictures in the look above plain ones, no gain from overdoing it, refused where they are blind."""

import numpy as np
import pytest

from data_synth.world import look, pictures
from rlkit.errors import GuardError
from rlkit.generators.bootstrap.likeness import HELD_OUT, TRAINED, Likeness, WithLikeness
from rlkit.generators.bootstrap.space import measured
from rlkit.recipe import PlugIn
from rlkit.scoring import Rewards


@pytest.fixture(scope="module")
def seen():
    base = [pictures.render(one, at) for at, one in enumerate(pictures.drawn(40, seed=5))]
    return measured([look.render(one, 0) for one in look.few()]), measured(base)


@pytest.mark.parametrize("families", [TRAINED, HELD_OUT])
def test_unseen_pictures_in_the_look_score_above_plain_ones_of_the_same_prompts(seen, families):
    judge = Likeness(*seen, families)
    new = pictures.drawn(60, split="test", seed=9)
    inside = judge(measured([look.render(one, 3) for one in new]))
    plain = judge(measured([pictures.render(one, 3) for one in new]))
    assert (inside[:, None] > plain).mean() > 0.97 and judge.auc > 0.95
    assert np.median(inside) > 0.5 and np.median(plain) < 0 and inside.max() <= 1.0


def test_the_two_judges_see_different_measures():
    assert not set(TRAINED) & set(HELD_OUT)


def test_a_judge_that_cannot_tell_them_is_refused(seen):
    base = [pictures.render(one, at) for at, one in enumerate(pictures.drawn(50, seed=6))]
    with pytest.raises(GuardError, match=r"cannot be told.*AUC"):
        Likeness(measured(base[:10]), measured(base[10:]), TRAINED)


def test_rewards_read_prompts_without_the_trigger_and_likeness_comes_last(seen):
    shown = look.few(4)
    prompts, plain = [pictures.prompt(one) for one in shown], [pictures.render(one, 0) for one in shown]
    rewards = Rewards([PlugIn("world_picture", options={"parts": ["count"]})])
    judge = Likeness(*seen, TRAINED)
    both = WithLikeness(rewards, judge, 2.0, "sks ")
    found = both(["sks " + one for one in prompts], plain)
    assert both.names == ["world_picture", "likeness"] and both.weights == [1.0, 2.0] and len(both) == 2
    assert found[:, 0].tolist() == rewards(prompts, plain)[:, 0].tolist() == [1.0] * 4
    assert found[:, 1].tolist() == pytest.approx(judge(measured(plain)).tolist())
    assert both.total(found)[0].item() == pytest.approx((1.0 + 2 * found[0, 1].item()) / 3)
