"""Does a score stay when nothing that matters changed? Batch, order, precision, JPEG, size, fps, padding, wording.

A change is given in spreads (bench.py). Noise of s spreads turns arctan(s) / pi of the pairs of normal scores: mean
changes of 0.1, 0.25, 0.5 and 1 turn 4, 10, 18 and 29 in 100.
"""

import io
import re
from collections.abc import Callable

import numpy as np
from PIL import Image

from reward_models.completions import text_of
from reward_models.probes.bench import SAME, Bench, differences
from reward_models.probes.caption_hacks import chinese, filler, words_of
from reward_models.probes.conformance import NEIGHBOUR
from reward_models.probes.items import Items
from reward_models.probes.report import Finding, ProbeError, at_most, not_applicable

PRECISION = 0.25
"""Mean change by bfloat16: a logit near 25 has steps of 0.125 there, up to a tenth of a spread each."""
RECODED = 0.25
"""Mean change by JPEG of quality 90, which people do not see on a photo."""
DOUBLED = 0.5
"""Mean change at twice the size: the same picture with no detail added or lost."""
HALVED = 1.0
"""Mean change at half the size, where detail is really lost and a judge of sharpness may say so."""
RATE = 0.5
"""Mean change with every second frame and half the frames per second: the same seconds of the same scene."""
WORDING = 0.5
"""Mean change by one synonym."""
TYPOGRAPHY = 0.25
"""Mean change by lower case and the last full stop."""
LONG = 80
"""Words in front of a caption in the test of truncation: more than the 77 tokens of CLIP's text tower."""

SYNONYMS = {
    "moves": "travels", "grows": "enlarges", "shrinks": "contracts", "walks": "strolls", "walking": "strolling",
    "runs": "races", "running": "racing", "picture": "image", "photo": "photograph", "big": "large", "small": "little",
    "quickly": "rapidly", "slowly": "unhurriedly", "begins": "starts", "starts": "begins", "shows": "displays",
    "sitting": "seated", "near": "close to", "beside": "next to", "street": "road", "road": "street", "man": "guy",
    "woman": "lady", "child": "kid", "then": "next", "finally": "lastly",
}  # fmt: skip


def batch_size(bench: Bench) -> Finding:
    """Each item alone against all in one batch."""
    alone = np.array([bench(bench.items.rows([i]))[0] for i in range(len(bench.items))])
    return at_most(
        float(np.max(differences(bench.base, alone, bench.spread), initial=0.0)),
        NEIGHBOUR,
        "An item has the same score alone and in a batch.",
        "An item's score depends on the batch: statistics over the batch, padding that is not masked, or BatchNorm in "
        "training mode.",
    )


def permutation(bench: Bench) -> Finding:
    """The batch in another order."""
    order = np.random.default_rng(0).permutation(len(bench.items))
    found = np.empty(len(order))
    found[order] = bench(bench.items.rows(order.tolist()))
    return at_most(
        float(np.max(differences(bench.base, found, bench.spread), initial=0.0)),
        NEIGHBOUR,
        "Scores follow their items when the batch is reordered.",
        "Scores depend on the place in the batch: results that come back in another order, or a column read by number.",
    )


def neighbours(bench: Bench) -> Finding:
    """Every second item is replaced by the first one; the others keep their scores."""
    places = [i if i % 2 else 0 for i in range(len(bench.items))]
    kept = [i for i in range(len(places)) if places[i] == i]
    found = bench(bench.items.rows(places))[kept]
    return at_most(
        float(np.max(differences(bench.base[kept], found, bench.spread), initial=0.0)),
        NEIGHBOUR,
        "A score does not depend on the other items of the batch.",
        "A score depends on what else is in the batch (ranks, z-scores, duplicates removed): score items one by one "
        "and let the trainer compare them.",
    )


def dtype(bench: Bench) -> Finding:
    """float32 against bfloat16, where `load` takes `dtype`."""
    try:
        half = bench.reloaded(dtype="bfloat16")
    except TypeError as error:
        if "'dtype'" not in str(error):
            raise ProbeError(f"loading with dtype='bfloat16' raised {error}") from error
        return not_applicable("load takes no dtype.")
    return at_most(
        float(np.mean(bench.moved(bench.items, half))),
        PRECISION,
        "bfloat16 gives nearly the same scores.",
        "bfloat16 changes the scores: keep the head, the normalisation and the similarity in float32.",
    )


def jpeg(bench: Bench) -> Finding:
    """Pictures saved as JPEG of quality 90."""

    def saved(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=90)
        return Image.open(io.BytesIO(file.getvalue())).convert("RGB")

    return _pictures(
        bench,
        lambda: bench.items.map_pictures(saved),
        RECODED,
        "JPEG of quality 90 hardly matters.",
        "JPEG of quality 90 changes the scores: the reward reads pixel noise, and a policy would learn it. Send PNG, "
        "and train on recompressed pictures.",
    )


def double_size(bench: Bench) -> Finding:
    """Pictures at twice the size."""
    return _pictures(
        bench,
        lambda: bench.items.map_pictures(lambda picture: _scaled(picture, 2.0)),
        DOUBLED,
        "Twice the size has nearly the same score.",
        "Twice the size changes the score: it counts pixels (sums, widths in pixels). Resize to one size first.",
    )


