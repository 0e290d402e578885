"""The gate opens for a judge whose choice beats the greedy caption, and for no other."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data_synth.world import draw_script
from data_synth.world.clips import clip_row
from rlkit.caption import judge_gate
from rlkit.caption.clips import Clips
from rlkit.recipe import Data, Recipe, Sampling
from rlkit.running.folder import RunFolder

CLIPS = [clip_row(draw_script(0, i, split="dev"), "dev", i, seed=0, noise=None) for i in range(60)]
RECIPE = Recipe(
    algorithm="dpo",
    data=Data(source="folder", folder="."),
    sampling=Sampling(num_samples=4, judge="./mine.py", gate_clips=60),
)
FOUND = Clips([], CLIPS, None, None)


class Silent:
    """A progress display that keeps the notes."""

    def __init__(self):
        self.notes = []

    def stage(self, title, total=None):
        pass

    def note(self, text):
        self.notes.append(text)


def wrong(row):
    """The caption without its last event."""
    return ". ".join(row["true_caption"].split(". ")[:-1]) + "."


def truth(clips, texts, reader):
    return [[judge_gate.truth_of(row, text) for text in told] for row, told in zip(clips, texts, strict=True)]


def upside_down(clips, texts, reader):
    return [[-score for score in told] for told in truth(clips, texts, reader)]


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """A policy whose greedy caption is right in every second clip, and one of whose samples always is."""

    def captions(captioner, rows, *, num_return_sequences=1, **_):
        if num_return_sequences == 1:
            return [[row["true_caption"] if number % 2 else wrong(row)] for number, row in enumerate(rows)]
        return [[wrong(row), row["true_caption"], "A calm scene.", wrong(row)] for row in rows]

    monkeypatch.setattr(judge_gate.generate, "captions", captions)
    monkeypatch.setattr(judge_gate, "shown_to", lambda captioner, row, record, reader: row)


def gate(judge):
    return judge_gate.gate(None, judge, FOUND, RECIPE, "?", Silent())


def test_the_truth_opens_it_and_its_opposite_does_not():
    opened, closed = gate(truth), gate(upside_down)
    assert opened.open and not closed.open
    assert opened.best_by_judge.value == opened.best_by_truth.value == 1.0
    half = np.mean([(judge_gate.truth_of(row, wrong(row)) + 1) / 2 for row in CLIPS[:1]])
    assert opened.greedy.value == pytest.approx(half)  # three events each, so every wrong caption is worth as much
    assert closed.best_by_judge.value == 0.0  # the calm scene


def test_a_judge_that_only_repeats_the_greedy_caption_does_not_open_it(monkeypatch):
    """No gain is no ground to label pairs: the interval of 0 has no positive lower end."""
    plain = judge_gate.generate.captions
    monkeypatch.setattr(judge_gate.generate, "captions", lambda c, rows, **o: plain(c, rows))
    assert not gate(truth).open


def test_an_unscored_clip_counts_as_the_greedy_caption():
    result = gate(lambda clips, texts, reader: [[None] * len(told) for told in texts])
    assert result.gain.value == 0.0 and result.best_by_judge.value == result.greedy.value


def test_a_closed_gate_stops_the_run_with_both_figures(tmp_path):
    folder = RunFolder(tmp_path, True)
    with pytest.raises(judge_gate.GateError, match=r"by the judge is worth 0\.000.*the greedy caption 0\.9.*gate=warn"):
        judge_gate.check(None, upside_down, FOUND, RECIPE, folder, "?", Silent())
    assert json.loads((tmp_path / "gate.json").read_text())["open"] is False


def test_warn_goes_on_and_open_says_so(tmp_path):
    folder, progress = RunFolder(tmp_path, True), Silent()
    warned = replace(RECIPE, sampling=replace(RECIPE.sampling, gate="warn"))
    judge_gate.check(None, upside_down, FOUND, warned, folder, "?", progress)
    judge_gate.check(None, truth, FOUND, RECIPE, folder, "?", progress)
    assert progress.notes[0].startswith("judge gate closed") and progress.notes[1].startswith("judge gate open")
    judge_gate.check(None, upside_down, FOUND, RECIPE, folder, "?", progress)  # passed: launched again, not measured
    assert len(progress.notes) == 2


def test_labels_that_are_missing_are_asked_for(tmp_path):
    with pytest.raises(judge_gate.GateError, match="no labelled clips"):
        judge_gate.check(None, truth, Clips([], [], None, None), RECIPE, RunFolder(tmp_path, True), "?", Silent())


def test_the_truth_itself_needs_no_gate():
    world = replace(RECIPE, sampling=replace(RECIPE.sampling, judge="world"))
    assert not judge_gate.applies(world) and judge_gate.stages(world) == 0
    assert judge_gate.applies(RECIPE) and judge_gate.stages(RECIPE) == 1
