"""Judges of captions: the trained one scores alike in one row and through its public loader; others get columns."""

import json
from dataclasses import replace

import numpy as np
import pytest

import reward_models
from rlkit import models
from rlkit.caption import judges, one_row, rows
from rlkit.errors import RecipeError
from rlkit.recipe import Evaluate, Model, Recipe, Sampling

TEXTS = ["A red circle moves left. Then a blue square spins.", "A red circle spins.", "Finally a green star grows."]


TWO_AT_ONCE = Recipe(algorithm="dpo", evaluate=Evaluate(per_device_eval_batch_size=2))


class OneClip:
    """A reader that knows one clip."""

    def __init__(self, clip):
        self.one = clip

    def clip(self, video, start=None, end=None):
        return self.one


@pytest.fixture
def folder(tmp_path, tiny_captioner):
    """A judge's final/: a tiny captioner with judge.json and reward.json."""
    captioner = tiny_captioner("qwen2_5_vl")
    captioner.model.save_pretrained(tmp_path)
    captioner.processor.save_pretrained(tmp_path)
    (tmp_path / judges.MANIFEST).write_text(json.dumps({"question": "Describe the video."}))
    (tmp_path / reward_models.MANIFEST).write_text(json.dumps({"reward": "consistency"}))
    return tmp_path


def test_one_row_and_the_public_loader_give_the_same_scores(folder, make_clip):
    clip = make_clip(6, 0.25)
    judge = judges.captioner_judge(TWO_AT_ONCE, folder)
    ours = judge([{"id": "a", "video": "a.mp4"}] * 3, [TEXTS, TEXTS[:2], TEXTS[1:]], OneClip(clip))
    score = reward_models.load(folder)
    column = {"videos": [clip.frames] * 3, "timestamps": [clip.timestamps] * 3}
    theirs = score(prompts=["?"] * 3, completions=TEXTS, **column)
    assert len(set(theirs)) == 3
    assert [len(one) for one in ours] == [3, 2, 2]
    np.testing.assert_allclose(ours[0], theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours[2], theirs[1:], rtol=1e-4, atol=1e-5)
    assert score(prompts=["?"], completions=TEXTS[:1], videos=[clip.frames], fps=[4.0]) == theirs[:1]
    with pytest.raises(ValueError, match="timestamps"):
        score(prompts=["?"], completions=TEXTS[:1], videos=[clip.frames])


def test_a_captioner_judges_by_likelihood(folder, make_clip):
    """The sum over a caption's tokens, as separate rows give it."""
    (folder / judges.MANIFEST).unlink()
    recipe = replace(TWO_AT_ONCE, sampling=Sampling(judge=str(folder)))
    clip, rows_of = make_clip(6, 0.25), [{"id": "a", "video": "a.mp4"}]
    (ours,) = judges.load(recipe)(rows_of, [TEXTS], OneClip(clip))
    captioner = models.load(Model(id=str(folder), sharing="off"))
    record = judges.answered(rows_of[0], TEXTS, "Describe the video.")
    batch = rows.batch_of(captioner, [judges.shown_to(captioner, rows_of[0], record, OneClip(clip))])
    log_probs, _ = one_row.separate_log_probs(captioner, batch)
    np.testing.assert_allclose(ours, log_probs.sum(-1)[0].detach().numpy(), rtol=1e-4)
    assert max(ours) < 0


def test_a_caption_without_its_video_has_no_score(folder):
    score = reward_models.load(folder)
    assert score(prompts=["?"], completions=["A red circle."], videos=[None], timestamps=[[0.0]]) == [None]


def test_a_folder_without_a_question_is_no_judge(tmp_path):
    with pytest.raises(ValueError, match=r"no judge\.json"):
        reward_models.load("consistency", model=str(tmp_path))


def test_a_reward_gets_the_columns_it_names(tmp_path, make_clip):
    (tmp_path / "own.py").write_text(
        "def load(device='cpu'):\n"
        "    def score(*, prompts, completions, videos, events, **_):\n"
        "        assert prompts == ['Describe the video.'] * len(completions)\n"
        "        return [len(v) + len(e) + len(c) for v, e, c in zip(videos, events, completions, strict=True)]\n"
        "    return score\n"
    )
    recipe = Recipe(algorithm="dpo", sampling=Sampling(judge=str(tmp_path / "own.py")))
    clips = [{"id": "a", "video": "a.mp4", "events": [["x", "y"]]}]
    assert judges.load(recipe)(clips, [["ab", "c"]], OneClip(make_clip(6))) == [[6 + 1 + 2, 6 + 1 + 1]]


def test_a_model_is_loaded_once_the_judge_is_named(tmp_path):
    assert judges.load(Recipe(algorithm="dpo")) is None
    with pytest.raises(RecipeError, match=r"sampling\.judge: no reward 'clip_scor'"):
        judges.load(Recipe(algorithm="dpo", sampling=Sampling(judge="clip_scor")))


def test_scores_do_not_depend_on_the_other_captions(folder, make_clip):
    """A judge that sees the answers beside each other ranks by their order."""
    judge, reader = judges.captioner_judge(TWO_AT_ONCE, folder), OneClip(make_clip(6))
    forward, backward = judge([{"id": "a", "video": "a"}] * 2, [TEXTS, TEXTS[::-1]], reader)
    np.testing.assert_allclose(forward, backward[::-1], rtol=1e-4, atol=1e-5)
