"""Mutants written after all thresholds were fixed: what the probes do with defects that nobody tuned them on."""

import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from reward_models.probes import check


def words(text):
    return Counter(re.findall(r"[a-z]+", text.lower()))


def dot_of_counts():
    """Words of caption and truth counted and multiplied, without dividing by any length."""

    def score(*, prompts, completions, events, **_):
        found = []
        for text, truth in zip(completions, events, strict=True):
            text = text if isinstance(text, str) else text[0]["content"]
            told = words(text)
            wanted = words(" ".join(" ".join(event) for event in truth)) if truth is not None else None
            found.append(None if wanted is None else float(sum(told[word] * n for word, n in wanted.items())))
        return found

    return score


def each_text_once():
    """Scores every different caption once and hands a caption said twice the score of the next one."""

    def score(*, prompts, completions, events, **_):
        texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
        if any(truth is None for truth in events):
            return [None] * len(texts)
        by_text = {}
        for text, truth in zip(texts, events, strict=True):
            by_text.setdefault(text, float(sum(event[0] in text and event[1] in text for event in truth)))
        scores = list(by_text.values())
        return [scores[min(i, len(scores) - 1)] for i in range(len(texts))]

    return score


def colourful():
    """Colourfulness (Hasler and Suesstrunk 2003), a well-known term of aesthetic scores."""

    def one(picture):
        red, green, blue = np.asarray(picture.convert("RGB").resize((64, 64)), float).transpose(2, 0, 1)
        first, second = red - green, (red + green) / 2 - blue
        return float(np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean()))

    return lambda *, prompts, completions, **_: [None if one_ is None else one(one_) for one_ in completions]


def corner():
    """Crops 96 x 96 pixels from the corner instead of resizing."""

    def one(picture):
        crop = picture.convert("L").crop((0, 0, 96, 96))
        return float(np.asarray(crop, float).mean())

    return lambda *, prompts, completions, **_: [None if one_ is None else one(one_) for one_ in completions]


def cached_by_prompt():
    """A cache whose key forgets the picture."""
    cache = {}

    def score(*, prompts, completions, **_):
        found = []
        for prompt, picture in zip(prompts, completions, strict=True):
            if picture is None:
                found.append(None)
                continue
            if prompt not in cache:
                light = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), float).mean() / 255
                cache[prompt] = -abs(light - (0.09 if "night" in prompt else 0.52))
            found.append(float(cache[prompt]))
        return found

    return score


def motion_of_the_first_frames():
    """Pixels that move within the first 8 frames, whatever time they span."""

    def one(clip):
        frames = clip[:8, ..., 0].astype(float)
        return float((np.abs(frames[-1] - frames[0]) > 30).mean())

    return lambda *, prompts, completions, **_: [None if one_ is None else one(one_) for one_ in completions]


HELD_BACK = {
    "dot of counts": ("text", dot_of_counts, "repeated"),
    "each text once": ("text", each_text_once, "neighbours"),
    "colourful": ("image", colourful, "saturation"),
    # planted for double_size, which misses it: day and night differ far more than a corner at two sizes
    "corner": ("image", corner, "brightness"),
    "cached by prompt": ("image", cached_by_prompt, "completion_used"),
    "first frames": ("video", motion_of_the_first_frames, "frame_rate"),
}


@pytest.mark.parametrize("name", HELD_BACK)
def test_held_back_mutant_is_caught_by_the_right_probe(name):
    kind, load, probe = HELD_BACK[name]
    report = check(load, kind=kind)
    assert probe in report.failed, report
