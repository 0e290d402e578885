"""What a parsed caption says about the order of two events; the round trip of every swap."""

import re
from functools import lru_cache

from data_synth.events.en_tokens import plain_words
from data_synth.events.mentions_zh import subject
from data_synth.events.types import AFTER, BEFORE, SIMULTANEOUS, UNKNOWN, Caption

_COUNTED = re.compile(r"[一二两三几那这][个只条块把张本杯瓶根颗件辆份片盆盘碗袋盒束朵台支枚][\u3400-\u9fff]{1,2}")
_STOP = set(
    """a an the this that these those his her its their he she it they we him them is are was were be been being to
    of in on at with
    and then next finally after before while as one another first later so from by for into onto two some again own
    it's , .""".split()
)


@lru_cache(maxsize=4096)
def content_words(text: str, language: str) -> frozenset[str]:
    """Stems of the content words (English) or the character bigrams (Chinese): what identifies an event after an
    edit."""
    if language == "zh":
        who = subject(text)
        body = _COUNTED.sub("", text[len(who) :]) or text  # who and what may have been traded for 他 and 它
        body = re.sub(r"[^\u3400-\u9fff]|[了着过地的得他她它们个只把完先再就又便]|开始", "", body)
        return frozenset(body[i : i + 2] for i in range(max(len(body) - 1, 1))) if body else frozenset()
    plain = plain_words(text)
    found = re.findall(r"[a-z]+(?:['-][a-z]+)*|\d+", text.lower()) if plain is None else plain
    return frozenset(map(_stem, set(found) - _STOP))


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    return re.sub(r"(?:ing|ed|es|s|e)$", "", word) if len(word) > 3 else word


def event_words(caption: Caption, index: int) -> frozenset[str]:
    """What identifies event `index` after a swap: the words of its predicate, since a shared subject stays behind."""
    event = caption.events[index]
    if caption.language == "en" and event.predicate is not None:
        said = content_words(caption.text[event.predicate : event.end], "en")
        if said:
            return said
    return content_words(event.text, caption.language)


def overlap(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard overlap of two sets of content words."""
    if not a and not b:
        return 0.0
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def locate(caption: Caption, words: frozenset[str], taken: int | None = None) -> int | None:
    """The event of `caption` that shares most with `words`; None when nothing does."""
    scores = [(overlap(words, event_words(caption, i)), -i) for i in range(len(caption.events)) if i != taken]
    best = max(scores, default=(0.0, 0))
    return -best[1] if best[0] > 0 else None


def order_of(caption: Caption, first: int, second: int) -> str:
    """before | after | simultaneous | unknown: event `first` happens <...> event `second`, as far as the text says."""
    if first > second:
        turned = {BEFORE: AFTER, AFTER: BEFORE}
        kind = order_of(caption, second, first)
        return turned.get(kind, kind)
    across = caption.events[first].sentence != caption.events[second].sentence
    kinds = []
    for i in range(first, second):
        if across and caption.events[i].sentence == caption.events[i + 1].sentence:
            continue  # a marker at a sentence start orders the sentences whole
        kinds.append(caption.relation(i, i + 1).kind)
    for kind in (BEFORE, AFTER):
        other = AFTER if kind == BEFORE else BEFORE
        if kind in kinds and other not in kinds:
            return kind
    return SIMULTANEOUS if kinds and all(k == SIMULTANEOUS for k in kinds) else UNKNOWN


def order_flipped(chosen: Caption, pair: tuple[int, int], rejected: Caption) -> bool:
    """True when `rejected` states the two events of `chosen` in the opposite order: the proof that a swap is wrong."""
    said = order_of(chosen, *pair)
    keys = [event_words(chosen, i) for i in pair]
    shared = keys[0] & keys[1]
    a = locate(rejected, keys[0] - shared or keys[0])
    if a is None:
        return False
    b = locate(rejected, keys[1] - shared or keys[1], taken=a)
    if b is None:
        return False
    now = order_of(rejected, a, b)
    return {said, now} == {BEFORE, AFTER}
