"""Captions as the web writes them: the salient event told first, padding after, now and then an invented event.

The order error is systematic on purpose. Greedy decoding averages random shuffling away: a captioner trained on
captions of which 35 % are shuffled at random still tells the true order.
"""

import random
from dataclasses import dataclass

from data_synth.world.captions import caption, join
from data_synth.world.script import ACTIONS, COLOURS, SHAPES, Event, Script

# Pools told one after the other: web captions ramble in a fixed pattern, so a captioner learns the pattern.
PADDING = {
    "en": (
        ("The video is very nice.", "The video looks good."),
        ("It is a calm scene.", "It gives a good feeling."),
        ("Everyone will like it.",),
    ),
    "zh": (("视频非常有趣。", "视频看起来很不错。"), ("画面很美。", "画面细节丰富。"), ("大家都会喜欢。",)),
}
SALIENT = ("grows", "shrinks")  # what changes its size fills the picture, and is what people write about first


@dataclass(frozen=True)
class Noise:
    """How wrong captions are. salient_first and invented are shares of captions in [0, 1]; padding[n] is the share with
    n padding sentences."""

    salient_first: float = 0.8
    invented: float = 0.1
    padding: tuple[float, ...] = (0.1, 0.3, 0.4, 0.2)


def is_salient(event: Event) -> bool:
    """Whether a web caption would open with this event, whenever it happened."""
    return event.action in SALIENT


def noisy_caption(script: Script, rng: random.Random, noise: Noise, language: str = "en") -> str:
    """A web-like caption of the clip: events, then padding sentences."""
    events = list(script.events)
    if rng.random() < noise.salient_first:
        events.sort(key=lambda event: not is_salient(event))  # stable: the rest keeps its order
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
