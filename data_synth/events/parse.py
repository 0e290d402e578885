"""From a string to a `Caption`: finds the language, picks the parser, and accepts events that the caller knows."""

import re
from functools import lru_cache

from data_synth.events import en, zh
from data_synth.events.types import BEFORE, Caption, Event, Relation

_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-z]{2,}")


def detect_language(text: str) -> str:
    """ "zh" when Chinese characters are at least as many as Latin words, else "en"."""
    if text.isascii():
        return "en"
    han = len(_HAN.findall(text))
    return "zh" if han and han >= len(_LATIN.findall(text)) else "en"


@lru_cache(maxsize=512)
def parse(text: str, language: str | None = None, parser: str = "rules") -> Caption:
    """Parse a caption into events and relations.

    `parser`: "rules" (fast, always there), "spacy" (English; falls back to rules where spaCy or its model is missing;
    `Caption.parser` says which was used) or "jieba" (Chinese word segmentation for the verbs).
    """
    language = language or detect_language(text)
    if language == "zh":
        return zh.parse(text, use_jieba=parser == "jieba")
    return en.parse(text, use_spacy=parser == "spacy")


def with_events(text: str, spans: list[tuple[int, int]], language: str | None = None) -> Caption:
    """A caption whose events the caller knows: `spans` in the order of the text, each before the next in time.

    The spans hold the events alone, without connectives ("Then") and closing punctuation; a span that reaches over
    them is trimmed.
    """
    language = language or detect_language(text)
    grammar = zh if language == "zh" else en
    sentences = grammar.split_sentences(text)
    events = []
    for start, end in spans:
        start, end = grammar.trim(text, start, end)
        sentence = next((i for i, (s, e) in enumerate(sentences) if s <= start < e), 0)
        verb, subject, predicate = grammar.clause_parts(text, start, end)
        events.append(Event(start, end, text[start:end], verb, subject, predicate, sentence))
    relations = tuple(Relation(i, i + 1, BEFORE, "given") for i in range(len(events) - 1))
    return Caption(text, language, tuple(sentences), tuple(events), relations, "given")
