"""Who judges: every reward a column of its own, all together for the gate; and the judge that is asked last."""

from rlkit.caption.bootstrap import start
from rlkit.recipe import Evaluate, PlugIn, Recipe, Sampling

# The number of letters, none for captions that shout.
LETTERS = """\
def load(device="cpu"):
    return lambda *, prompts, completions, **_: [None if one.isupper() else float(len(one)) for one in completions]
"""
ROWS = [{"id": "a", "video": "a.mp4", "true_caption": "A cat sits. Then it runs."}, {"id": "b", "video": "b.mp4"}]
SAID = [["one", "TWO"], ["three"]]


def letters(tmp_path, **options):
    (tmp_path / "letters.py").write_text(LETTERS)
    return PlugIn(str(tmp_path / "letters.py"), **options)


def test_every_reward_has_a_column_and_the_gate_asks_for_their_mean(tmp_path):
    twice = [letters(tmp_path), letters(tmp_path, weight=3.0)]
    found = start.jury(Recipe(rewards=twice, sampling=Sampling(num_samples=2)))
    assert found.names == ["letters_1", "letters_2"] and found.weights == [1.0, 3.0]
    assert found(ROWS, SAID, None) == [[[3.0, 3.0], [None, None]], [[5.0, 5.0]]]
    assert found.whole(ROWS, SAID, None) == [[3.0, None], [5.0]]
    assert found.gated.sampling.judge is not None and found.gated.sampling.num_samples == 2


def test_the_held_out_judge_is_the_truth_unless_rewards_are_named(tmp_path):
    truth = start.held_out_judge(Recipe())
    assert truth(ROWS[:1], [["A cat sits. Then it runs.", "A dog barks."]], None) == [[1.0, 0.0]]
    named = start.held_out_judge(Recipe(evaluate=Evaluate(held_out_rewards=[letters(tmp_path)])))
    assert named(ROWS, SAID, None) == [[3.0, None], [5.0]]
