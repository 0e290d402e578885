"""Captions tell the script, and the parser reads them back exactly."""

import random

import pytest

from data_synth.world.captions import caption, parse, probes, true_caption
from data_synth.world.noise import PADDING, Noise, invent, is_salient, noisy_caption
from data_synth.world.script import Event, draw_script

SCRIPTS = [draw_script(2, index, num_events=(1, 4)) for index in range(200)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_true_captions_are_read_back(language):
    for script in SCRIPTS:
        parsed = parse(true_caption(script, language))
        assert parsed.events == script.events
        assert parsed.extra == ()


def test_a_caption_reads_like_this():
    events = (Event("red ball", "moves left"), Event("camera", "zooms in"), Event("blue ring", "grows"))
    assert caption(events) == "A red ball moves left. Then the camera zooms in. Finally a blue ring grows."
    assert caption(events, "zh") == "一个红色的球向左移动。然后镜头推近。最后一个蓝色的圆环变大。"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_padding_is_extra_and_no_event(language):
    script = SCRIPTS[0]
    for pool in PADDING[language]:
        for text in pool:
            parsed = parse(true_caption(script, language) + " " + text)
            assert (parsed.events, len(parsed.extra)) == (script.events, 1)


def test_broken_sentences_are_extra():
    assert parse("A red ball. Moves left. A red ball moves left and grows.").events == ()
    assert parse("").events == ()


def test_noise_tells_salient_events_first_and_keeps_the_rest_in_order():
    loud = Noise(salient_first=1.0, invented=0.0, padding=(1.0,))
    for script in SCRIPTS:
        told = parse(noisy_caption(script, random.Random(0), loud)).events
        salient = [event for event in script.events if is_salient(event)]
        assert list(told) == salient + [event for event in script.events if not is_salient(event)]


def test_no_noise_is_the_true_caption():
    quiet = Noise(salient_first=0.0, invented=0.0, padding=(1.0,))
    assert all(noisy_caption(s, random.Random(1), quiet) == true_caption(s) for s in SCRIPTS)


def test_padding_has_the_shares_asked_for():
    counts = [len(parse(noisy_caption(s, random.Random(i), Noise())).extra) for i, s in enumerate(SCRIPTS * 10)]
    shares = [counts.count(n) / len(counts) for n in range(4)]
    assert shares == pytest.approx([0.1, 0.3, 0.4, 0.2], abs=0.04)  # 4 standard errors of 2,000 draws


def test_an_invented_event_has_an_actor_that_is_not_there():
    for index, script in enumerate(SCRIPTS):
        assert invent(script, random.Random(index)).actor not in {event.actor for event in script.events}


def test_probes_ask_for_what_captions_never_tell():
    for script in SCRIPTS[:20]:
        answers = {skill: answer for skill, _, answer in probes(script)}
        assert set(answers) == {"colour", "count", "shape", "camera", "chinese"}
        assert answers["colour"] == script.background.capitalize() + "."
        assert parse(answers["chinese"]).events == ()
