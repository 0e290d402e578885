"""The guard of caption RL: alarms at growing captions and a falling truth, once each, against the run's own start."""

from types import SimpleNamespace

import pytest

from rlkit.caption import generate, guards
from rlkit.caption.policy_guard import PolicyGuard
from rlkit.errors import GuardError
from rlkit.recipe import Grpo, Recipe
from rlkit.running.folder import RunFolder

TRUE = "A purple bar shrinks. Then a white pole moves down."
SWAPPED = "A white pole moves down. Then a purple bar shrinks."
EVENTS = [["purple bar", "shrinks"], ["white pole", "moves down"]]


@pytest.fixture
def guard(tmp_path, monkeypatch):
    """(action, captions of the held-out clip, one a measurement) -> PolicyGuard; captions and grounding are given."""
    monkeypatch.setattr(guards.Guard, "_measure", lambda self, step: None)

    def build(alarm="warn", said=(), **limits):
        texts = iter(said)
        monkeypatch.setattr(generate, "captions", lambda *_, **__: [[next(texts)]])
        held = SimpleNamespace(examples={"clip": ["clip"]}, rows=[{"events": EVENTS}])
        quiet = SimpleNamespace(log=lambda *_: None, metrics=lambda *_: None, note=notes.append)
        evaluation = SimpleNamespace(hold_out=lambda _: held)
        recipe = Recipe(algorithm="grpo", grpo=Grpo(alarm=alarm, **limits))
        return PolicyGuard(None, evaluation, recipe, RunFolder(tmp_path), quiet, quiet)

    notes = []
    return build, notes


def log(one, length, step):
    one.on_log(None, SimpleNamespace(global_step=step), None, logs={"completions/mean_length": length})


def test_captions_that_grow_past_the_limit_are_told_once(guard, tmp_path):
    build, notes = guard
    one = build(max_length_rise=0.3)
    for step, length in enumerate([20.0, 25.9, 26.1, 40.0]):
        log(one, length, step)
    assert len(notes) == 1 and "at step 2: drawn captions grew from 20.0 to 26.1 tokens" in notes[0]
    assert (tmp_path / "metrics.jsonl").read_text().count("alarm/length") == 1


def test_a_resumed_run_compares_with_the_first_start(guard):
    build, _ = guard
    log(build("stop"), 20.0, 1)
    with pytest.raises(GuardError, match=r"from 20\.0 to 30\.0 tokens: the rewards are being hacked"):
        log(build("stop"), 30.0, 40)


def test_a_falling_truth_is_told_by_its_fall(guard):
    """Both events in the other order: tau is -1, the truth 0."""
    build, notes = guard
    one = build("stop", said=[TRUE, TRUE, SWAPPED])
    one._measure(0)
    one._measure(5)
    assert not notes
    with pytest.raises(GuardError, match=r"worse: 1\.000 at the start, 0\.000 now"):
        one._measure(10)


def test_limits_that_are_off(guard):
    build, notes = guard
    one = build(said=[TRUE, SWAPPED * 3], max_length_rise=None, max_truth_drop=None)
    one._measure(0)
    one._measure(5)
    log(one, 5.0, 1)
    log(one, 50.0, 2)
    assert not notes
