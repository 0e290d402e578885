"""What happens in a clip: a script of events in order with their times, drawn from a seed.

Scripts are split by the hash of their event sequence, so a held-out clip never shares its script with a training
clip, whatever the seeds.
"""

import hashlib
import random
from dataclasses import dataclass
from typing import NamedTuple

COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("ball", "ring", "bar", "pole")
ACTIONS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks", "shakes", "blinks")
CAMERA = ("zooms in", "zooms out", "pans left", "pans right")
BACKGROUNDS = ("grey", "brown", "teal", "pink")
SHOTS = ("close-up", "medium shot", "wide shot")
SPLITS = ("train", "dev", "test")


class Event(NamedTuple):
    """One thing that happens: `actor` ("red ball" or "camera") and `action` ("moves left"). Hashable."""

    actor: str
    action: str


@dataclass(frozen=True)
class Script:
    """The truth of one clip.

    events: what happens, in order. spans: (start, end) of each event in seconds. The rest is what the clip looks like:
    background colour, shot scale, `marks` small dots on the ground, and a sign of shape `sign` in the corner.
    """

    events: tuple[Event, ...]
    spans: tuple[tuple[float, float], ...]
    background: str
    shot: str
    marks: int
    sign: str

    @property
    def duration(self) -> float:
        """Length of the clip in seconds."""
        return self.spans[-1][1]


def split_of(events: tuple[Event, ...]) -> str:
    """The split that owns this event sequence: 80 % train, 10 % dev, 10 % test, by a hash that no seed changes."""
    key = "|".join(f"{event.actor} {event.action}" for event in events)
    bucket = hashlib.sha256(key.encode()).digest()[0] % 10
    return "test" if bucket == 0 else "dev" if bucket == 1 else "train"


def draw_script(seed: int, index: int, *, split: str = "train", num_events: tuple[int, int] = (3, 3)) -> Script:
    """Clip number `index` of a seed. Pure: the same arguments give the same script on every machine.

    num_events is the inclusive range of the number of events. Actors and actions within a clip are all different, so
    that swapping two events always changes the meaning. Raises ValueError for an unknown split or an empty range.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    if not 1 <= num_events[0] <= num_events[1] <= 6:
        raise ValueError(f"num_events {num_events}: expected 1 <= least <= most <= 6")
    rng = random.Random(f"{seed}/{split}/{index}")
    while True:
        events = _draw_events(rng, rng.randint(*num_events))
        if split_of(events) == split:
            break
    spans, start = [], 0.0
    for _ in events:
        # half seconds: at 4 frames a second, the two frames of a temporal patch show one event
        end = start + rng.choice((1.0, 1.0, 1.5))
        spans.append((start, end))
        start = end
    return Script(
        events,
        tuple(spans),
        background=rng.choice(BACKGROUNDS),
        shot=rng.choice(SHOTS),
        marks=rng.randint(1, 4),
        sign=rng.choice(SHAPES),
    )


def _draw_events(rng: random.Random, count: int) -> tuple[Event, ...]:
    """Events with different actors and different actions; one clip in four has a camera movement among them."""
    actors = rng.sample([f"{colour} {shape}" for colour in COLOURS for shape in SHAPES], count)
    events = [Event(actor, action) for actor, action in zip(actors, rng.sample(ACTIONS, count), strict=True)]
    if count > 1 and rng.random() < 0.25:
        events[rng.randrange(count)] = Event("camera", rng.choice(CAMERA))
    return tuple(events)
