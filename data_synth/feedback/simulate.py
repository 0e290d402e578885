"""A log with planted truth: qualities, position bias, a policy with known propensities, late conversions, inversions.

Items come in pairs of one prompt, one of them better by a known factor. Where a pair is `inverted`, the logging policy
puts the worse one nearer the top and shows it to viewers who click a lot, so that its raw click rate looks better. In
some prompts the better item of the first pair is bait: it is clicked and keeps viewers going, and is reported.

    log = simulate(World(sessions=2_000), seed=0)
    log.table()       # what a user's file holds
    log.value         # Float[prompts, items]: click probability at the first place, over the viewers of the log
"""

from dataclasses import dataclass
from itertools import permutations
from math import gamma

import numpy as np
import pyarrow as pa

from data_synth.feedback.schema import Log


@dataclass(frozen=True)
class World:
    """What is planted."""

    prompts: int = 20
    items: int = 6
    """Per prompt; even, since items come in pairs."""
    sessions: int = 24_000
    rounds: int = 6
    """Most pages of a session."""
    examination: tuple[float, ...] = (1.0, 0.55, 0.35, 0.2)
    """Of each place."""
    quality: tuple[float, float] = (0.12, 0.35)
    """Range of the better item's click probability when looked at; the mean over viewers."""
    gap: tuple[float, float] = (1.4, 2.0)
    """Range of better / worse."""
    inverted: float = 0.5
    """Share of the pairs whose worse item the policy favours."""
    push: float = 1.8
    """How much the favoured item of a pair is favoured, as a difference of log-odds; 0 is a uniform policy."""
    eager: tuple[float, ...] = (0.5, 1.5)
    """Click factor of each kind of viewer (`context`), equally frequent."""
    mood: float = 0.5
    """A session's own click factor is 1 - mood or 1 + mood: its rows are not independent."""
    bait: float = 0.3
    """Share of the prompts with a bait."""
    stay: float = 0.7
    """Probability to go on after a page without a click; 1 lets every session have all its rounds."""
    conversion: tuple[float, float] = (0.1, 0.3)
    """Range of P(conversion | click)."""
    mean_delay: float = 86_400.0
    """Seconds."""
    delay_shape: float = 1.0
    """Weibull's; 1 is exponential."""
    duration: float = 7 * 86_400.0
    """Seconds that the log covers."""


@dataclass(frozen=True)
class Simulation:
    """The log, [rows], and what was planted, [prompts, items]."""

    world: World
    prompt: np.ndarray
    item: np.ndarray
    """Number within its prompt."""
    position: np.ndarray
    propensity: np.ndarray
    context: np.ndarray
    session: np.ndarray
    time: np.ndarray
    click: np.ndarray
    conversion: np.ndarray
    conversion_delay: np.ndarray
    reported: np.ndarray
    """NaN where there was no click."""
    value: np.ndarray
    conversion_rate: np.ndarray
    """P(conversion | click)."""
    bait: np.ndarray
    label: np.ndarray
    """Number in the item's text; says nothing of its quality, as `item` does."""
    inverted: np.ndarray
    """Bool[prompts, items / 2]: pairs (2 j better, 2 j + 1 worse) whose worse item was favoured."""

    def inversions(self) -> list[tuple[int, int, int]]:
        """(prompt, better item, worse item) of every planted inversion."""
        return [(int(p), int(2 * j), int(2 * j + 1)) for p, j in np.argwhere(self.inverted)]

    def names(self) -> dict[str, list[str]]:
        """The texts of prompts, items (all of prompt 0 first) and completions."""
        prompts, items = range(self.world.prompts), range(self.world.items)
        return {
            "prompt": [f"Write a line about topic {p}." for p in prompts],
            "item": [f"item {p}-{i}" for p in prompts for i in items],
            "completion": [f"Copy {self.label[p, i]} for topic {p}." for p in prompts for i in items],
        }

    def table(self) -> pa.Table:
        """The log as a user would have it."""
        number = self.prompt * self.world.items + self.item
        codes = {"prompt": self.prompt, "item": number, "completion": number, "context": self.context}
        names = self.names() | {"context": [f"viewers {x}" for x in range(len(self.world.eager))]}
        texts = {
            name: pa.DictionaryArray.from_arrays(pa.array(rows, pa.int32()), names[name])
            for name, rows in codes.items()
        }
        numbers = {
            "session": pa.array([f"s{s}" for s in self.session]),
            "position": self.position,
            "propensity": self.propensity,
            "click": self.click.astype(np.int8),
            "conversion": self.conversion.astype(np.int8),
            "time": self.time,
        }
        gaps = {name: pa.array(getattr(self, name), from_pandas=True) for name in ("conversion_delay", "reported")}
        return pa.table(texts | numbers | gaps)

    def log(self) -> Log:
        """The same, without a file in between."""
        names = self.names()
        return Log(
            prompts=names["prompt"],
            items=names["item"],
            completions=names["completion"],
            prompt=self.prompt,
            item=self.prompt * self.world.items + self.item,
            click=self.click,
            position=self.position,
            context=self.context,
            session=self.session,
            propensity=self.propensity,
            conversion=self.conversion,
            conversion_delay=self.conversion_delay,
            time=self.time,
            elapsed=self.world.duration - self.time,
            extra={"reported": self.reported},
        )