def half_size(bench: Bench) -> Finding:
    """Pictures at half the size."""
    return _pictures(
        bench,
        lambda: bench.items.map_pictures(lambda picture: _scaled(picture, 0.5)),
        HALVED,
        "Half the size has nearly the same score.",
        "Half the size changes the score by more than a spread: it counts pixels. Resize to one size first.",
    )


def frame_rate(bench: Bench) -> Finding:
    """Every second frame, and half the frames per second."""
    clips = bench.items.completions if bench.items.kind == "video" else bench.items.columns.get("videos")
    rates = bench.items.columns.get("fps")
    if bench.items.kind == "image" or not clips or not rates:
        return not_applicable("there are no clips with their frames per second (column fps).")

    def halved() -> Items:
        fewer = bench.items.map_media(lambda media: media if isinstance(media, Image.Image) else media[::2])
        return fewer.with_columns(fps=[None if rate is None else rate / 2 for rate in rates])

    return _pictures(
        bench,
        halved,
        RATE,
        "Every second frame, with fps told, has nearly the same score.",
        "Every second frame changes the score although fps is told: it counts per frame. Count per second, by `fps`.",
    )


def padding(bench: Bench) -> Finding:
    """One neighbour gets a text of 300 words; the others keep their scores."""
    rows = bench.items
    long = " ".join(["word"] * 300)
    if rows.kind == "text":
        mixed = rows.with_completions([long, *rows.completions[1:]])
    elif isinstance(rows.prompts[0], str):
        mixed = Items(rows.kind, [f"{rows.prompts[0]} {long}", *rows.prompts[1:]], rows.completions, rows.columns)
    else:
        return not_applicable("prompts are messages.")
    return at_most(
        float(np.max(differences(bench.base[1:], bench(mixed)[1:], bench.spread), initial=0.0)),
        NEIGHBOUR,
        "A long neighbour does not matter: padding is masked.",
        "A long neighbour changes the scores of the others: padding is read as text. Pass the attention mask, and read "
        "the last real token (padding_side).",
    )


def truncation(bench: Bench) -> Finding:
    """Captions that differ at their end, behind LONG words: does the reward still see it?"""
    texts = [text_of(one) for one in bench.items.completions]
    front = " ".join(filler(texts[0]) * 20)
    front = front[: 2 * LONG] if chinese(front) else " ".join(front.split()[:LONG])
    ends = [words_of(text) for text in texts]
    other = ends[len(ends) // 2 :] + ends[: len(ends) // 2]

    def read(prefix: str) -> float:
        first = bench(bench.items.map_texts(lambda text: f"{prefix}{text}"))
        replaced = iter(other)
        second = bench(bench.items.map_texts(lambda _: f"{prefix}{' '.join(next(replaced))}"))
        return float(np.mean(np.abs(first - second) > SAME * bench.spread))

    near, far = read(""), read(f"{front} ")
    if not near:
        return not_applicable("another caption has the same score even when it is short.")
    return Finding(
        "pass" if far else "fail",
        "Reads to the end of a long caption."
        if far
        else f"Behind {LONG} words another ending changes no score: the text is cut. Raise max_length, or score long "
        "captions sentence by sentence.",
        far,
        "at least",
        1 / len(texts),
        {"short": near},
    )


def typography(bench: Bench) -> Finding:
    """Captions in lower case, without their last full stop."""
    return _wording(
        bench,
        lambda text: re.sub(r"[.。]\s*$", "", text.lower()),
        TYPOGRAPHY,
        "Case and the last full stop hardly matter.",
        "Lower case and a missing full stop change the score: normalise the text before you compare or parse it.",
    )


def synonyms(bench: Bench) -> Finding:
    """One word of each caption replaced by a synonym."""
    return _wording(
        bench,
        one_synonym,
        WORDING,
        "One synonym hardly matters.",
        "One synonym changes the score by half a spread: it compares words, so a policy would learn its vocabulary. "
        "Compare meanings, or map synonyms to one word.",
    )


def one_synonym(text: str) -> str:
    """The first word that has a synonym in SYNONYMS replaced, with its capital."""
    for match in re.finditer(r"[A-Za-z]+", text):
        other = SYNONYMS.get(match.group().lower())
        if other is not None:
            other = other.capitalize() if match.group()[0].isupper() else other
            return text[: match.start()] + other + text[match.end() :]
    return text


def _wording(bench: Bench, change: Callable[[str], str], limit: float, good: str, bad: str) -> Finding:
    changed = bench.items.map_texts(change)
    touched = [
        i
        for i, (one, other) in enumerate(zip(bench.items.completions, changed.completions, strict=True))
        if one != other
    ]
    if len(touched) < 4:
        return not_applicable(f"only {len(touched)} captions have such a word.")
    moved = differences(bench.base[touched], bench(changed)[touched], bench.spread)
    return at_most(float(np.mean(moved)) if len(moved) else 0.0, limit, good, bad)


def _pictures(bench: Bench, changed: Callable[[], Items], limit: float, good: str, bad: str) -> Finding:
    if not bench.reads_media:
        return not_applicable("the reward does not look at the clips or pictures.")
    moved = bench.moved(changed())
    if not len(moved):
        raise ProbeError("no item has a score.")
    return at_most(float(np.mean(moved)), limit, good, bad, largest=float(np.max(moved)))


def _scaled(picture: Image.Image, factor: float) -> Image.Image:
    size = [max(1, round(length * factor)) for length in picture.size]
    return picture.resize(size, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX)
