"""The run's display: stages, lines without a terminal, the panel in one, silence on other ranks, the last screen."""

import io
import logging
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from rlkit.running import progress as module
from rlkit.running.progress import Progress, clock, last_screen, sparkline


def plain():
    return Console(file=io.StringIO(), force_terminal=False, width=200)


def said(console):
    return console.file.getvalue()


def test_stages_are_announced_with_number_and_text():
    console = plain()
    with Progress("demo", stages=5, console=console) as progress:
        progress.stage("reading captions")
        progress.stage("rendering 4,000 clips", total=4_000)
    assert "1/5 reading captions\n" in said(console)
    assert "2/5 rendering 4,000 clips\n" in said(console)


def test_without_a_terminal_a_line_per_logging_step_and_none_per_step():
    console = plain()
    with Progress("demo", stages=1, console=console) as progress:
        progress.stage("training", total=100)
        for step in range(1, 101):
            progress.step(step)
            if step % 25 == 0:
                progress.metrics({"loss": 0.5, "rewards/margins": 1.25, "learning_rate": 1e-5}, step)
    lines = [line for line in said(console).splitlines() if "loss" in line]
    assert len(lines) == 4
    assert "25/100" in lines[0] and "loss 0.5" in lines[0] and "rewards/margins 1.25" in lines[0]
    assert "\x1b" not in said(console)


def test_other_ranks_say_nothing():
    console = plain()
    with Progress("demo", stages=1, console=console, rank=1) as progress:
        progress.stage("training", total=2)
        progress.metrics({"loss": 0.5}, 1)
        progress.note("an alarm")
    assert said(console) == ""


def test_in_a_terminal_the_panel_shows_step_numbers_speed_and_memory():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = Progress("demo", stages=2, console=console)
    progress.stage("training", total=50, samples_per_step=8)
    for step in range(1, 11):
        progress.metrics({"loss": 1 / step, "rewards/margins": step, "order_exact": 0.5}, step)
    progress.times.clear()
    progress.times.extend([(0.0, 0), (2.0, 10)])
    with console.capture() as capture:
        console.print(progress._panel())
    text = capture.get()
    for expected in (
        "1/2 training",
        "10 of 50",
        "40.0 samples/s",
        "ETA 8 s",
        "GiB",
        "rewards/margins",
        "order accuracy",
    ):
        assert expected in text
    assert any(spark in text for spark in "▂▃▄▅▆▇")


def test_a_resumed_stage_takes_its_rate_from_its_own_steps():
    progress = Progress("demo", console=plain())
    progress.stage("training", total=1_000)
    progress.step(900)
    assert progress.rate() is None and progress.eta() is None


def test_panel_starts_and_stops_and_leaves_finished_stages_behind():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)
    with Progress("demo", stages=1, console=console) as progress:
        progress.stage("rendering", total=3)
        progress.advance(3)
        progress.note("2 clips were set aside")
    assert "✓" in said(console) and "2 clips were set aside" in said(console)


def test_markup_in_texts_is_text():
    console = plain()
    with Progress("demo", console=console) as progress:
        progress.stage("[bold]x[/bold] [/oops]")
        progress.note("[red]")
    assert "[bold]x[/bold] [/oops]" in said(console) and "[red]" in said(console)


def test_sparkline_rises_and_fits_and_survives_nan():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 40) == "▁▂▃▄▅▆▇█"
    assert len(sparkline(list(range(1_000)), 40)) == 40
    assert sparkline([float("nan")], 40) == ""
    assert sparkline([3, 3], 40) == "▁▁"


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (185, "3:05 min"), (7650, "2:07:30 h")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_quiet_keeps_warnings_a_user_can_act_on():
    kept = list(warnings.filters)
    try:
        module.quiet()
        logger = logging.getLogger("transformers")
        records = [
            logging.LogRecord("transformers", logging.WARNING, "", 0, text, None, None)
            for text in (module.CHATTER[0], "Some weights of the model were newly initialized")
        ]
        assert [logger.handlers[0].filter(record) is not False for record in records] == [False, True]
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn("'pin_memory' argument is set as true but no accelerator is found, then", stacklevel=1)
            warnings.warn("your learning rate is zero", stacklevel=1)
        assert [str(w.message) for w in caught] == ["your learning rate is zero"]
    finally:
        warnings.filters[:] = kept


