"""Captions as the web writes them: the salient event told first, padding after, now and then an invented event.

The order error is systematic on purpose. Greedy decoding averages random shuffling away: a captioner trained on
captions of which 35 % are shuffled at random still tells the true order.
"""

import random
from dataclasses import dataclass

from data_synth.world.captions import caption, join
from data_synth.world.script import ACTIONS, CAMERA, COLOURS, SHAPES, Event, Script

# Two pools told one after the other: web captions ramble in a fixed pattern, so a captioner learns the pattern.
PADDING = {
    "en": (
        ("The video is very interesting.", "The video looks quite nice.", "The video was made with care."),
        ("It is a beautiful scene.", "It gives a calm feeling.", "It shows many fine details."),
        ("Everyone will enjoy watching it.", "Everyone can learn from it."),
    ),
    "zh": (("视频非常有趣。", "视频看起来很不错。"), ("画面很美。", "画面细节丰富。"), ("大家都会喜欢。",)),
}


@dataclass(frozen=True)
class Noise:
    """How wrong captions are. salient_first and invented are shares of captions in [0, 1]; padding[n] is the share with
    n padding sentences."""

    salient_first: float = 0.7
    invented: float = 0.1
    padding: tuple[float, ...] = (0.1, 0.3, 0.4, 0.2)


def salience(event: Event) -> tuple[int, int, int]:
    """Sort key, the most salient event first: big changes of size before movement, warm colours before cold."""
    if event.actor == "camera":
        return (len(ACTIONS) + CAMERA.index(event.action), 0, 0)
    colour, shape = event.actor.split()
    order = ("grows", "shakes", "shrinks", "blinks", "moves up", "moves right", "moves left", "moves down")
    return (order.index(event.action), COLOURS.index(colour), SHAPES.index(shape))


def noisy_caption(script: Script, rng: random.Random, noise: Noise, language: str = "en") -> str:
    """A web-like caption of the clip: events, then padding sentences."""
    events = list(script.events)
    if rng.random() < noise.salient_first:
        first = min(events, key=salience)
        events.remove(first)
        events.insert(0, first)
    if rng.random() < noise.invented:
        events.insert(rng.randint(1, len(events)), invent(script, rng))
    count = rng.choices(range(len(noise.padding)), noise.padding)[0]
    padding = [rng.choice(pool) for pool in PADDING[language][:count]]
    return join([caption(events, language), *padding], language)


def invent(script: Script, rng: random.Random) -> Event:
    """An event whose actor is not in the clip."""
    actors = {event.actor for event in script.events}
    absent = [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in actors]
    return Event(rng.choice(absent), rng.choice(ACTIONS))