def simulate(world: World, seed: int = 0) -> Simulation:
    """Draw a log; the same world and seed give the same log."""
    rng = np.random.default_rng(seed)
    quality, bait, inverted, score = _plant(world, rng)
    hold = np.where(bait, 0.95, rng.uniform(0.5, 0.8, quality.shape))
    report = np.where(bait, 0.2, 0.02)
    conversion_rate = rng.uniform(*world.conversion, quality.shape)
    orders, chances, marginal = _policy(world, score)
    sessions = np.arange(world.sessions)
    context = rng.integers(len(world.eager), size=world.sessions)
    mood = rng.choice([1 - world.mood, 1 + world.mood], world.sessions)
    start = rng.uniform(0, world.duration, world.sessions)
    pages = []
    for number in range(world.rounds):
        prompt = rng.integers(world.prompts, size=len(sessions))
        cumulative = chances.cumsum(-1)[prompt, context[sessions]]
        drawn = (rng.random(len(sessions))[:, None] * cumulative[:, -1:] > cumulative).sum(1)
        shown = orders[drawn]  # [sessions, places]
        look = np.asarray(world.examination) * (np.asarray(world.eager)[context[sessions]] * mood[sessions])[:, None]
        click = rng.random(shown.shape) < look * quality[prompt[:, None], shown]
        pages.append((sessions, prompt, shown, click, start[sessions] + 60.0 * number))
        clicks = click.sum(1)
        kept = np.where(click, hold[prompt[:, None], shown], 0).sum(1) / np.maximum(clicks, 1)
        chance = np.where((clicks > 0) & (world.stay < 1), kept, world.stay)
        sessions = sessions[rng.random(len(sessions)) < chance]
    label = np.random.default_rng([seed, 1]).permuted(np.tile(np.arange(world.items), (world.prompts, 1)), axis=1)
    return _rows(world, rng, pages, context, quality, conversion_rate, report, marginal, bait, label, inverted)


def _plant(world: World, rng: np.random.Generator):
    """(quality, bait, inverted, score [prompts, viewers, items])."""
    shape, pairs = (world.prompts, world.items), (world.prompts, world.items // 2)
    quality = np.empty(shape)
    quality[:, ::2] = rng.uniform(*world.quality, pairs)
    quality[:, 1::2] = quality[:, ::2] / rng.uniform(*world.gap, pairs)
    bait = np.zeros(shape, bool)
    bait[:, 0] = rng.random(world.prompts) < world.bait
    inverted = rng.random(pairs) < world.inverted
    inverted[:, 0] &= ~bait[:, 0]
    favour = np.where(inverted, -1.0, 1.0)[:, None, :] * world.push / 2
    eager = np.linspace(0.5, 1.5, len(world.eager))[None, :, None]  # viewers who click a lot get more of it
    score = np.empty((world.prompts, len(world.eager), world.items))
    score[:, :, ::2], score[:, :, 1::2] = favour * eager, -favour * eager
    return quality, bait, inverted, score


def _policy(world: World, score: np.ndarray):
    """(orders [n, places], chances [prompts, viewers, n], propensity [prompts, viewers, items, places]).

    Pages are drawn by Plackett and Luce's model of the scores; all orders are listed, so propensities are exact.
    """
    places = len(world.examination)
    orders = np.array(list(permutations(range(world.items), places)))
    odds = np.exp(score)
    chances, left = np.ones((*score.shape[:2], len(orders))), odds.sum(-1, keepdims=True)
    for place in range(places):
        chosen = odds[:, :, orders[:, place]]
        chances, left = chances * chosen / left, left - chosen
    marginal = np.zeros((*score.shape, places))
    for place in range(places):
        for item in range(world.items):
            marginal[:, :, item, place] = chances[:, :, orders[:, place] == item].sum(-1)
    return orders, chances, marginal


def _rows(world, rng, pages, context, quality, conversion_rate, report, marginal, bait, label, inverted) -> Simulation:
    places = len(world.examination)
    session = np.concatenate([np.repeat(sessions, places) for sessions, *_ in pages])
    prompt = np.concatenate([np.repeat(prompt, places) for _, prompt, *_ in pages])
    item = np.concatenate([shown.reshape(-1) for _, _, shown, *_ in pages])
    click = np.concatenate([click.reshape(-1) for *_, click, _ in pages]).astype(float)
    time = np.concatenate([np.repeat(time, places) for *_, time in pages])
    position = np.concatenate([np.tile(np.arange(places), len(sessions)) for sessions, *_ in pages])
    kept = time <= world.duration  # what comes later is not in the log yet
    session, prompt, item, click, time, position = (x[kept] for x in (session, prompt, item, click, time, position))
    rows, viewer = len(time), context[session]
    will = (click == 1) & (rng.random(rows) < conversion_rate[prompt, item])
    scale = world.mean_delay / gamma(1 + 1 / world.delay_shape)
    delay = scale * rng.weibull(world.delay_shape, rows)
    conversion = will & (time + delay <= world.duration)
    reported = np.where(click == 1, rng.random(rows) < report[prompt, item], np.nan)
    # over the decisions of each prompt, since eager viewers stay longer
    eager = np.bincount(prompt, np.asarray(world.eager)[viewer], world.prompts) / np.maximum(
        np.bincount(prompt, minlength=world.prompts), 1
    )
    return Simulation(
        world=world,
        prompt=prompt,
        item=item,
        position=position + 1,
        propensity=marginal[prompt, viewer, item, position],
        context=viewer,
        session=session,
        time=time,
        click=click,
        conversion=conversion.astype(float),
        conversion_delay=np.where(conversion, delay, np.nan),
        reported=reported,
        value=quality * (np.mean(world.eager) if world.stay == 1 else eager[:, None]),
        conversion_rate=conversion_rate,
        bait=bait,
        label=label,
        inverted=inverted,
    )