def test_a_lora_model_with_checkpointing_is_made_without_a_word():
    from rlkit import models
    from rlkit.recipe import Lora, Model

    kept = list(warnings.filters)
    try:
        module.quiet()
        with warnings.catch_warnings(record=True) as caught:
            asked = Model(init="qwen2_5_vl", lora=Lora(r=2))
            captioner = models.load(asked, texts=["A red circle moves left."] * 20)
            captioner.model.activation_checkpointing_enable({"use_reentrant": False})
        assert [str(warning.message) for warning in caught] == []
    finally:
        warnings.filters[:] = kept


def test_quiet_reaches_deepspeed_whose_handler_comes_later():
    kept = list(warnings.filters)
    module.quiet()
    warnings.filters[:] = kept
    stream, logger = io.StringIO(), logging.getLogger("DeepSpeed")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    logger.warning("Setting accelerator to CPU. If you have GPU or other accelerator, we were unable to detect it.")
    logger.warning("the optimizer state does not fit")
    logger.removeHandler(handler)
    assert stream.getvalue() == "the optimizer state does not fit\n"


def results():
    def interval(value):
        return {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 500}

    return {
        "systems": {
            "base": {"order_exact": interval(0.528), "extra_sentences": interval(1.5)},
            "dpo": {"order_exact": interval(0.914), "extra_sentences": interval(0.02)},
        },
        "differences": {"dpo": {"base": {"order_exact": {"value": 0.386, "low": 0.34, "high": 0.43, "n": 500}}}},
    }


def test_last_screen_shows_before_after_and_three_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/dpo_caption/final").mkdir(parents=True)
    console = plain()
    last_screen(results(), Path("runs/dpo_caption"), console=console)
    text = said(console)
    for expected in ("52.8", "91.4", "+38.6 ✓", "+34.0 to +43.0", "1.50", "0.02"):
        assert expected in text
    commands = [line for line in text.splitlines() if "runs/dpo_caption" in line or "accelerate launch" in line]
    assert len(commands) == 3 and "rlkit report runs/dpo_caption --open" in commands[0]


def test_last_screen_of_a_run_with_one_system_has_commands_only():
    console = plain()
    last_screen({"systems": {"base": {}}}, Path("runs/x"), console=console)
    assert "rlkit report runs/x" in said(console)


def test_last_screen_of_a_generator_says_what_its_guard_saw():
    console = plain()
    alarms = {"gap": {"step": 10, "value": 0.3}}
    last_screen({"guard": {"measured": 4, "alarms": alarms, "best": None}}, Path("runs/x"), console=console)
    assert "1 alarm (gap at step 10); training went on" in said(console)


def test_last_screen_of_a_reward_asks_whether_it_can_be_trusted(tmp_path):
    (tmp_path / "final").mkdir()
    (tmp_path / "final/reward.json").write_text('{"reward": "consistency"}')
    console = plain()
    last_screen({"systems": {}}, tmp_path, console=console)
    assert f"rlkit reward check {tmp_path}/final --kind text" in said(console)
    assert "dpo_caption_folder" not in said(console)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("model_index.json", 'DiffusionPipeline.from_pretrained("'),
        ("pytorch_lora_weights.safetensors", 'pipe.load_lora_weights("'),
    ],
)
def test_last_screen_of_a_generator_says_how_diffusers_loads_it(tmp_path, file, expected):
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / file).write_text("")
    console = plain()
    last_screen({**results(), "measured_on": "held-out prompts"}, tmp_path, console=console)
    assert f'{expected}{tmp_path}/final")' in said(console)
    assert "held-out prompts" in said(console) and "clips" not in said(console)


def test_a_model_is_offered_to_share_where_there_is_one(tmp_path):
    assert [text for text, _ in module.next_commands(tmp_path)] == ["look at it"]
    (tmp_path / "final").mkdir()
    assert module.next_commands(tmp_path)[-1] == (
        "share it",
        f"hf upload YOUR_NAME/{tmp_path.name} {tmp_path / 'final'} --private",
    )
