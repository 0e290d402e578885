"""Rewards of captions: each planted defect is caught by the probe meant for it, and sane rewards pass.

A mutant is the overlap reward below with one defect.
"""

import functools
import itertools
import random
import re
import time

import numpy as np
import pytest

from reward_models import event_order
from reward_models.probes import check, embedded

STOP = {"a", "the", "then", "finally", "it", "is", "to", "be", "seen", "in", "that", "clip", "next", "lastly"}
STEMS = {"travels": "moves", "enlarges": "grows", "contracts": "shrinks"}


def content(text):
    """Content words, lower case, synonyms mapped to one word."""
    words = re.findall(r"[a-z]+", text.lower())
    return [STEMS.get(word, word) for word in words if word not in STOP]


def text_of(completion):
    return completion if isinstance(completion, str) else completion[0]["content"]


def overlap(text, events):
    """F1 of pairs of neighbouring content words, those told twice counted twice."""
    told, truth = content(text), content(" ".join(f"{actor} {action}" for actor, action in events))
    told, truth = list(itertools.pairwise(told)), list(itertools.pairwise(truth))
    left, hits = list(truth), 0
    for pair in told:
        if pair in left:
            left.remove(pair)
            hits += 1
    return 2 * hits / (len(told) + len(truth)) if told else 0.0


def reward(one):
    """`one(text, row's events)` as a reward that keeps the contract."""

    def load():
        def score(*, prompts, completions, events, **_):
            return [
                None if truth is None else float(one(text_of(text), truth))
                for text, truth in zip(completions, events, strict=True)
            ]

        return score

    return load


sane_overlap = reward(overlap)


def wrapped(change):
    """The overlap reward whose list of scores goes through `change(scores, texts)`."""

    def load():
        inner = sane_overlap()

        def score(*, prompts, completions, **columns):
            scores = inner(prompts=prompts, completions=completions, **columns)
            return change(scores, [text_of(one) for one in completions])

        return score

    return load


def random_head():
    weight = random.Random()
    scale = [weight.gauss(0, 1) for _ in range(3)]
    features = {"red": 0, "ball": 1, "moves": 2}
    return reward(lambda text, _: sum(scale[i] * text.lower().count(word) for word, i in features.items()))()


def batch_normalised(scores, texts):
    known = [one for one in scores if one is not None]
    mean, deviation = np.mean(known), np.std(known) + 1e-4
    return [None if one is None else float((one - mean) / deviation) for one in scores]


def ranks(scores, texts):
    return [
        None if one is None else float(sum(other is not None and other < one for other in scores)) for one in scores
    ]


def by_place(scores, texts):
    return [None if one is None else one + 0.02 * place for place, one in enumerate(scores)]


def padded(scores, texts):
    longest = max(len(text) for text in texts)
    return [None if one is None else one - 0.3 * (1 - len(text) / longest) for one, text in zip(scores, texts)]  # noqa: B905


def noisy(scores, texts):
    return [None if one is None else one + random.gauss(0, 0.05) for one in scores]


def not_a_number(scores, texts):
    return [None if one is None else one if text.strip() else float("nan") for one, text in zip(scores, texts)]  # noqa: B905


def zero_for_failures():
    def score(*, prompts, completions, events, **_):
        found = []
        for text, truth in zip(completions, events, strict=True):
            try:
                found.append(overlap(text_of(text), truth))
            except TypeError:
                found.append(0.0)
        return found

    return score


def raises_on_an_empty_caption(text, events):
    if not text.strip():
        raise ZeroDivisionError("division by zero")
    return overlap(text, events)


def hangs_on_a_long_caption(text, events):
    if len(text.split()) > 1_500:
        time.sleep(3)
    return overlap(text, events)


def changes_its_inputs():
    inner = sane_overlap()

    def score(*, prompts, completions, events, **columns):
        found = inner(prompts=prompts, completions=completions, events=events, **columns)
        for truth in events:
            if truth is not None:
                truth.sort()
        return found

    return score


def running_mean():
    seen = []

    def change(scores, texts):
        seen.extend(one for one in scores if one is not None)
        return [None if one is None else one - float(np.mean(seen)) for one in scores]

    return wrapped(change)()


def positional():
    inner = sane_overlap()
    return lambda prompts, completions, **columns: inner(prompts=prompts, completions=completions, **columns)


def array():
    inner = sane_overlap()
    return lambda **columns: np.array(inner(**columns), dtype=float)


def too_short():
    inner = sane_overlap()
    return lambda **columns: inner(**columns)[:-1]


def recall_only(text, events):
    truth = set(content(" ".join(f"{actor} {action}" for actor, action in events)))
    return len(truth & set(content(text))) / len(truth)


def precision_only(text, events):
    truth = set(content(" ".join(f"{actor} {action}" for actor, action in events)))
    told = content(text)
    return sum(word in truth for word in told[:6]) / 6 - 0.01 * len(told) if told else 0.0


def exact_words(text, events):
    truth = [f"{actor} {action}" for actor, action in events]
    return sum(one in text for one in truth) / len(truth)


