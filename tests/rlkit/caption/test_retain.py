"""Questions of a file, and their loss beside another."""

import json
from types import SimpleNamespace

import pytest
import torch

from data_synth.world.clips import render_clips
from rlkit.caption import generate, one_row, retain, rows
from rlkit.errors import DataError, RecipeError
from rlkit.models import load
from rlkit.recipe import Data, Model, Recipe, Retain
from rlkit.recipe.file import load as read
from rlkit.run import run

QUESTION = "What colour is it?"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with three clips of the world."""
    folder = tmp_path_factory.mktemp("clips")
    for _ in render_clips(folder, 3, seed=5):
        pass
    return folder


@pytest.fixture
def questions(clips):
    """Lines -> the path of a file of questions beside the clips; the first clip where a line names none."""
    names = sorted(path.relative_to(clips).as_posix() for path in clips.rglob("*.mp4"))

    def write(lines, name="questions.jsonl"):
        path = clips / name
        told = [{"video": names[line.pop("clip", 0)]} | line if isinstance(line, dict) else line for line in lines]
        path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in told))
        return path

    return write


def test_a_file_is_read_with_pieces_and_skills(questions):
    path = questions(
        [
            {"question": QUESTION, "answer": "Red.", "skill": "colour"},
            {"question": "Anyone?", "answer": "No.", "start": 0.5, "end": 1.0, "clip": 1},
        ]
    )
    one, two = retain.read_questions(path)
    assert (one.question, one.answer, one.skill, one.start) == (QUESTION, "Red.", "colour", None)
    assert (two.skill, two.start, two.end) == (None, 0.5, 1.0) and two.video != one.video


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"question": QUESTION}, "questions.jsonl:2: answer: found None, expected text"),
        ({"question": " ", "answer": "Red."}, "question: found ' ', expected text"),
        ({"question": QUESTION, "answer": "Red.", "video": "../x.mp4"}, "leaves the data folder"),
        ({"question": QUESTION, "answer": "Red.", "video": "gone.mp4"}, "gone.mp4"),
        ({"question": QUESTION, "answer": "Red.", "start": -1}, "start: found -1, expected seconds"),
        ({"question": QUESTION, "answer": "Red.", "start": 2, "end": 1}, "end: found 1, expected more than start"),
        ("{", "questions.jsonl:2: line: not JSON"),
    ],
)
def test_a_bad_line_is_named(questions, line, said):
    path = questions([{"question": QUESTION, "answer": "Red."}, line])
    with pytest.raises(DataError) as error:
        retain.read_questions(path)
    assert said in str(error.value)


def test_an_empty_file_is_refused(questions):
    with pytest.raises(DataError, match="no questions"):
        retain.read_questions(questions([]))


@pytest.fixture
def replay(questions, tiny_captioner):
    """Replay of three questions, two in each forward pass, and a trainer to note what it says."""
    path = questions(
        [
            {"question": QUESTION, "answer": answer, "clip": at}
            for at, answer in enumerate(["Yes", "No", "A red circle"])
        ]
    )
    captioner = tiny_captioner("qwen2_5_vl")
    recipe = Recipe(
        algorithm="sft", data=Data(num_frames=4, frame_size=56), retain=Retain(replay_weight=0.25, replay_rows=2)
    )
    noted = {}
    trainer = SimpleNamespace(
        captioner=captioner,
        state=SimpleNamespace(global_step=0),
        args=SimpleNamespace(gradient_accumulation_steps=4),
        note=lambda name, value: noted.setdefault(name, []).append(value),
    )
    made = retain.Replay(captioner, retain.read_questions(path), retain.reader_of(path, recipe), recipe)
    return made, trainer, noted


def test_its_loss_is_the_mean_over_all_tokens_times_weight_over_passes(replay):
    """As transformers' loss is over labels that are not -100; here row by row."""
    made, trainer, noted = replay
    captioner = trainer.captioner
    loss = made.loss(trainer, captioner.model)
    total, tokens = 0.0, 0
    for example in made.rows(0, 0):
        batch = rows.batch_of(captioner, [example])
        log_probs, mask = one_row.separate_log_probs(captioner, batch)
        total, tokens = total - float((log_probs * mask).sum().detach()), tokens + int(mask.sum())
    assert float(loss.detach()) == pytest.approx(0.25 * total / tokens / 4, rel=1e-5)
    assert noted["replay/loss"] == [pytest.approx(total / tokens, rel=1e-5)]
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in captioner.model.parameters())


def test_what_is_replayed_follows_from_seed_step_and_pass(replay):
    made, trainer, _ = replay
    seen = []
    made.rows = lambda step, part: seen.append((step, part)) or (made.examples and [made.examples[0]])
    for step in (0, 0, 1, 1, 2):
        trainer.state.global_step = step
        made.loss(trainer, trainer.captioner.model)
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    del made.rows
    drawn = [[one.index for one in made.rows(step, part)] for step in range(8) for part in range(2)]
    again = [[one.index for one in made.rows(step, part)] for step in range(8) for part in range(2)]
    assert drawn == again and len({tuple(one) for one in drawn}) > 3


RECIPE = """\
algorithm: sft
model: {{id: {model}, vision: frozen, lora: {{r: 4, lora_alpha: 8.0}}}}
data: {{num_clips: 6, num_frames: 4, frame_size: 56}}
train: {{learning_rate: 5.0e-2, per_device_train_batch_size: 2, max_steps: 4, logging_steps: 1, save_steps: 2}}
evaluate: {{num_clips: 2, max_new_tokens: 6, probe_clips: 1, controls: []}}
retain: {retain}
"""


@pytest.fixture
def start(tmp_path, tiny_model, monkeypatch):
    """The folder of a tiny captioner, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    for part in tiny_model("qwen2_5_vl"):
        part.save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def recipe(start, retention, name="tiny_sft"):
    path = start.parent / f"{name}.yaml"
    path.write_text(RECIPE.format(model=start, retain=retention))
    return path


def test_what_the_start_could_do_is_asked_before_and_after(start, questions):
    """The right answers are the start's own words, which training on captions drives out, and replay keeps."""
    unanswered = questions([{"question": QUESTION, "answer": "?", "clip": at} for at in range(3)])
    captioner = load(Model(id=str(start)))
    data = Data(num_frames=4, frame_size=56)
    reader = retain.reader_of(unanswered, Recipe(algorithm="sft", data=data))
    examples = [
        rows.encode(captioner, one.record(), reader.clip(one.video), index=at)
        for at, one in enumerate(retain.read_questions(unanswered))
    ]
    said = [one[0] for one in generate.captions(captioner, examples, max_new_tokens=6, batch_size=3)]
    own = questions([{"question": QUESTION, "answer": one, "clip": at, "skill": "own"} for at, one in enumerate(said)])
    file = recipe(start, f"{{probes: {own}, adapter_scales: [0.5, 1.0]}}")
    folder = run(file)[-1]
    results = folder.results()
    assert set(results["systems"]) == {"tiny_sft", "tiny_sft x1"}
    kept = results["retained"]["tiny_sft x1"]
    assert kept["before"]["skill_probe"]["value"] == kept["before"]["skill_own"]["value"] == 1.0
    assert kept["after"]["skill_probe"]["value"] < 1.0
    assert kept["change"]["skill_probe"]["value"] == pytest.approx(kept["after"]["skill_probe"]["value"] - 1.0)
    assert "What was lost" in (folder.path / "report.html").read_text()
    # The one that is saved is the first: half of what training made of it.
    whole = run(recipe(start, "{}", "whole"))[-1]
    half, full = (weights(one.final) for one in (folder, whole))
    for name, one in full.items():
        torch.testing.assert_close(half[name], one * (0.5 if "lora_B" in name else 1.0), rtol=1e-6, atol=0)
    # A run that goes on does not ask the start again.
    asked = (folder.path / "retained_before.jsonl").stat().st_mtime_ns
    (folder.path / "results.json").unlink()
    again = run(file)[-1]
    assert (again.path / "retained_before.jsonl").stat().st_mtime_ns == asked
    assert again.results()["retained"] == results["retained"]


def test_replay_is_part_of_the_loss(start, questions):
    told = questions([{"question": QUESTION, "answer": "Yes", "clip": at} for at in range(3)])
    folder = run(recipe(start, f"{{replay: {told}, replay_weight: 2.0}}"))[-1]
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["replay/loss"] for line in lines if "replay/loss" in line]
    assert len(losses) == 4 and losses[-1] < losses[0] / 2


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.lora=null", "retain.adapter_scales=[0.5]"], "retain.adapter_scales"),
        (["retain.adapter_scales=[0.5, 0.5]"], "names a scale twice"),
        (["evaluate.probe_clips=0"], "raise evaluate.num_clips and probe_clips"),
        (["data.source=folder", "data.folder=."], "give JSON lines of video, question and answer"),
        (["model.id=null", "model.lora=null", "model.init=qwen2_5_vl"], "knows nothing yet"),
        (["algorithm=pairs"], "does not measure it"),
    ],
)
def test_what_cannot_be_kept_is_refused(start, changes, said):
    with pytest.raises(RecipeError, match=said):
        read(recipe(start, "{}"), changes)