def grounded(look):
    """A judge that asks for the clip: None without it. `look(text, clip, events)`."""

    def load():
        def score(*, prompts, completions, videos, events, **_):
            return [
                None if clip is None or truth is None else float(look(text_of(text), clip, truth))
                for text, clip, truth in zip(completions, videos, events, strict=True)
            ]

        return score

    return load


def events_of(text):
    """(events told in order, sentences that tell none): a parser for event_order that knows synonyms."""
    found, extra = [], 0
    for sentence in filter(str.strip, re.split(r"[.。]", text.lower())):
        for word, stem in STEMS.items():
            sentence = sentence.replace(word, stem)
        told = re.findall(r"(\w+ (?:ball|ring|bar)) (moves \w+|grows|shrinks|disappears)", sentence)
        found += told
        extra += not told
    return found, extra


def lenient(text, events):
    """F1 of events times their order; sentences that tell none cost nothing."""
    return event_order.reward([tuple(event) for event in events], *events_of(text), extra_penalty=1.0)


def short_lover(text, events):
    truth = content(" ".join(f"{actor} {action}" for actor, action in events))
    told = content(text)
    return sum(word in truth for word in told) / len(told) - 0.02 * len(text.split()) if told else -1.0


MUTANTS = {
    "random head at every load": (random_head, "loaded"),
    "normalised over the batch": (wrapped(batch_normalised), "batch_size"),
    "ranks within the batch": (wrapped(ranks), "neighbours"),
    "depends on the place": (wrapped(by_place), "permutation"),
    "padding not masked": (wrapped(padded), "padding"),
    "samples": (wrapped(noisy), "deterministic"),
    "keeps a running mean": (running_mean, "stateless"),
    "NaN for empty captions": (wrapped(not_a_number), "finite"),
    "0 for failures": (zero_for_failures, "missing"),
    "raises on one bad item": (reward(raises_on_an_empty_caption), "odd_items"),
    "hangs on one item": (reward(hangs_on_a_long_caption), "deadline"),
    "changes its inputs": (changes_its_inputs, "inputs_unchanged"),
    "positional arguments": (positional, "signature"),
    "returns an array": (array, "answers"),
    "one score too few": (too_short, "answers"),
    "constant": (reward(lambda text, events: 0.5), "varies"),
    "clip and events ignored": (reward(lambda text, _: len(set(content(text))) - 0.1 * len(text)), "prompt_exchanged"),
    "asks for the clip, ignores it": (grounded(lambda text, clip, events: overlap(text, events)), "media_used"),
    "caption ignored": (reward(lambda text, events: float(len(str(events)))), "completion_used"),
    "says yes to everything": (
        reward(lambda text, events: bool(set(content(text)) & set(content(str(events)))) - 0.3 * ("shrinks" in text)),
        "says_yes",
    ),
    "likes length": (reward(lambda text, events: lenient(text, events) + 0.01 * len(text)), "length"),
    "likes length a little": (reward(lambda text, events: lenient(text, events) + 0.0015 * len(text)), "length"),
    "likes repeats": (
        reward(lambda text, events: overlap(text, events) + 0.4 * text.lower().count("finally")),
        "repeated",
    ),
    "recall alone": (reward(recall_only), "keyword_stuffing"),
    "believes praise": (reward(lambda text, events: lenient(text, events) + 0.3 * ("accurate" in text)), "praise"),
    "likes many sentences": (reward(lambda text, events: lenient(text, events) + 0.1 * text.count(". ")), "filled"),
    "likes it short": (reward(short_lover), "half_told"),
    "likes silence": (reward(lambda text, events: overlap(text, events) if text.strip() else 1.0), "empty"),
    "cuts at 40 words": (
        reward(lambda text, events: overlap(" ".join(text.split()[:40]), events)),
        "truncation",
    ),
    "capitals matter": (
        reward(lambda text, events: overlap(text, events) + 0.5 * text[:1].isupper()),
        "typography",
    ),
    "knows no synonyms": (reward(exact_words), "synonyms"),
}
SANE = {
    "event order": functools.partial(event_order.load, parse=events_of),
    "overlap": sane_overlap,
    "events, extra sentences free": reward(lenient),
    "right or wrong": reward(lambda text, events: float(lenient(text, events) == 1.0)),
}
CONDITIONAL = {"clip and events ignored", "says yes to everything"}
"""Mutants that only a declaration can tell from a reward that is meant to read nothing but the completion."""


def report_of(load, name=""):
    return check(
        load, kind="text", conditional=True if name in CONDITIONAL else "auto", deadline_s=0.5 if "hang" in name else 60
    )


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught_by_the_right_probe(name):
    random.seed(0)
    load, probe = MUTANTS[name]
    report = report_of(load, name)
    assert probe in report.failed, report
    assert report.exit_code == 1


@pytest.mark.parametrize("name", SANE)
def test_sane_reward_passes(name):
    report = report_of(SANE[name], name)
    assert report.failed == [], report
    assert report.exit_code == 0


def test_the_embedded_captions_tell_their_events():
    items = embedded("text")
    for text, truth, quality in zip(items.completions, items.columns["events"], items.quality, strict=True):
        told = [list(event) for event in events_of(text)[0]]
        assert (told == truth) == (quality == 1.0), text
